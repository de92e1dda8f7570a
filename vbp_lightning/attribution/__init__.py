"""Which pixels a decision rests on: VisualBackProp and what it is made of."""

from vbp_lightning.attribution.recording import UnsupportedNetworkError
from vbp_lightning.attribution.upsampling import UPSAMPLINGS
from vbp_lightning.attribution.visual_backprop import MaskChain, VisualBackProp

__all__ = ["UPSAMPLINGS", "MaskChain", "UnsupportedNetworkError", "VisualBackProp"]
