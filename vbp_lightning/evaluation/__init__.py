"""How good an explanation is: localisation, faithfulness, sanity, artefacts."""
