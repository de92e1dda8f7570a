"""Scores of explanations: localisation, faithfulness, sanity checks, artefacts."""
