"""Class activation maps: weighted sums of the feature maps of a layer."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from vbp_lightning.attribution.gradients import (
    Form,
    GuidedBackprop,
    layer_named,
    over_channels,
    score_gradients,
)
from vbp_lightning.attribution.method import Method, enlarged
from vbp_lightning.attribution.scores import Target, head_of
from vbp_lightning.graph.exporting import (
    UnsupportedNetworkError,
    described_layer,
    operation_of,
)
from vbp_lightning.graph.meaning import State, channel_axis
from vbp_lightning.graph.network_graph import NetworkGraph
from vbp_lightning.records import PositiveCount

_LINEAR = {
    "linear", "addmm", "mm", "matmul", "conv2d", "mean", "sum", "adaptive_avg_pool2d", "avg_pool2d",
    "add", "sub", "mul", "div", "flatten", "view", "reshape", "squeeze", "unsqueeze", "permute",
    "transpose", "to", "_to_copy", "clone", "contiguous",
}  # fmt: skip
"""Operations of a linear head; those with two operands only if one is constant."""


@dataclass(eq=False)
class ActivationMap(Method):
    """A weighted sum of the maps of a layer, resized to the image by bilinear interpolation.

    A method of this family defines :meth:`combined`.

    Args:
        model: Any classifier; it is not changed.
        layer: Name of the module whose output are the maps :math:`A`; None for the last maps with
            more than one pixel.
        relu: Whether negative sums are set to zero.
        chunk: Samples per chunk.

    Raises:
        ValueError: The model has no such layer.
    """

    layer: str | None = None
    relu: bool = True
    chunk: PositiveCount = field(default=64, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.layer = layer_named(self.model, self.layer)

    @abstractmethod
    def combined(self, maps: Tensor, gradient: Tensor) -> Tensor:
        """The sum ``(n, 1, h, w)`` of maps ``(n, K, h, w)``, whose gradient has the same shape."""

    def maps(self, inputs: Tensor, target: Target) -> Tensor:
        """The sum at the size of the image."""
        graph = self.graph(inputs)
        node = last_map(graph, target) if self.layer is None else graph.output_of(self.layer)
        small = self.combined(*at_map(graph, node, inputs, target))
        return enlarged(small.relu() if self.relu else small, inputs)


class GradCam(ActivationMap):
    r"""Grad-CAM (Selvaraju et al. 2017, equations 1 and 2).

    .. math:: \mathrm{ReLU}\Big(\sum_k \alpha_k A^k\Big), \quad
              \alpha_k = \frac1Z \sum_{ij} \frac{\partial y}{\partial A^k_{ij}}

    The settings are those of :class:`ActivationMap`.
    """

    def combined(self, maps: Tensor, gradient: Tensor) -> Tensor:
        """Weights each map by its mean gradient."""
        return (gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True)


class HiResCam(ActivationMap):
    r"""HiResCAM (Draelos and Carin 2020, arXiv 2011.08891).

    .. math:: \mathrm{ReLU}\Big(\sum_k \frac{\partial y}{\partial A^k} \odot A^k\Big)

    With a linear layer behind the maps, the sum over places without the ReLU (``relu=False``) is
    the score without the bias. The settings are those of :class:`ActivationMap`.
    """

    def combined(self, maps: Tensor, gradient: Tensor) -> Tensor:
        """Weights each place of each map by its gradient."""
        return (gradient * maps).sum(1, keepdim=True)


class LayerCam(ActivationMap):
    r"""LayerCAM (Jiang et al. 2021, IEEE Transactions on Image Processing 30).

    .. math:: \mathrm{ReLU}\Big(\sum_k \mathrm{ReLU}\Big(\frac{\partial y}{\partial A^k}\Big) \odot
              A^k\Big)

    The settings are those of :class:`ActivationMap`; ``layer`` may be an early one.
    """

    def combined(self, maps: Tensor, gradient: Tensor) -> Tensor:
        """Weights each place of each map by its positive gradient."""
        return (gradient.clamp(min=0) * maps).sum(1, keepdim=True)


class EigenCam(ActivationMap):
    r"""EigenCAM (Muhammad and Yeasin 2020, arXiv 2008.00299).

    .. math:: \mathrm{ReLU}(A\,v_1), \quad A = U \Sigma V^\top,

    with :math:`A` the maps of an image as a matrix of places and channels and :math:`v_1` the first
    column of :math:`V`. The paper leaves its sign open: here the sum of :math:`A\,v_1` over all
    places is not negative. It depends on no class. The settings are those of
    :class:`ActivationMap`.
    """

    def combined(self, maps: Tensor, gradient: Tensor) -> Tensor:
        """Projects the channels at each place on their first principal direction."""
        places = maps.flatten(2).transpose(1, 2)
        places = places.to(torch.promote_types(maps.dtype, torch.float32))
        first = torch.linalg.svd(places, full_matrices=False).Vh[:, :1].transpose(1, 2)
        projected = (places @ first).transpose(1, 2).unflatten(2, maps.shape[2:])
        return torch.where(projected.sum((2, 3), keepdim=True) < 0, -projected, projected)


@dataclass(eq=False)
class GuidedGradCam(Method):
    """Guided Grad-CAM (Selvaraju et al. 2017, section 3.2): Grad-CAM times guided backpropagation.

    Args:
        model: Any classifier with ReLUs; it is not changed.
        layer: Layer of Grad-CAM; None for the last maps with more than one pixel.
        form: How the channels of the guided gradient are reduced to one value.
        chunk: Samples per chunk.
    """

    layer: str | None = None
    form: Form = "absolute"
    chunk: PositiveCount = field(default=64, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._cam = GradCam(self.model, self.layer)
        self._guided = GuidedBackprop(self.model)

    def maps(self, inputs: Tensor, target: Target) -> Tensor:
        """The product with its channels reduced."""
        guided = self._guided.gradient(inputs, target)
        return over_channels(guided * self._cam.maps(inputs, target), self.form)


@dataclass(eq=False)
class Cam(Method):
    r"""Class activation maps (Zhou et al. 2016, equation 2).

    .. math:: \sum_k w_k A^k

    with :math:`w` the weights of the linear head behind global average pooling. The mean over
    places is the score without the bias; where the network crops the maps first, zero is added
    outside.

    Args:
        model: A classifier that ends in global average pooling and linear layers; it is not
            changed.
        chunk: Samples per chunk.
    """

    chunk: PositiveCount = field(default=64, kw_only=True)

    def maps(self, inputs: Tensor, target: Target) -> Tensor:
        """The sum at the size of the image."""
        graph = self.graph(inputs)
        maps, gradient = at_map(graph, _pooled(graph, target), inputs, target)
        pooled = gradient.any(1, keepdim=True)  # not all places if the maps are cropped
        count = pooled.sum((2, 3), keepdim=True).clamp(min=1)
        weights = gradient.sum((2, 3), keepdim=True) * pooled
        if not torch.allclose(gradient, weights / count, 1e-2, 0, equal_nan=True):
            raise _other_head(graph)
        return enlarged((weights * maps).sum(1, keepdim=True), inputs)


def last_map(graph: NetworkGraph, target: Target) -> Node:
    """The last operation before the head whose result are maps with more than one pixel.

    Raises:
        UnsupportedNetworkError: There is none, or it is unknown what its places are.
    """
    before = {_head(graph, target)}
    for node in reversed(graph.meanings):
        if node not in before:
            continue
        before |= {*node.all_input_nodes}
        value, meaning = graph.values[node], graph.meanings[node]
        if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point():
            continue
        if meaning.state is State.UNKNOWN:
            raise UnsupportedNetworkError(f"{meaning.reason}; choose another layer")
        if channel_axis(meaning) and meaning.size != (1, 1) and node is not graph.image:
            return node
    raise UnsupportedNetworkError(f"{graph.network}: no layer gives feature maps")


def _head(graph: NetworkGraph, target: Target) -> Node:
    """The operation that computes the output that a target is about."""
    returned = graph.module.graph.process_outputs(graph.module.graph.output_node().args[0])
    head: Any = head_of(returned, target)[0]
    return head  # type: ignore[no-any-return]


def _pooled(graph: NetworkGraph, target: Target) -> Node:
    """The last maps; the output is a linear function of them.

    Raises:
        UnsupportedNetworkError: It is another function.
    """
    node = _head(graph, target)
    while not channel_axis(graph.meanings[node]) or graph.meanings[node].size == (1, 1):
        read = [
            each
            for each in node.all_input_nodes
            if graph.meanings[each].state is not State.CONSTANT
        ]
        operands = [place for place, each in enumerate(node.args) if each in read]
        divides = operation_of(node) == "div" and operands != [0]
        if len(read) != 1 or len(operands) != 1 or operation_of(node) not in _LINEAR or divides:
            raise _other_head(graph)
        node = read[0]
    return node


def _other_head(graph: NetworkGraph) -> UnsupportedNetworkError:
    return UnsupportedNetworkError(
        "class activation maps need a network that ends in global average pooling and one linear "
        f"layer (model.head=gap), unlike {graph.network}; grad_cam works for others"
    )


def at_map(
    graph: NetworkGraph, node: Node, inputs: Tensor, target: Target
) -> tuple[Tensor, Tensor]:
    """Maps and their gradient, ``(N, C, H, W)`` each; of cropped or padded maps those before.

    Args:
        graph: The graph of the network.
        node: The operation whose result are the maps, such as :func:`last_map`.
        inputs: ``(N, C, H, W)``.
        target: See :func:`~vbp_lightning.attribution.scores.class_scores`.

    Raises:
        UnsupportedNetworkError: The result of the operation are no maps.
    """
    while operation_of(node) in ("slice", "pad", "constant_pad_nd"):
        before = node.all_input_nodes[0]
        if graph.meanings[before].size == graph.meanings[node].size:
            break
        node = before  # its places cover the image
    channels = channel_axis(graph.meanings[node])
    if channels is None:
        raise UnsupportedNetworkError(
            graph.meanings[node].reason
            or f"{described_layer(node, graph.network)}: its output is no feature map"
        )
    (maps,), (gradient,) = score_gradients(graph, inputs, target, [node])
    return maps.movedim(channels, 1), gradient.movedim(channels, 1)
