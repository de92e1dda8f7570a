"""Attribution of decisions to pixels: VisualBackProp and the classic methods."""

from vbp_lightning.attribution.activation_maps import (
    Cam,
    EigenCam,
    GradCam,
    GuidedGradCam,
    HiResCam,
    LayerCam,
)
from vbp_lightning.attribution.changed_copies import IntegratedGradients, SmoothGrad
from vbp_lightning.attribution.gradients import DeconvNet, GuidedBackprop, Saliency
from vbp_lightning.attribution.lrp import Lrp, Relevance
from vbp_lightning.attribution.method import Method
from vbp_lightning.attribution.occlusion import Occlusion
from vbp_lightning.attribution.scores import class_scores
from vbp_lightning.attribution.symmetric import SymmetricVisualBackProp
from vbp_lightning.attribution.upsampling import UPSAMPLINGS
from vbp_lightning.attribution.visual_backprop import MaskChain, VisualBackProp
from vbp_lightning.graph.exporting import UnsupportedNetworkError

__all__ = [
    "UPSAMPLINGS",
    "Cam",
    "DeconvNet",
    "EigenCam",
    "GradCam",
    "GuidedBackprop",
    "GuidedGradCam",
    "HiResCam",
    "IntegratedGradients",
    "LayerCam",
    "Lrp",
    "MaskChain",
    "Method",
    "Occlusion",
    "Relevance",
    "Saliency",
    "SmoothGrad",
    "SymmetricVisualBackProp",
    "UnsupportedNetworkError",
    "VisualBackProp",
    "class_scores",
]
