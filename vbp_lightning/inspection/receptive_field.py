"""Exact receptive fields, computed from the operations of a forward pass.

The arithmetic is that of Araujo, Norris and Sim, "Computing receptive fields of convolutional
neural networks" (Distill 2019). The position ``i`` of a map sees the pixels ``i·step + low`` to
``i·step + high``. The positions of the output of a window with ``k`` taps at distance ``d``, stride
``s`` and padding ``p`` over this map see ``i·(s·step) + low − p·step`` to ``i·(s·step) + high +
(d·(k − 1) − p)·step``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.fx import Node

from vbp_lightning.graph.exporting import described_layer, operation_of
from vbp_lightning.graph.geometry import Window
from vbp_lightning.graph.meaning import State, pointwise, same_labels, varying
from vbp_lightning.graph.network_graph import NetworkGraph, graph_of

Pair = npt.NDArray[np.int64]
"""``(2,)`` numbers along rows and columns."""


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels; it may reach beyond the image, into the padding.

    Args:
        top: First row.
        left: First column.
        bottom: One past the last row.
        right: One past the last column.
    """

    top: int
    left: int
    bottom: int
    right: int

    def clipped(self, height: int, width: int) -> "Box":
        """The part that lies inside an image; of no size if there is none."""
        top, left = max(self.top, 0), max(self.left, 0)
        return Box(top, left, max(min(self.bottom, height), top), max(min(self.right, width), left))


