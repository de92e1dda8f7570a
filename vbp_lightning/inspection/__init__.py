"""What looks at the network rather than at one decision."""

from vbp_lightning.inspection.class_model import (
    Ascent,
    Fooling,
    LogOdds,
    Standardised,
    ascend,
    fool,
    log_odds,
)
from vbp_lightning.inspection.feature_store import (
    FeatureStore,
    file_digest,
    open_store,
    still_holds,
    store_folder,
    write_store,
)
from vbp_lightning.inspection.filters import Filters, exciting_colours, filters_of
from vbp_lightning.inspection.gradient_flow import (
    BIN_EDGES,
    RULE,
    LayerGradient,
    gradient_flow,
    verdicts,
)
from vbp_lightning.inspection.layers import (
    UnitScore,
    executed_modules,
    features_and_outputs,
    last_linear,
    layer_outputs,
    resolve_layer,
)
from vbp_lightning.inspection.maximal_patches import Excitations, crop, strongest_activations
from vbp_lightning.inspection.neighbors import Neighbors, nearest, nearest_pixels
from vbp_lightning.inspection.projection import (
    PrincipalComponents,
    on_grid,
    principal_components,
    tsne,
)
from vbp_lightning.inspection.receptive_field import (
    Box,
    Extent,
    ReceptiveField,
    Unfollowed,
    receptive_fields,
)

__all__ = [
    "BIN_EDGES",
    "RULE",
    "Ascent",
    "Box",
    "Excitations",
    "Extent",
    "FeatureStore",
    "Filters",
    "Fooling",
    "LayerGradient",
    "LogOdds",
    "Neighbors",
    "PrincipalComponents",
    "ReceptiveField",
    "Standardised",
    "Unfollowed",
    "UnitScore",
    "ascend",
    "crop",
    "exciting_colours",
    "executed_modules",
    "features_and_outputs",
    "file_digest",
    "filters_of",
    "fool",
    "gradient_flow",
    "last_linear",
    "layer_outputs",
    "log_odds",
    "nearest",
    "nearest_pixels",
    "on_grid",
    "open_store",
    "principal_components",
    "receptive_fields",
    "resolve_layer",
    "still_holds",
    "store_folder",
    "strongest_activations",
    "tsne",
    "verdicts",
    "write_store",
]
