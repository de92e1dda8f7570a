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
    Attribution,
    Brightness,
    CentreGaussian,
    Edges,
    RandomNoise,
    Uniform,
)
from vbp_lightning.evaluation.benchmark import (
    EXPONENTS,
    Setting,
    choose_setting,
    cross_fitted_scores,
    localisation_scores,
)
from vbp_lightning.evaluation.bootstrap import Interval, mean_interval
from vbp_lightning.evaluation.faithfulness import (
    ROAD_SHARES,
    ShiftResponse,
    deletion,
    insertion,
    mean_colour,
    pixel_ranks,
    removal_curves,
    road,
    shift_response,
)
from vbp_lightning.evaluation.imputation import linear_imputation
from vbp_lightning.evaluation.localisation import (
    average_precision,
    best_threshold,
    intersection_over_union,
    pointing_game,
    positive_part,
    rank_accuracy,
    relevance_mass,
)
from vbp_lightning.evaluation.sanity import (
    CascadeStage,
    cascade,
    cascade_similarity,
    rank_correlation,
)

__all__ = [
    "BASELINES",
    "EXPONENTS",
    "ROAD_SHARES",
    "Artefacts",
    "Attribution",
    "Brightness",
    "CascadeStage",
    "CentreGaussian",
    "Edges",
    "Interval",
    "RandomNoise",
    "Setting",
    "ShiftResponse",
    "Uniform",
    "artefacts",
    "average_precision",
    "best_threshold",
    "block_ratio",
    "border_ratio",
    "cascade",
    "cascade_similarity",
    "choose_setting",
    "comb_energy",
    "coverage_variation",
    "cross_fitted_scores",
    "deletion",
    "insertion",
    "intersection_over_union",
    "linear_imputation",
    "localisation_scores",
    "mean_colour",
    "mean_interval",
    "pixel_ranks",
    "pointing_game",
    "positive_part",
    "rank_accuracy",
    "rank_correlation",
    "relevance_mass",
    "removal_curves",
    "road",
    "shift_response",
]
