"""A network split at its global pooling, so that the part before it can run over a whole scene."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from vbp_lightning.graph.exporting import (
    UnsupportedNetworkError,
    described_layer,
    operation_of,
)
from vbp_lightning.graph.geometry import Window
from vbp_lightning.graph.meaning import MOVING, State, channel_axis, pointwise, varying
from vbp_lightning.graph.network_graph import NetworkGraph, graph_of
from vbp_lightning.graph.outputs import output_named
from vbp_lightning.inspection.receptive_field import ReceptiveField, Unfollowed, fields_of
from vbp_lightning.scene_maps.block_maps import probabilities

_POOLINGS = {
    **dict.fromkeys(("mean", "adaptive_avg_pool2d", "avg_pool2d"), "mean"),
    **dict.fromkeys(("amax", "max", "adaptive_max_pool2d", "max_pool2d"), "max"),
}
_EQUAL = {
    f"{prefix}{name}{suffix}"
    for name in ("zeros", "ones", "full")
    for prefix, suffix in (("", ""), ("new_", ""), ("", "_like"))
}
"""Operations that fill a tensor with one value."""

_ROWS = 1024
"""Windows per evaluation of the head: their hidden layers fit in the processor's cache."""


class NotConvolutionalError(UnsupportedNetworkError):
    """A network cannot run over a whole scene at once; names the layer and the reason."""


@dataclass(frozen=True, eq=False)
class SplitNetwork:
    """The parts of a fully convolutional network, with its own parameters and buffers.

    Along both axes, feature ``k`` of an image belongs to the window that begins at its pixel
    ``(k - cropped) · step``, whatever the padding of the layers.

    Args:
        trunk: Images ``(N, C, H, W)`` of any size to features ``(N, F, h, w)``.
        head: Pooled features ``(N, *pooled)`` to logits ``(N, 1)``.
        pooled: The shape that the network pools the features of one window to.
        pooling: ``mean`` or ``max``.
        step: Distance of the features in pixels.
        cropped: Features that the network removes on each side before the pooling.
        features: Features along each side of a window that are pooled.
        field: The pixels that each feature depends on.
    """

    trunk: GraphModule
    head: GraphModule
    pooled: tuple[int, ...]
    pooling: str
    step: int
    cropped: int
    features: int
    field: ReceptiveField

    @property
    def reach(self) -> tuple[int, int]:
        """First and last pixel that the features of a window depend on, from its beginning."""
        last = self.cropped + self.features - 1
        low, high = int(self.field.low.min()), int(self.field.high.max())
        return self.cropped * self.step + low, last * self.step + high

    def pooled_windows(self, features: Tensor) -> Tensor:
        """The pooled features ``(N, F, h - n + 1, w - n + 1)`` of every window of features."""
        slide = sliding_mean if self.pooling == "mean" else sliding_max
        return slide(features, self.features)

    @torch.no_grad()
    def window_logits(self, features: Tensor) -> Tensor:
        """The logit of every window of the features of an image.

        Args:
            features: ``(1, F, h, w)``, an output of the trunk.

        Returns:
            ``(h - n + 1, w - n + 1)`` for windows of ``n`` × ``n`` features.
        """
        found = self.pooled_windows(features)
        flat = found[0].flatten(1).T.contiguous()
        parts = (part.view(-1, *self.pooled) for part in torch.split(flat, _ROWS))
        return torch.cat([self.head(part) for part in parts]).view(found.shape[2:])

    def window_probabilities(self, features: Tensor) -> NDArray[np.float32]:
        """P(road) of every window, see :meth:`window_logits`."""
        logits = self.window_logits(features)
        return probabilities(logits.view(-1, 1)).reshape(logits.shape)


def split_network(network: nn.Module, tiles: Tensor) -> SplitNetwork:
    """Splits a network at its global pooling.

    Args:
        network: Raw tiles ``(N, C, T, T)`` to logits ``(N, 1)``; it is not changed.
        tiles: Of this size, on the device of the network; their values do not matter.

    Returns:
        The same object as long as the network holds the same tensors on the same device.

    Raises:
        NotConvolutionalError: What is pooled depends on more than the pixels around each feature,
            there is no global pooling, or the distance of the features does not divide the tile.
    """
    graph = graph_of(network, tiles, free_size=True)
    if "split" not in graph.programs:
        graph.programs["split"] = _split(graph)
    found: SplitNetwork = graph.programs["split"]
    return found


