"""How good an explanation is: localisation, faithfulness, sanity, artefacts."""

from vbp_lightning.evaluation.artefacts import (
    Artefacts,
    artefacts,
    block_ratio,
    border_ratio,
    comb_energy,
    coverage_variation,
)
from vbp_lightning.evaluation.baselines import (
    BASELINES,
    Brightness,
    CentreGaussian,
    Edges,
    RandomNoise,
    Uniform,
)
from vbp_lightning.evaluation.bootstrap import Interval, mean_interval
from vbp_lightning.evaluation.localisation import (
    average_precision,
    best_threshold,
    intersection_over_union,
    pointing_game,
    positive_part,
    rank_accuracy,
    relevance_mass,
)

__all__ = [
    "BASELINES",
    "Artefacts",
    "Brightness",
    "CentreGaussian",
    "Edges",
    "Interval",
    "RandomNoise",
    "Uniform",
    "artefacts",
    "average_precision",
    "best_threshold",
    "block_ratio",
    "border_ratio",
    "comb_energy",
    "coverage_variation",
    "intersection_over_union",
    "mean_interval",
    "pointing_game",
    "positive_part",
    "rank_accuracy",
    "relevance_mass",
]
