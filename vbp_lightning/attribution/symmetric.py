"""A class-specific variant of VisualBackProp, developed in this project."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vbp_lightning.attribution.method import Images, Method, Rotations
from vbp_lightning.attribution.scaled_mask import min_max
from vbp_lightning.attribution.scores import Progress, Target
from vbp_lightning.attribution.visual_backprop import VisualBackProp
from vbp_lightning.records import Count, PositiveCount


@dataclass(eq=False)
class SymmetricVisualBackProp(Method):
    r"""The product of a deep VisualBackProp mask and that of a class, averaged over rotations.

    With :math:`g` the rotations of the square by multiples of 90°, inverted by :math:`g^{-1}`,

    .. math:: m(x) = \sum_g g^{-1}\Big[V(g x) \odot V_y(g x)\Big],

    where :math:`V` is VisualBackProp without its first ``skip`` maps, and :math:`V_y` is the same
    with the sum over only those channels whose activation raises the score of the class,
    :math:`\sum_{ij} \partial y / \partial A_{c,ij} > 0`; both are divided by their maxima.

    The first maps of a road network respond to all edges, which the product cannot remove, so they
    are left out. Channels with evidence against the class respond to other parts of the image and
    are left out of :math:`V_y`. A network that was trained on rotated images should respond equally
    to each rotation. Differences between rotations are therefore noise, mainly the grid of the
    strides, which the average reduces.

    The method is not that of the paper. Its resolution is that of the first remaining map, and it
    costs two masks and one gradient per rotation.

    Args:
        model: Any module that
            :class:`~vbp_lightning.attribution.visual_backprop.VisualBackProp` accepts; its state
            is restored.
        upsampling: See :class:`~vbp_lightning.attribution.visual_backprop.VisualBackProp`.
        skip: Number of maps to leave out, counted from the input.
        rotations: See :class:`~vbp_lightning.attribution.method.Method`.
        chunk: Samples per chunk.

    Raises:
        ValueError: A setting is out of range.
    """

    upsampling: str = "deconv_normalized"
    skip: Count = 2
    rotations: Rotations = field(default=4, kw_only=True)
    chunk: PositiveCount = field(default=64, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._all = VisualBackProp(self.model, self.upsampling, skip=self.skip)
        self._of_class = VisualBackProp(self.model, self.upsampling, "channels", self.skip)

    def attribute(
        self, inputs: Images, target: Target = None, *, progress: Progress | None = None
    ) -> Tensor:
        """The mean over rotations, each sample scaled to [0, 1]; see the base class."""
        with torch.inference_mode(mode=False), torch.no_grad():
            return min_max(super().attribute(inputs, target, progress=progress))

    def maps(self, inputs: Tensor, target: Target) -> Tensor:
        """The product of the two masks of the images as they are."""
        masks = [
            _to_one(method.explain(inputs, target)[1].mask)
            for method in (self._all, self._of_class)
        ]
        return masks[0] * masks[1]


def _to_one(masks: Tensor) -> Tensor:
    """Each sample divided by its maximum."""
    return masks / masks.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(masks.dtype).tiny)