def _split(graph: NetworkGraph) -> SplitNetwork:
    code = graph.module.graph
    output: Node = output_named(code.process_outputs(code.output_node().args[0]), None)
    pool, features = _pooling(graph, output)
    cropped = 0
    while crop := _crop(graph, features):
        cropped += crop
        features = features.args[0]  # type: ignore[assignment]
    field = _local_field(graph, features)
    (step, other), side = field.step.tolist(), graph.meanings[graph.image].size[0]
    if step != other or side % step:
        distance = f"{step} px" if step == other else f"{step} px in rows and {other} px in columns"
        raise NotConvolutionalError(
            f"{described_layer(features, graph.network)}: its features are {distance} apart, "
            f"which {'does not divide' if step == other else 'must be equal and divide'} the tile "
            f"of {side} px"
        )
    split = SplitNetwork(
        _part(graph, features, graph.image),
        _part(graph, output, pool),
        tuple(graph.values[pool].shape[1:]),
        _kind(pool) or "max",
        step,
        cropped,
        graph.values[features].shape[_rows_axis(graph, features)] - 2 * cropped,
        field,
    )
    _check(graph, split)
    return split


def _pooling(graph: NetworkGraph, output: Node) -> tuple[Node, Node]:
    """The operation from whose result alone the output is computed, and the map that it pools."""
    nodes = list(graph.module.graph.nodes)
    pools = [(node, below) for node in nodes if (below := _pooled_map(graph, node)) is not None]
    single = [
        node for node in nodes if _is_map(graph, node) and graph.meanings[node].size == (1, 1)
    ]
    for pool, below in pools + [(node, node) for node in reversed(single)]:
        if graph.image not in _needed(output, pool):
            return pool, below
    needed, mixed = _needed(output), (State.MIXED, State.UNKNOWN)
    first = next((n for n in nodes if n in needed and graph.meanings[n].state in mixed), output)
    raise NotConvolutionalError(
        f"{described_layer(first, graph.network)}: {operation_of(first)} mixes all places of the "
        "image, and is not the one global pooling before the head"
    )


def _kind(node: Node) -> str | None:
    """``mean`` or ``max`` for a pooling, also for the first result of one that gives two."""
    if operation_of(node) == "getitem":
        return _kind(node.args[0]) if node.args[1] == 0 else None  # type: ignore[arg-type]
    return _POOLINGS.get(operation_of(node))


def _pooled_map(graph: NetworkGraph, node: Node) -> Node | None:
    """The map of which an operation gives one value for each channel; None if it does not."""
    if node.op != "call_function" or (kind := _kind(node)) is None:
        return None
    if not isinstance(graph.values[node], Tensor):
        return None
    meaning = graph.meanings[node]
    below = node
    while below is node or not _is_map(graph, below):
        if _kind(below) != kind and operation_of(below) not in MOVING:
            return None
        (below,) = (below.all_input_nodes or [None])[:1]  # type: ignore[list-item]
        if below is None or below.op != "call_function":
            return None
    window = meaning.layers[-1].window if meaning.layers else None
    whole = window.kernel == window.below if window else meaning.state is State.MIXED
    channels = graph.values[below].shape[channel_axis(graph.meanings[below]) or 1]
    return below if whole and graph.values[node][0].numel() == channels else None


def _is_map(graph: NetworkGraph, node: Node) -> bool:
    """Whether a result is ``(N, C, h, w)`` or ``(N, h, w, C)`` places."""
    return node.op == "call_function" and channel_axis(graph.meanings[node]) in (1, 3)


def _rows_axis(graph: NetworkGraph, node: Node) -> int:
    return 2 if channel_axis(graph.meanings[node]) == 1 else 1


def _crop(graph: NetworkGraph, node: Node) -> int:
    """The number of places that an operation removes on every side; 0 if it does something else."""
    layers = graph.meanings[node].layers
    window = layers[0].window if operation_of(node) in MOVING and len(layers) == 1 else None
    if window is None or window.padding[0] >= 0:
        return 0
    cut = -window.padding[0]
    height, width = window.below
    above = height - 2 * cut, width - 2 * cut
    cropping = Window((1, 1), (1, 1), (-cut, -cut), (1, 1), window.below, above)
    return cut if window == cropping else 0


def _needed(last: Node, given: Node | None = None) -> set[Node]:
    """The operations that a result is computed with, except for what another one depends on."""
    found, waiting = set[Node](), [last]
    while waiting:
        node = waiting.pop()
        if node is not given and node not in found:
            found.add(node)
            waiting += () if _counts_images(node) else node.all_input_nodes
    return found


def _counts_images(node: Node) -> bool:
    return operation_of(node) == "sym_size" and node.args[1:] == (0,)


