"""Panels and figures: arrays in, uint8 pictures and matplotlib figures out."""

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
from vbp_lightning.plotting.mask_panel import (
    TILES_PER_PAGE,
    TileCaption,
    mask_panel,
    truth_heading,
)
from vbp_lightning.plotting.method_sheet import method_sheet
from vbp_lightning.plotting.png import CompressedPage, compress_page, encode_png

__all__ = [
    "MASK_GAMMA",
    "RGB",
    "TILES_PER_PAGE",
    "ChainStep",
    "CompressedPage",
    "ContactRow",
    "Reliability",
    "TileCaption",
    "calibration_figure",
    "chain_figure",
    "compress_page",
    "confusion_figure",
    "contact_sheet",
    "encode_png",
    "figure_to_array",
    "mask_panel",
    "mask_to_rgb",
    "method_sheet",
    "overlay",
    "precision_recall_figure",
    "reliability",
    "scale_mask",
    "to_rgb",
    "truth_heading",
]
