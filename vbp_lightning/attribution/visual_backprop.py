"""VisualBackProp: masks of the pixels that contribute to a network's deepest feature maps."""

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
from vbp_lightning.records import Count, PositiveCount, checked


@dataclass(frozen=True, eq=False)
class MaskChain:
    """The averaged feature maps and the intermediate VisualBackProp masks, in forward order.

    Args:
        names: Names of the recorded ReLU modules; the second use of a module ends in ``" (2)"``.
        maps: The channel average of the output of each, ``(N, 1, h, w)``.
        masks: The intermediate mask at each layer, after the multiplication with the map of that
            layer, ``(N, 1, h, w)``; the last is the deepest map itself.
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

    For ``deconv`` this is, up to a constant, the sum over all paths of channels and positions from
    an input pixel to the deepest map of the product of the activations along the path. Neither
    weights nor classes are used in the backward pass of the mask, and the layers behind the
    convolutional part do not affect it.

    The convolutional part may hold Conv2d, normalisation, ReLU, max and average pooling, zero
    padding and residual additions in any nesting. In a residual network the maps are the outputs of
    all ReLUs in order of execution. At an addition the mask follows the main path, the branch with
    the most convolutions, and shortcuts are left out. An operation that cannot be followed, such as
    a ReLU called as a function, raises an error that names it.

    Args:
        model: Any module that takes ``(N, C, H, W)``. Its state is restored: training mode of every
            submodule, parameters, gradients, hooks and random state.
        upsampling: ``deconv`` (of the paper: transposed convolutions of ones with each layer's
            geometry), ``deconv_normalized`` (divided by its coverage: without dark borders and
            grids), ``nearest`` or ``bilinear`` (between receptive-field centres), ``resize_conv``
            (``bilinear`` at strides, ``deconv_normalized`` elsewhere), or ``unpool`` (at the maxima
            of max poolings). Only the first is in the paper.
        weighting: ``mean``, the :math:`\bar f_l` of the paper; ``gradient``, which replaces it by
            :math:`\frac{1}{C} \sum_c \mathrm{ReLU}(A_c \odot \partial y / \partial A_c)`, with
            :math:`A_c` the channels and :math:`y` the score of the target; or ``channels``, the
            mean over all channels after setting those to zero whose gradient has no positive sum.
            The last two give masks for one class, are not in the paper, and cost a second forward
            pass and its gradient.
        skip: Number of maps to leave out, counted from the input; 0 in the paper.
        chunk: Samples per chunk.
        fuse: Whether sequences of layers in an ``nn.Sequential`` may be computed with batch norms
            folded into convolutions where that is faster (float32 on a CPU); the result is the same
            up to rounding.

    Raises:
        ValueError: The upsampling or the weighting is unknown, or ``skip`` is negative.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        >>> VisualBackProp(model).attribute(torch.rand(2, 3, 96, 96)).shape
        torch.Size([2, 1, 96, 96])
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        upsampling: str = "deconv",
        weighting: Literal["mean"] | Weighting = "mean",
        skip: Count = 0,
        chunk: PositiveCount = 64,
        *,
        fuse: bool = True,
    ) -> None:
        if upsampling not in UPSAMPLINGS:
            known = ", ".join(UPSAMPLINGS)
            raise ValueError(f"upsampling is {upsampling!r}; choose one of {known}")
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
        """The VisualBackProp mask of each sample.

        Args:
            inputs: ``(N, C, H, W)``, floating point, as the model takes them.
            target: The class for ``weighting`` ``gradient`` and ``channels``, see
                :func:`~vbp_lightning.attribution.scores.class_scores`; ignored for ``mean``.
            normalize: Whether to min-max normalise each sample, which maps a constant mask to
                zeros; False returns the raw mask.
            progress: Called with the number of samples done after each chunk.

        Returns:
            ``(N, 1, H, W)`` in float32, or float64 for such inputs; in [0, 1] if normalised,
            otherwise non-negative. Each sample is independent of the rest of the batch.

        Raises:
            UnsupportedNetworkError: The network's feature maps cannot be followed.
            ValueError: The inputs are not a batch of floating-point images, the network has no more
                than ``skip`` maps, or a target is out of range.
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
        """The model's output and the VisualBackProp mask from one forward pass.

        Args:
            inputs: As for :meth:`attribute`.
            target: As for :meth:`attribute`.
            normalize: As for :meth:`attribute`.

        Returns:
            The output of the model (logits ``(N, 1)`` for a RoadClassifier) and the mask.
        """
        output, maps = self._record(inputs, target)
        mask, factors, _ = self._back(maps)
        return output, min_max(mask) if normalize else _unscaled(mask, factors)

    def chain(self, inputs: Tensor, normalize: bool = True, target: Target = None) -> MaskChain:
        """The averaged map and the intermediate mask of every layer.

        Args:
            inputs: As for :meth:`attribute`.
            normalize: Whether each mask is min-max normalised for display; the maps are not.
            target: As for :meth:`attribute`.

        Returns:
            One map and one mask per layer, and the mask at the input as from :meth:`attribute`.
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
            except InputsChangedError:  # for instance by a model that standardises in place
                output, maps = run(inputs.detach().clone(), ours=True)
        if self.skip >= len(maps):
            raise ValueError(f"skip is {self.skip}; the network has {len(maps)} feature maps")
        if self.weighting != "mean":
            maps = weighted_for_class(maps, self.model, inputs, target, self.weighting, self.skip)
        return output, _without_first(maps, self.skip)

    def _back(
        self, maps: tuple[FeatureMap, ...]
    ) -> tuple[Tensor, list[Tensor], list[tuple[Tensor, list[Tensor]]]]:
        """The backward pass of the mask.

        Returns:
            The mask, the factors ``(N, 1, 1, 1)`` whose product with it is the raw mask, and both
            for each layer, beginning with the deepest.
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
    """The maps without the first ones, whose layers are added to those of the first kept map."""
    layers = tuple(layer for each in maps[: count + 1] for layer in each.layers)
    return (replace(maps[count], layers=layers), *maps[count + 1 :])


def _without_autocast(device: str) -> AbstractContextManager[object]:
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _rescaled(mask: Tensor, factors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Each sample divided by its maximum, so that deep products stay in the range of float32."""
    largest = mask.amax((1, 2, 3), keepdim=True).clamp_min_(torch.finfo(mask.dtype).tiny)
    return mask / largest, [*factors, largest]


def _unscaled(mask: Tensor, factors: list[Tensor]) -> Tensor:
    wide = mask.double()
    for factor in factors:
        wide = wide * factor
    return wide.to(mask.dtype)


def min_max(masks: Tensor) -> Tensor:
    """Each sample of ``(N, 1, H, W)`` scaled to [0, 1]; a constant sample gives zeros.

    A sample that is constant up to rounding counts as constant; scaling would amplify its rounding
    errors.
    """
    values = masks.flatten(1)
    lowest, highest = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    extent = highest - lowest
    extent.masked_fill_(extent <= 32 * torch.finfo(masks.dtype).eps * highest, torch.inf)
    return (values - lowest).div_(extent).view_as(masks)
