"""VisualBackProp: which pixels the convolutional part of a network passes on to its top."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vbp_lightning.attribution.class_aware import Weighting, weighted_for_class
from vbp_lightning.attribution.fusing import FusedPass
from vbp_lightning.attribution.recording import FeatureMap, InputsChangedError, Recorder, names_of
from vbp_lightning.attribution.scores import Progress, Target, check_images, in_chunks
from vbp_lightning.attribution.undisturbed import undisturbed
from vbp_lightning.attribution.upsampling import UPSAMPLINGS, unpool


@dataclass(frozen=True, eq=False)
class MaskChain:
    """How a mask came about, layer by layer, from the side of the input to the deepest.

    Args:
        names: Of the recorded ReLU modules; a second use of the same module ends in ``" (2)"``.
        maps: The channel average of each one's output, ``(N, 1, h, w)``.
        masks: The mask as it grows back: at each layer after its multiplication with that layer's
            map, ``(N, 1, h, w)``; the last is the deepest map itself.
        mask: The mask at the input, ``(N, 1, H, W)``.
    """

    names: tuple[str, ...]
    maps: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    mask: Tensor


class VisualBackProp:
    r"""VisualBackProp (Bojarski et al. 2016, arXiv 1611.05418, section III).

    With :math:`\bar f_l` the channel average of the output of the :math:`l`-th ReLU,
    :math:`l = 1 … L`, and :math:`U_l` the upsampling through the layers between two of them,

    .. math:: m_L = \bar f_L, \quad m_l = \bar f_l \odot U_{l+1}(m_{l+1}), \quad m = U_1(m_1),

    which is, up to a constant, the sum over all paths of channels and positions from an input pixel
    to the top of the product of the activations along them (for ``deconv``). Neither weights nor
    classes enter the way back: what stands behind the convolutional part leaves the mask as it is.

    The convolutional part may hold Conv2d, normalisation, ReLU, max and average pooling, zero
    padding and residual additions in any nesting. In a residual network the maps are the outputs of
    all ReLUs in order of execution; at an addition the mask goes back along the main path, the
    branch with the most convolutions, and shortcuts are left out. What cannot be followed is
    refused by name, a ReLU called as a function above all.

    Args:
        model: Any module that takes ``(N, C, H, W)``. Found as it was left: training mode of every
            submodule, parameters, gradients, hooks and random state.
        upsampling: ``deconv`` (the paper's: transposed convolutions of ones with each layer's own
            geometry), ``deconv_normalized`` (the same divided by its coverage: without dark borders
            and grids), ``nearest`` or ``bilinear`` (between receptive-field centres),
            ``resize_conv`` (``bilinear`` at strides, ``deconv_normalized`` elsewhere), or
            ``unpool`` (max poolings undone at their maxima); but for the first not in the paper.
        weighting: ``mean``, the paper's :math:`\bar f_l`, or ``gradient``, which puts
            :math:`\frac{1}{C} \sum_c \mathrm{ReLU}(A_c \odot \partial y / \partial A_c)` in its
            place, :math:`A_c` being the channels and :math:`y` the score of the target, or
            ``channels``, the mean over all channels with those set to zero whose gradient has no
            positive sum: masks for one class, not the paper's, at the cost of a second pass and its
            gradient.
        skip: How many maps to leave out, from the side of the input; 0 for none, as in the paper.
        chunk: Samples at a time.
        fuse: Whether runs of layers in an ``nn.Sequential`` may be computed with batch norms folded
            into convolutions where that is faster (float32 on a CPU); same result up to rounding.

    Raises:
        ValueError: The upsampling or the weighting is unknown, or ``skip`` is negative.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        >>> VisualBackProp(model).attribute(torch.rand(2, 3, 96, 96)).shape
        torch.Size([2, 1, 96, 96])
    """

    def __init__(
        self,
        model: nn.Module,
        upsampling: str = "deconv",
        weighting: Literal["mean"] | Weighting = "mean",
        skip: int = 0,
        chunk: int = 64,
        *,
        fuse: bool = True,
    ) -> None:
        if upsampling not in UPSAMPLINGS:
            known = ", ".join(UPSAMPLINGS)
            raise ValueError(f"upsampling is {upsampling!r}; choose one of {known}")
        if weighting not in ("mean", "gradient", "channels"):
            raise ValueError(f"weighting is {weighting!r}; choose mean, gradient or channels")
        if skip < 0:
            raise ValueError(f"skip is {skip}; give at least 0")
        self.model = model
        self.upsampling = upsampling
        self.weighting: Literal["mean"] | Weighting = weighting
        self.skip = skip
        self.chunk = chunk
        self.fuse = fuse
        self._fused = FusedPass()

    def attribute(
        self,
        inputs: Tensor,
        target: Target = None,
        normalize: bool = True,
        *,
        progress: Progress | None = None,
    ) -> Tensor:
        """The mask of each sample.

        Args:
            inputs: ``(N, C, H, W)``, floating point, as the model takes them.
            target: Of a ``weighting`` for a class, see
                :func:`~vbp_lightning.attribution.scores.class_scores`; otherwise accepted as every
                attribution method's, since the paper's mask has no class.
            normalize: Min-max over each sample, a constant mask giving zeros; False returns the raw
                mask.
            progress: Told the number of samples done, after each chunk.

        Returns:
            ``(N, 1, H, W)`` in float32, or float64 for such inputs; in [0, 1] if normalised,
            otherwise non-negative. No sample depends on the others.

        Raises:
            UnsupportedNetworkError: The network's feature maps cannot be followed.
            ValueError: The inputs are no batch of floating-point images, the network has no more
                maps than are to be skipped, or a target is out of range.
        """
        return in_chunks(
            lambda part, wanted: self.attribute_with_logits(part, wanted, normalize)[1],
            inputs,
            target,
            self.chunk,
            progress,
        )

    def attribute_with_logits(
        self, inputs: Tensor, target: Target = None, normalize: bool = True
    ) -> tuple[Any, Tensor]:
        """The model's output and the mask from one and the same forward pass.

        Args:
            inputs: As for :meth:`attribute`.
            target: As for :meth:`attribute`.
            normalize: As for :meth:`attribute`.

        Returns:
            What the model returned (logits ``(N, 1)`` for a RoadClassifier), and the mask.
        """
        output, maps = self._record(inputs, target)
        mask, factors, _ = self._back(maps)
        return output, min_max(mask) if normalize else _unscaled(mask, factors)

    def chain(self, inputs: Tensor, normalize: bool = True, target: Target = None) -> MaskChain:
        """The averaged map of every layer, and the mask as it grows back to the input.

        Args:
            inputs: As for :meth:`attribute`.
            normalize: Whether the masks are min-max normalised, each for itself, for display; the
                maps are the averages as they are.
            target: As for :meth:`attribute`.

        Returns:
            One map and one mask a layer, and the mask at the input as ``attribute`` gives it.
        """
        _, maps = self._record(inputs, target)
        mask, factors, grown = self._back(maps)
        if normalize:
            masks = [min_max(each) for each, _ in grown]
            mask = min_max(mask)
        else:
            masks = [_unscaled(each, its_factors) for each, its_factors in grown]
            mask = _unscaled(mask, factors)
        return MaskChain(
            names=names_of(maps, self.model),
            maps=tuple(each.average for each in maps),
            masks=tuple(reversed(masks)),
            mask=mask,
        )

    def _record(self, inputs: Tensor, target: Target) -> tuple[Any, tuple[FeatureMap, ...]]:
        check_images(inputs)
        precision = torch.promote_types(inputs.dtype, torch.float32)
        maxima = UPSAMPLINGS[self.upsampling] is unpool
        with undisturbed(self.model, inputs.device) as modules:

            def run(images: Tensor, ours: bool) -> tuple[Any, tuple[FeatureMap, ...]]:
                recorder = Recorder(self.model, images, precision, maxima, changeable=ours)
                if self.fuse:
                    output = self._fused.run(modules, images, recorder)
                else:
                    with recorder.watching():
                        output = self.model(images)
                return output, recorder.maps()

            try:
                output, maps = run(inputs.detach(), ours=False)
            except InputsChangedError:  # by a model that standardises in place, for instance
                output, maps = run(inputs.detach().clone(), ours=True)
        if self.skip >= len(maps):
            raise ValueError(f"skip is {self.skip}; the network has {len(maps)} feature maps")
        if self.weighting != "mean":
            maps = weighted_for_class(maps, self.model, inputs, target, self.weighting, self.skip)
        return output, _without_first(maps, self.skip)

    def _back(
        self, maps: tuple[FeatureMap, ...]
    ) -> tuple[Tensor, list[Tensor], list[tuple[Tensor, list[Tensor]]]]:
        """The way back.

        Returns:
            The mask, the factors that make it the raw one, each ``(N, 1, 1, 1)``, and both at each
            layer from the deepest.
        """
        upsample = UPSAMPLINGS[self.upsampling]
        with torch.no_grad(), _without_autocast(maps[0].average.device.type):
            mask, factors = _rescaled(maps[-1].average, [])
            grown = [(mask, factors)]
            for below, above in zip(reversed(maps[:-1]), reversed(maps), strict=False):
                mask, factors = _rescaled(upsample(mask, above.layers) * below.average, factors)
                grown.append((mask, factors))
            return upsample(mask, maps[0].layers), factors, grown


def _without_first(maps: tuple[FeatureMap, ...], count: int) -> tuple[FeatureMap, ...]:
    """The maps but for the first ones, whose layers are left for the mask to go back through."""
    layers = tuple(layer for each in maps[: count + 1] for layer in each.layers)
    return (replace(maps[count], layers=layers), *maps[count + 1 :])


def _without_autocast(device: str) -> AbstractContextManager[object]:
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _rescaled(mask: Tensor, factors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Each sample divided by its maximum, so that no depth leaves the range of float32."""
    largest = mask.amax((1, 2, 3), keepdim=True).clamp_min_(torch.finfo(mask.dtype).tiny)
    return mask / largest, [*factors, largest]


def _unscaled(mask: Tensor, factors: list[Tensor]) -> Tensor:
    wide = mask.double()
    for factor in factors:
        wide = wide * factor
    return wide.to(mask.dtype)


def min_max(masks: Tensor) -> Tensor:
    """Each sample of ``(N, 1, H, W)`` stretched to [0, 1]; a constant one gives zeros.

    A sample that differs from a constant by no more than rounding does counts as one: stretching
    would show the rounding errors.
    """
    values = masks.flatten(1)
    lowest, highest = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    extent = highest - lowest
    extent.masked_fill_(extent <= 32 * torch.finfo(masks.dtype).eps * highest, torch.inf)
    return (values - lowest).div_(extent).view_as(masks)
