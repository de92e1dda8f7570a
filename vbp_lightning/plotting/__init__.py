"""Panels and figures: arrays in, uint8 pictures and matplotlib figures out."""

from vbp_lightning.plotting.benchmark_figure import cascade_figure, score_figure
from vbp_lightning.plotting.chain_figure import ChainStep, chain_figure
from vbp_lightning.plotting.contact_sheet import ContactRow, contact_sheet
from vbp_lightning.plotting.curves import (
    Reliability,
    calibration_figure,
    confusion_figure,
    figure_to_array,
    precision_recall_figure,
    reliability,
)
from vbp_lightning.plotting.display import (
    MASK_GAMMA,
    RGB,
    mask_to_rgb,
    overlay,
    scale_mask,
    to_rgb,
)
from vbp_lightning.plotting.inspection_figures import (
    Curves,
    GradientBar,
    gradient_figure,
    scatter_figure,
    step_curves,
    thumbnail_map,
)
from vbp_lightning.plotting.layer_sheets import feature_map_sheet, filter_sheet
from vbp_lightning.plotting.mask_panel import (
    TILES_PER_PAGE,
    TileCaption,
    mask_panel,
    truth_heading,
)
from vbp_lightning.plotting.method_sheet import method_sheet
from vbp_lightning.plotting.picture_grid import (
    GridRow,
    below_each_other,
    patches_to_rgb,
    picture_grid,
)
from vbp_lightning.plotting.png import CompressedPage, compress_page, encode_png

__all__ = [
    "MASK_GAMMA",
    "RGB",
    "TILES_PER_PAGE",
    "ChainStep",
    "CompressedPage",
    "ContactRow",
    "Curves",
    "GradientBar",
    "GridRow",
    "Reliability",
    "TileCaption",
    "below_each_other",
    "calibration_figure",
    "cascade_figure",
    "chain_figure",
    "compress_page",
    "confusion_figure",
    "contact_sheet",
    "encode_png",
    "feature_map_sheet",
    "figure_to_array",
    "filter_sheet",
    "gradient_figure",
    "mask_panel",
    "mask_to_rgb",
    "method_sheet",
    "overlay",
    "patches_to_rgb",
    "picture_grid",
    "precision_recall_figure",
    "reliability",
    "scale_mask",
    "scatter_figure",
    "score_figure",
    "step_curves",
    "thumbnail_map",
    "to_rgb",
    "truth_heading",
]