@dataclass(frozen=True)
class ReceptiveField:
    """The pixels that the positions of a layer's output depend on, along rows and columns.

    Position ``i`` sees the pixels ``i · step + low`` to ``i · step + high``, both included; pixels
    outside the image are padding.

    Args:
        step: Distance in pixels between the fields of neighbouring positions; 0 if all positions
            have the same field.
        low: First pixel of position 0.
        high: Last pixel of position 0.
        count: Number of positions.
    """

    step: Pair
    low: Pair
    high: Pair
    count: Pair

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, padding included."""
        height, width = (self.high - self.low + 1).tolist()
        return height, width

    def box(self, row: int, column: int) -> Box:
        """The pixels that one position sees, padding included."""
        top, left = ([row, column] * self.step + self.low).tolist()
        height, width = self.size
        return Box(top, left, top + height, left + width)

    def through(self, window: Window) -> "ReceptiveField":
        """The field of the output of a window over these positions."""
        k, s, p, d, _, count = np.array(window, np.int64)
        high = self.high + (d * (k - 1) - p) * self.step
        return ReceptiveField(self.step * s, self.low - p * self.step, high, count)

    def joined(self) -> "ReceptiveField":
        """The field of one position that depends on all of these."""
        high = self.high + (self.count - 1) * self.step
        return ReceptiveField(0 * self.step, self.low, high, np.ones_like(self.count))

    def union(self, other: "ReceptiveField") -> "ReceptiveField":
        """The field of positions that depend on both; on all positions if the steps differ."""
        same = self.step == other.step
        high = np.maximum(self.high, other.high)
        whole = np.maximum(self.joined().high, other.joined().high)
        return ReceptiveField(
            self.step * same,
            np.minimum(self.low, other.low),
            np.where(same, high, whole),
            np.maximum(self.count, other.count),
        )


class Unfollowed(Exception):
    """The reason why a receptive field is not known: an operation with unknown geometry."""


def receptive_fields(model: nn.Module, inputs: Tensor) -> dict[str, ReceptiveField | Unfollowed]:
    """The receptive field of every module's output.

    Args:
        model: Any network; left unchanged.
        inputs: ``(N, C, H, W)`` of the size for which the fields are computed.

    Returns:
        By module name in the order in which modules finish. A factor or a statistic over all
        places, as that of a gate, makes a field the whole image. Behind an operation that is not
        supported (transposed convolution, resizing), the reason is given instead of the field.

    Raises:
        UnsupportedNetworkError: The network cannot be exported.
    """
    graph = graph_of(model, inputs)
    fields = fields_of(graph)
    found = {name: fields[node] for name, node in graph.outputs.items() if node in fields}
    for name, field in found.items():
        flat = graph.values[graph.outputs[name]].ndim < 3
        if flat and isinstance(field, ReceptiveField):
            found[name] = field.joined()
    return found


def fields_of(graph: NetworkGraph) -> dict[Node, ReceptiveField | Unfollowed]:
    """The receptive field of the result of every operation that depends on the image, in order."""
    fields: dict[Node, ReceptiveField | Unfollowed] = {}
    labels: dict[Node, Any] = {}
    for node, meaning in graph.meanings.items():
        labels[node] = meaning.labels if meaning.state is State.MAP else None
        if node.op == "placeholder":
            one, zero = np.ones(2, np.int64), np.zeros(2, np.int64)
            fields[node] = ReceptiveField(one, zero, zero, np.array(meaning.size))
        elif meaning.state is not State.CONSTANT:
            fields[node] = _field(graph, node, fields, labels)
    return fields


def _field(
    graph: NetworkGraph,
    node: Node,
    fields: dict[Node, ReceptiveField | Unfollowed],
    labels: dict[Node, Any],
) -> ReceptiveField | Unfollowed:
    """The field of the result of an operation from those of all that it reads."""
    meaning, name = graph.meanings[node], operation_of(node)
    operands = [each for each in node.all_input_nodes if each in fields]
    read = []
    for each in operands:
        field = fields[each]
        if isinstance(field, Unfollowed):
            return field
        read.append(field)
    found = reduce(ReceptiveField.union, read)
    axes: Sequence[int] = ()  # along which each value depends on all others
    argument: Any = node.args[1] if len(node.args) > 1 else None
    if meaning.state is State.UNKNOWN:
        # No mask can pass, but what is computed from each value or over channels keeps its place.
        maps = [each for each in operands if labels[each] is not None]
        shape, before = (graph.values[each].shape for each in (node, operands[0]))
        if len(before) == len(shape):
            axes = [axis for axis, size in enumerate(shape) if size == 1 < before[axis]]
        if not maps or not (axes or pointwise(node)) or not _alike([labels[each] for each in maps]):
            return Unfollowed(meaning.reason)
        labels[node] = labels[maps[0]]
    elif meaning.layers:
        for layer in meaning.layers:
            window = layer.window or _other_window(node, argument, meaning.size)
            if window is None:
                return Unfollowed(
                    f"{described_layer(node, graph.network)}: {name} has no window of one size "
                    "and step, as convolutions and poolings have"
                )
            found = found.through(window)
        return found
    elif meaning.state is not State.MAP:
        return found.joined()
    elif name in ("layer_norm", "rms_norm"):
        axes = range(-len(argument), 0)
    elif name in ("softmax", "log_softmax"):
        axes = [argument]
    elif name in ("group_norm", "native_group_norm", "instance_norm"):
        axes = range(1, graph.values[node].ndim)
    if not isinstance(labels[node], Tensor):  # several results
        return found
    if {axis % labels[node].ndim for axis in axes} & varying(labels[node]):
        return replace(found.joined(), count=found.count)
    return found


def _alike(labels: Sequence[Any]) -> bool:
    """Whether maps have the same places, all of them, along the same axes."""
    return all(isinstance(each, Tensor) and same_labels(each, labels[0]) for each in labels)


def _other_window(node: Node, argument: Any, size: tuple[int, int]) -> Window | None:  # noqa: ANN401
    """The window of blocks of pixels, or of a padding with pixels from near the border."""
    name = operation_of(node)
    if name == "pixel_unshuffle":
        return Window((argument,) * 2, (argument,) * 2, (0, 0), (1, 1), size, size)
    if "pad" not in name or "circular" in node.args[2:]:
        return None
    left, _, top = (*argument, 0)[:3]
    return Window((1, 1), (1, 1), (top, left), (1, 1), size, size)
