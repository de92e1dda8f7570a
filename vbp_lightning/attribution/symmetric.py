"""A variant of VisualBackProp for locating what a class looks like: this project's, no paper's."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vbp_lightning.attribution.scores import Progress, Target, in_chunks
from vbp_lightning.attribution.visual_backprop import VisualBackProp, min_max


class SymmetricVisualBackProp:
    r"""Deep VisualBackProp masks of all channels and of the class's, averaged over symmetries.

    With :math:`g` the turns of the square by quarters, each undone by :math:`g^{-1}`,

    .. math:: m(x) = \sum_g g^{-1}\Big[V(g x) \odot V_y(g x)\Big],

    where :math:`V` is VisualBackProp without its first ``skip`` maps, and :math:`V_y` is the same
    with the sum over those channels alone whose activation raises the score of the class,
    :math:`\sum_{ij} \partial y / \partial A_{c,ij} > 0`; both divided by their maxima.

    Why: the first maps of a road network fire on edges anywhere, and a product is as blind as its
    blindest factor, so they are left out; channels that speak against the class fire where it is
    not; and a network that was trained on turned images owes the same answer to each turn, so that
    what changes with the turn is noise, above all the grid of its strides, which averages out.

    It is not the paper's method, sees no finer than the first map that is left, and costs two masks
    and a gradient a turn.

    Args:
        model: Any module that :class:`VisualBackProp` takes; found as it was left. Of oblong images
            only the half turn is taken.
        upsampling: See :class:`VisualBackProp`.
        skip: How many maps to leave out, from the side of the input.
        rotations: 1 for the image as it is, 2 for it and its half turn, 4 for all quarter turns.
        chunk: Samples at a time.

    Raises:
        ValueError: A setting makes no sense.
    """

    def __init__(
        self,
        model: nn.Module,
        upsampling: str = "deconv_normalized",
        skip: int = 2,
        rotations: int = 4,
        chunk: int = 64,
    ) -> None:
        if rotations not in (1, 2, 4):
            raise ValueError(f"rotations is {rotations}; choose 1, 2 or 4")
        self._all = VisualBackProp(model, upsampling, skip=skip)
        self._of_class = VisualBackProp(model, upsampling, "channels", skip)
        self.rotations = rotations
        self.chunk = chunk

    def attribute(
        self, inputs: Tensor, target: Target = None, *, progress: Progress | None = None
    ) -> Tensor:
        """The mask of each sample.

        Args:
            inputs: ``(N, C, H, W)``, floating point, as the model takes them.
            target: See :func:`~vbp_lightning.attribution.scores.class_scores`; of several classes,
                None is the likeliest of each turned image for itself.
            progress: Told the number of samples done, after each chunk.

        Returns:
            ``(N, 1, H, W)`` in [0, 1], min-max over each sample; a constant mask gives zeros.

        Raises:
            UnsupportedNetworkError: The network's feature maps cannot be followed.
            ValueError: The inputs are no batch of floating-point images, or the network has no more
                maps than are to be skipped.
        """

        def act(part: Tensor, wanted: Target) -> Tensor:
            total = torch.zeros_like(
                part[:, :1], dtype=torch.promote_types(part.dtype, torch.float)
            )
            for turn in self._rotations(part):
                turned = torch.rot90(part, turn, (2, 3))
                masks = [
                    _to_one(method.attribute(turned, wanted, normalize=False))
                    for method in (self._all, self._of_class)
                ]
                total += torch.rot90(masks[0] * masks[1], -turn, (2, 3))
            return min_max(total)

        return in_chunks(act, inputs, target, self.chunk, progress)

    def _rotations(self, images: Tensor) -> Iterator[int]:
        square = images.shape[2] == images.shape[3]
        yield from range(0, 4, 4 // (self.rotations if square else min(self.rotations, 2)))


def _to_one(masks: Tensor) -> Tensor:
    """Each sample divided by its maximum."""
    return masks / masks.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(masks.dtype).tiny)
