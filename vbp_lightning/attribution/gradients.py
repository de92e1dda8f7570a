"""Attributions from one gradient with respect to the pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.fx import Node

from vbp_lightning.attribution.method import Method
from vbp_lightning.attribution.scores import Target, class_scores, images_of
from vbp_lightning.graph.exporting import UnsupportedNetworkError, described_layer
from vbp_lightning.graph.network_graph import NetworkGraph
from vbp_lightning.graph.running import Rule, evaluated, relus
from vbp_lightning.records import Count

Form = Literal["absolute", "signed"]

_WRAPPED = "network."
"""Prefix of the layer names of a wrapped network."""


def over_channels(gradient: Tensor, form: Form) -> Tensor:
    """Reduces the channels of a gradient to one value per pixel.

    Args:
        gradient: ``(N, C, H, W)``.
        form: ``absolute``, the largest absolute value (Simonyan et al. 2013, section 3.1), or
            ``signed``, the sum.

    Returns:
        ``(N, 1, H, W)``.
    """
    if form == "absolute":
        return gradient.abs().amax(dim=1, keepdim=True)
    return gradient.sum(dim=1, keepdim=True)


def score_gradients(
    graph: NetworkGraph,
    inputs: Tensor,
    target: Target,
    nodes: Sequence[Node],
    rule: Rule | None = None,
    unit: tuple[int, ...] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """The results of some operations, and the gradient of a score with respect to each.

    Args:
        graph: The graph for images of this size.
        inputs: ``(N, C, H, W)``.
        target: See :func:`~vbp_lightning.attribution.scores.class_scores`.
        nodes: Operations of the graph; ``graph.image`` for the pixels.
        rule: Replaces every ReLU.
        unit: Indices, without that of the sample, of a unit in the result of the last operation
            that is explained instead of a class.

    Raises:
        UnsupportedNetworkError: The score does not depend on one of the results.
        ValueError: There is no such unit, or as for a target.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        output, values = evaluated(graph, inputs.detach(), nodes, rule)
        if unit is None:
            score = class_scores(output, target)
        else:
            units = values[-1].movedim(0, -1)
            if len(unit) >= units.ndim or any(i >= n for i, n in zip(unit, units.shape)):  # noqa: B905
                raise ValueError(f"unit is {[*unit]}; the layer gives {tuple(units.shape[:-1])}")
            score = units[unit]
        found: tuple[Tensor, ...] = ()
        if score.requires_grad:
            found = torch.autograd.grad(score.sum(), values, allow_unused=True)
    gradients: dict[Node, Tensor | None] = dict(zip(nodes, found, strict=False))
    for node in nodes:
        if gradients.get(node) is None:
            where = described_layer(node, graph.network)
            raise UnsupportedNetworkError(f"{where}: the explained score does not depend on it")
    return [each.detach() for each in values], [*found]


class _Positive(torch.autograd.Function):
    """The identity, whose gradient keeps its positive part."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ANN401
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        return gradient.clamp(min=0)


def _guided(_: Tensor, after: Tensor) -> Tensor:
    positive: Tensor = _Positive.apply(after)  # type: ignore[no-untyped-call]
    return positive


def _deconvolved(before: Tensor, after: Tensor) -> Tensor:
    passed: Tensor = _Positive.apply(before + (after - before).detach())  # type: ignore[no-untyped-call]
    return passed


@dataclass(eq=False)
class PixelGradient(Method):
    """The gradient of the score of a class, or of a unit, with respect to the pixels.

    Args:
        model: Any classifier of ``(N, C, H, W)``; it is not changed.
        form: How channels are reduced to one value, see :func:`over_channels`.
        layer: Name of a module whose unit is explained instead of a class; None for the class.
        unit: Channel, row and column in the output of that layer, or one index of a flat output.
        rotations: See :class:`~vbp_lightning.attribution.method.Method`; 1 for a unit.
        chunk: Samples per chunk.

    Raises:
        ValueError: The model has no such layer, or several rotations are given for a unit.
    """

    form: Form = "absolute"
    layer: str | None = None
    unit: Annotated[tuple[Count, ...], Field(min_length=1)] = (0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.layer = layer_named(self.model, self.layer)
        if self.layer is not None and self.rotations > 1:
            raise ValueError("rotations: the unit of a layer has one place: leave 1")

    @property
    def rule(self) -> Rule | None:
        """Replaces every ReLU."""
        return None

    def maps(self, inputs: Tensor, target: Target) -> Tensor:
        """The gradient with its channels reduced."""
        return over_channels(self.gradient(inputs, target), self.form)

    def gradient(self, inputs: Tensor, target: Target = None) -> Tensor:
        """The gradient of each channel, ``(N, C, H, W)``, of all samples at once.

        Args:
            inputs: As for ``attribute``.
            target: As for ``attribute``; ignored for a unit.

        Raises:
            UnsupportedNetworkError: The network has no ReLU that a rule could act on, or cannot be
                exported.
            ValueError: As for ``attribute``, or the layer has no such unit.
        """
        inputs = images_of(inputs, self.model)
        graph = self.graph(inputs)
        if self.rule is not None and not relus(graph):
            raise UnsupportedNetworkError(
                f"{type(self).__name__} cannot explain {graph.network}: it has no ReLU that its "
                "rule could act on"
            )
        nodes, unit = [graph.image], None
        if self.layer is not None:
            nodes, unit = [graph.image, graph.output_of(self.layer)], tuple(self.unit)
        return score_gradients(graph, inputs, target, nodes, self.rule, unit)[1][0]


class Saliency(PixelGradient):
    r"""Image-specific class saliency (Simonyan, Vedaldi and Zisserman 2013, section 3.1).

    .. math:: \frac{\partial y}{\partial x},

    the change of the unnormalised score :math:`y` per unit of change of each pixel. The settings
    are those of :class:`PixelGradient`.
    """


class GuidedBackprop(PixelGradient):
    r"""Guided backpropagation (Springenberg et al. 2014, "Striving for simplicity", section 3.4).

    The gradient with another backward pass of each ReLU, :math:`b = \mathrm{ReLU}(a)`,

    .. math:: R_a = [a > 0]\,[R_b > 0]\,R_b.

    The settings are those of :class:`PixelGradient`.
    """

    @property
    def rule(self) -> Rule:
        """Replaces every ReLU."""
        return _guided


class DeconvNet(PixelGradient):
    r"""The deconvolutional network (Zeiler and Fergus 2014, section 2), as a backward pass.

    The gradient with another backward pass of each ReLU, :math:`b = \mathrm{ReLU}(a)`,

    .. math:: R_a = [R_b > 0]\,R_b;

    max poolings pass it to the positions of their maxima. The settings are those of
    :class:`PixelGradient`.
    """

    @property
    def rule(self) -> Rule:
        """Replaces every ReLU."""
        return _deconvolved


def layer_named(model: nn.Module, name: str | None) -> str | None:
    """The full name of a module of a model.

    Args:
        model: Any module.
        name: Its name in ``named_modules``; the prefix ``network.`` of a wrapped network, as in a
            RoadClassifier, may be omitted. None gives None.

    Raises:
        ValueError: The model has no such module; the message lists the names without ``network.``.
    """
    if name is None:
        return None
    found: list[str] = [each for each, _ in model.named_modules() if each]
    short = {each.removeprefix(_WRAPPED): each for each in found}
    if name not in found and name not in short:
        known = ", ".join(each for each in short if f"{each}." != _WRAPPED)
        raise ValueError(f"layer is {name!r}; the network has {known}")
    return name if name in found else short[name]