def _local_field(graph: NetworkGraph, last: Node) -> ReceptiveField:
    """The receptive field of a map, each value of which depends on the pixels around it alone."""
    fields, needed = fields_of(graph), _needed(last)
    for node in (each for each in fields if each in needed):
        field, name = fields[node], operation_of(node)
        if isinstance(field, Unfollowed):
            raise NotConvolutionalError(str(field))
        reason = None
        if not field.step.all():
            reason = f"{name} mixes all places of the image"
        elif name.startswith("adaptive_"):
            reason = "it pools to a fixed number of places"
        elif (pointwise(node) or name in ("cat", "stack")) and _placed(graph, node):
            reason = f"{name} uses values that depend on the place or the size of the image"
        if reason:
            raise NotConvolutionalError(f"{described_layer(node, graph.network)}: {reason}")
    found = fields[last]
    assert isinstance(found, ReceptiveField)
    return found


def _placed(graph: NetworkGraph, node: Node) -> bool:
    """Whether an operand differs from place to place, or is a number, and is no map."""
    labels, rank = graph.meanings[node].labels, graph.values[node].ndim
    axes = varying(labels) - {0} if isinstance(labels, Tensor) else {2, 3}
    for operand in node.all_input_nodes:
        value = graph.values[operand]
        if graph.meanings[operand].state is not State.CONSTANT or operation_of(operand) in _EQUAL:
            continue
        if not isinstance(value, Tensor):
            return True
        shape = (1,) * (rank - value.ndim) + tuple(value.shape)
        if any(shape[axis] > 1 for axis in axes):
            return True
    return False


def _part(graph: NetworkGraph, last: Node, given: Node) -> GraphModule:
    """The operations that compute a result from another one."""
    code, made, needed = Graph(), dict[Node, Node](), _needed(last, given)
    trunk = given is graph.image
    made[given] = code.node_copy(given) if trunk else code.placeholder("pooled")
    for node in graph.module.graph.nodes:
        if node in needed and _counts_images(node):
            made[node] = code.call_function(torch.ops.aten.sym_size.int, (made[given], 0))
        elif node in needed and node is not given:
            made[node] = code.node_copy(node, made.__getitem__)
    found = made[last]
    if trunk and channel_axis(graph.meanings[last]) == 3:
        found = code.call_function(torch.ops.aten.permute.default, (found, [0, 3, 1, 2]))
    code.output(found)
    part = GraphModule(graph.module, code, graph.network)
    if not isinstance(graph.image.meta["val"].shape[2], int):
        part.meta["outputs"] = {}  # for graph_of these are operations for any size
    return part


def _check(graph: NetworkGraph, split: SplitNetwork) -> None:
    """Refuses parts that do not give the network's output, or not on images of other sizes."""
    known = graph.image.meta["val"]
    channels, side = graph.values[graph.image].shape[1:3]
    generator = torch.Generator().manual_seed(0)
    tiles = torch.randn(2, channels, side, side, generator=generator).to(known.device, known.dtype)
    with torch.no_grad():
        expected = output_named(graph.module(tiles), None).flatten()
        logits = [split.window_logits(each[None]) for each in split.trunk(tiles)]
    found = torch.stack([each[split.cropped, split.cropped] for each in logits])
    if not torch.allclose(found, expected, rtol=1e-2, atol=1e-2, equal_nan=True):
        raise NotConvolutionalError(
            f"{graph.network}: it does more than pool its last map globally"
        )
    other = tiles[:1, :, :1, :1].expand(1, channels, 2 * side, 2 * side + split.step)
    try:
        graph_of(split.trunk, other, free_size=True)
    except (UnsupportedNetworkError, RuntimeError) as error:
        raise NotConvolutionalError(
            f"{graph.network}: its operations hold for images of {side} px only"
        ) from error


def sliding_max(features: Tensor, size: int) -> Tensor:
    """Largest value of every window of ``size`` × ``size`` of ``(N, C, h, w)``.

    Each window is the maximum of two smaller ones, which are twice as large in every step.

    Returns:
        ``(N, C, h - size + 1, w - size + 1)``.
    """
    for dim in (2, 3):
        reached = 1
        while reached < size:
            shift = min(reached, size - reached)
            length = features.shape[dim] - shift
            features = torch.maximum(
                features.narrow(dim, 0, length), features.narrow(dim, shift, length)
            )
            reached += shift
    return features


def sliding_mean(features: Tensor, size: int) -> Tensor:
    """Mean of every window of ``size`` × ``size`` of ``(N, C, h, w)``, as :func:`sliding_max`."""
    return F.avg_pool2d(F.avg_pool2d(features, (size, 1), 1), (1, size), 1)
