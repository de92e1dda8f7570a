"""VisualBackProp: masks of the pixels that contribute to a network's deepest feature maps."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import Node

from vbp_lightning.attribution.class_aware import Weighting, averages_for_class
from vbp_lightning.attribution.method import Images, Method
from vbp_lightning.attribution.scaled_mask import ScaledMask, sum_of
from vbp_lightning.attribution.scores import Progress, Target, images_of
from vbp_lightning.attribution.upsampling import UPSAMPLINGS, unpool
from vbp_lightning.graph.geometry import Layer
from vbp_lightning.graph.network_graph import Step
from vbp_lightning.graph.running import forward
from vbp_lightning.records import Count, PositiveCount


@dataclass(frozen=True, eq=False)
class MaskChain:
    """The averaged feature maps and the intermediate VisualBackProp masks, in forward order.

    Args:
        names: Names of the modules of the activations; the second use of one ends in ``" (2)"``.
        maps: The channel average of the output of each, ``(N, 1, h, w)``.
        masks: The intermediate mask at each layer, after the multiplication with the map of that
            layer, ``(N, 1, h, w)``; the last is the deepest map itself.
        mask: The mask at the input, ``(N, 1, H, W)``.
    """

    names: tuple[str, ...]
    maps: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    mask: Tensor


@dataclass(eq=False)
class VisualBackProp(Method):
    r"""VisualBackProp (Bojarski et al. 2016, arXiv 1611.05418, section III).

    With :math:`\bar f_l` the channel average of the output of the :math:`l`-th ReLU,
    :math:`l = 1 … L`, and :math:`U_l` the upsampling through the layers between two of them,

    .. math:: m_L = \bar f_L, \quad m_l = \bar f_l \odot U_{l+1}(m_{l+1}), \quad m = U_1(m_1),

    For ``deconv`` this is, up to a constant, the sum over all paths of channels and positions from
    an input pixel to the deepest map of the product of the activations along the path. Neither
    weights nor classes are used in the backward pass of the mask, and the layers behind the
    convolutional part do not affect it.

    In a network with branches the activations form a graph instead of a chain, and with :math:`w`
    the activations next above :math:`v`

    .. math:: m_v = \bar f_v \odot \Big(\sum_w U_{vw}(m_w) + h_v\Big),

    where :math:`h_v` is 1 if the head is reached from :math:`v` without passing another activation,
    and 0 otherwise: the sum over all paths from a pixel to the head. Additions and concatenations
    sum what comes down every branch, gates are factors that the mask does not follow, and of
    activations with negative values the positive part is averaged. What mixes all places and comes
    back as a map, such as an attention, and operations without a rule raise an error that names the
    layer.

    Args:
        model: Any module that takes ``(N, C, H, W)``. It is run in eval mode, but not changed, and
            may run in other threads at the same time.
        upsampling: ``deconv`` (of the paper: transposed convolutions of ones with each layer's
            geometry), ``deconv_normalized`` (divided by its coverage: without dark borders and
            grids; the default), ``nearest`` or ``bilinear`` (between receptive-field centres),
            ``resize_conv`` (``bilinear`` at strides, ``deconv_normalized`` elsewhere), or
            ``unpool`` (at the maxima of max poolings). Only the first is in the paper.
        weighting: ``mean``, the :math:`\bar f_l` of the paper; ``gradient``, which replaces it by
            :math:`\frac{1}{C} \sum_c \mathrm{ReLU}(A_c \odot \partial y / \partial A_c)`, with
            :math:`A_c` the channels and :math:`y` the score of the target; or ``channels``, the
            mean over all channels after setting those to zero whose gradient has no positive sum.
            The last two give masks for one class, are not in the paper, and cost a second forward
            pass and its gradient.
        skip: Number of maps to leave out, counted from the input; 0 in the paper. In a network with
            branches, the activations with fewer than ``skip`` others on the longest way from the
            input are left out.
        rotations: See :class:`~vbp_lightning.attribution.method.Method`; :meth:`attribute` only.
        chunk: Samples per chunk.
        fuse: Whether batch norms may be folded into convolutions and samples run in chunks where
            that is faster (float32 on a CPU); the result is the same up to rounding.

    Raises:
        ValueError: The upsampling or the weighting is unknown, or ``skip`` is negative.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        >>> VisualBackProp(model).attribute(torch.rand(2, 3, 96, 96)).shape
        torch.Size([2, 1, 96, 96])
    """

    upsampling: str = "deconv_normalized"
    weighting: Literal["mean"] | Weighting = "mean"
    skip: Count = 0
    chunk: PositiveCount = field(default=64, kw_only=True)
    fuse: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.upsampling not in UPSAMPLINGS:
            known = ", ".join(UPSAMPLINGS)
            raise ValueError(f"upsampling is {self.upsampling!r}; choose one of {known}")

    def maps(self, inputs: Tensor, target: Target) -> Tensor:
        """The normalised masks."""
        return self.attribute_with_logits(inputs, target)[1]

    def attribute(
        self,
        inputs: Images,
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
        return self.in_chunks(
            lambda part, wanted: self.attribute_with_logits(part, wanted, normalize)[1],
            inputs,
            target,
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
        output, mask, _ = self.explain(inputs, target)
        return output, mask.normalized() if normalize else mask.raw()

    def chain(self, inputs: Tensor, normalize: bool = True, target: Target = None) -> MaskChain:
        """The average and the intermediate mask of every activation.

        Args:
            inputs: As for :meth:`attribute`.
            normalize: Whether each mask is min-max normalised for display; the maps are not.
            target: As for :meth:`attribute`.

        Returns:
            One map and one mask per activation, and the mask at the input as from
            :meth:`attribute`.
        """
        _, mask, masks = self.explain(inputs, target)
        steps = list(masks)[::-1]
        return MaskChain(
            names=tuple(step.name for step in steps),
            maps=tuple(masks[step][0] for step in steps),
            masks=tuple(
                masks[step][1].normalized() if normalize else masks[step][1].raw() for step in steps
            ),
            mask=mask.normalized() if normalize else mask.raw(),
        )

    def explain(
        self, inputs: Tensor, target: Target
    ) -> tuple[Any, ScaledMask, dict[Step, tuple[Tensor, ScaledMask]]]:
        """The result without normalisation, in a range that no depth of the network exceeds.

        Args:
            inputs: As for :meth:`attribute`.
            target: As for :meth:`attribute`.

        Returns:
            The output of the model, the mask, and the average and the intermediate mask of each
            activation, the deepest first.
        """
        inputs = images_of(inputs, self.model)
        graph = self.graph(inputs)
        head = target[0] if isinstance(target, tuple) else None
        activations = [step for step in graph.paths(head) if step.activates]
        kept = [step for step in activations if step.depth > self.skip]
        if not kept:
            longest = max(step.depth for step in activations)
            raise ValueError(f"skip is {self.skip}; the network has {longest} feature maps")
        done = forward(graph, inputs, UPSAMPLINGS[self.upsampling] is unpool, self.fuse)
        averages = {step: done.averages[step.node] for step in kept}
        if self.weighting != "mean":
            averages = averages_for_class(graph, inputs, target, self.weighting, kept)
        with torch.no_grad(), _without_autocast(inputs.device.type):
            precision = torch.promote_types(inputs.dtype, torch.float32)
            averages = {step: each.to(precision) for step, each in averages.items()}
            steps = graph.paths(head)
            return done.output, *backward(steps, averages, done.shares, self.upsampling)


def backward(
    steps: Sequence[Step],
    averages: Mapping[Step, Tensor],
    shares: Mapping[Node, Tensor],
    upsampling: str,
) -> tuple[ScaledMask, dict[Step, tuple[Tensor, ScaledMask]]]:
    """The backward pass of the mask, from the head to the image.

    Args:
        steps: The maps and layers, in forward order; the first is the image.
        averages: The average of each activation, ``(N, 1, h, w)``; those of other activations
            count as one.
        shares: For ``unpool``, what :class:`~vbp_lightning.graph.running.Forward` recorded.
        upsampling: A name of ``UPSAMPLINGS``.

    Returns:
        The mask of the image, and the average and mask of each activation, the deepest first.
    """
    upsample = UPSAMPLINGS[upsampling]
    # What comes up to each map: masks, and the layers that they have still to pass.
    arrived: dict[Step, list[tuple[ScaledMask, tuple[Layer, ...]]]] = {}
    masks: dict[Step, tuple[Tensor, ScaledMask]] = {}

    def upsampled(mask: ScaledMask, layers: tuple[Layer, ...]) -> ScaledMask:
        if not layers:
            return mask
        return ScaledMask(upsample(mask.mask, layers), mask.factors, mask.exponent)

    for step in reversed(steps):
        parts = arrived.pop(step, [])
        if step in averages and step.ends and not parts:
            parts = [(_ones(averages[step]).times(averages[step]), ())]
            masks[step] = averages[step], parts[0][0]
        elif not parts:  # above the last activations
            continue
        elif step in averages or len(parts) > 1 or len(step.sources) != 1:
            arriving = [upsampled(*part) for part in parts]
            if step in averages and step.ends:
                arriving.append(_ones(arriving[0].mask))
            total = sum_of(arriving)
            if step in averages:
                total = total.times(averages[step])
                masks[step] = averages[step], total
            parts = [(total, ())]
        above = step.layers
        if step.node in shares:
            above = (*above[:-1], replace(above[-1], shares=shares[step.node]))
        for source in step.sources:
            arrived.setdefault(source, []).extend((mask, above + below) for mask, below in parts)
    return parts[0][0], masks


def _ones(like: Tensor) -> ScaledMask:
    return ScaledMask(like.new_ones(()).expand_as(like))


def _without_autocast(device: str) -> AbstractContextManager[object]:
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
