"""What the operations of a network do with places: the rules for ATen operations.

A *map* is a tensor whose values belong to places of a grid over the image. Each value carries a
label, the number of its place. Operations that only move values, such as a permutation, a reshaping
or a padding, are run on the labels to see where each value went.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from vbp_lightning.errors import one_line
from vbp_lightning.graph.exporting import described_layer, operation_of
from vbp_lightning.graph.geometry import Layer, Pair, Window, both


class State(Enum):
    """The relation of a tensor to the places of the image."""

    CONSTANT = "does not depend on the image"
    MAP = "belongs to places"
    MIXED = "places are mixed"
    UNKNOWN = "not known"


@dataclass(frozen=True, eq=False)
class Meaning:
    """What is known about the result of an operation.

    Args:
        state: Its relation to the places of the image.
        labels: For two images, a label of each value, in the shape of the result; a list for an
            operation with several results. In a map, 1 + the number of the place, plus the number
            of places for the second image; 0 for padding. Otherwise equal where values are equal.
        size: For a map, height and width of the grid of its places.
        follows: The maps that it was computed from and that the mask goes back to; the factor of a
            gate is not among them.
        layers: The layers between these and the result, in forward order.
        activates: Whether it is the output of an activation.
        convolved: Whether a convolution came before.
        positive: Whether no value is negative.
        gate: Whether it is the output of a sigmoid, a softmax or the like.
        source: The operation whose result, value by value, it is a function of.
        reason: If it is not known, why, with the name of the layer.
        of_batch: If it is not known, whether it depends on the other images of a batch.
    """

    state: State
    labels: Any = None
    size: Pair = (1, 1)
    follows: tuple[Node, ...] = ()
    layers: tuple[Layer, ...] = ()
    activates: bool = False
    convolved: bool = False
    positive: bool = False
    gate: bool = False
    source: Node | None = None
    reason: str = ""
    of_batch: bool = False


CONSTANT = Meaning(State.CONSTANT)

_FACTORIES = {
    "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full",
    "new_empty", "rand_like", "randn_like",
}  # fmt: skip
_COPIES = {"clone", "to", "_to_copy", "contiguous", "detach", "alias", "lift_fresh_copy", "type_as"}
_VIEWS = {
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view", "view_as",
    "reshape_as",
}  # fmt: skip
_MOVES = {
    *_VIEWS, "permute", "transpose", "t", "movedim", "swapaxes", "expand", "expand_as",
    "repeat", "repeat_interleave", "tile", "slice", "select", "narrow", "index_select",
    "index", "roll", "flip", "rot90", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "unfold", "im2col", "glu",
}  # fmt: skip
_SPLITS = {"chunk", "split", "split_with_sizes", "tensor_split", "unbind"}
_PADS = {"pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d"}
_ACTIVATIONS = {
    "relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish",
    "hardswish", "softplus", "tanh", "sigmoid", "hardsigmoid",
}  # fmt: skip
_POSITIVE = {"relu", "relu6", "sigmoid", "hardsigmoid", "softplus"}
_CLAMPS = {"clamp", "clamp_min", "clip"}
_CUTTING = {*_CLAMPS, "hardtanh", "threshold"}
_GATES = {"sigmoid", "hardsigmoid", "tanh"}
_FACTORS = {*_GATES, "rsqrt", "reciprocal"}  # of a gate or a normalisation
_MONOTONE = {"abs", "pow", "sqrt", "log", "log1p", "exp", "square", "clamp_max"}
_ARITHMETIC = {"add", "sub", "rsub", "mul", "div", "maximum", "minimum", "addcmul", "addcdiv"}
_NORMS = {
    "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "native_group_norm",
}  # fmt: skip
_REDUCTIONS = {
    "mean", "sum", "amax", "amin", "max", "min", "logsumexp", "std", "var", "linalg_vector_norm",
    "norm", "prod",
}  # fmt: skip
_PRODUCTS = {
    "linear", "matmul", "bmm", "mm", "baddbmm", "addmm", "einsum", "scaled_dot_product_attention",
}  # fmt: skip
_WINDOWS = {"conv2d", "max_pool2d", "max_pool2d_with_indices", "avg_pool2d"}

MOVING = (_COPIES - {"detach"}) | _MOVES | _SPLITS | _PADS | {"getitem", "cat", "stack"}
"""Operations that copy, move, join or pad values."""
KEEPING_ZERO = (_ACTIVATIONS | _CUTTING) - {"sigmoid", "hardsigmoid", "softplus"}
"""Activations that give zero for zero, except where they are cut off."""


def meanings_of(module: GraphModule, values: dict[Node, Any], network: str) -> dict[Node, Meaning]:
    """The meaning of each operation of an exported forward pass.

    Args:
        module: The operations.
        values: For each operation, in order, its result on tensors without values, for two images
            of one size.
        network: Type of the network, for messages.
    """
    rules = _Rules(module, values, network)
    for node in values:
        rules.add(node)
    return rules.known


class _Rules:
    """The arguments are those of :func:`meanings_of`; ``known`` holds the meanings so far."""

    def __init__(self, module: GraphModule, values: dict[Node, Any], network: str) -> None:
        self.module = module
        self.values = values
        self.network = network
        self.known: dict[Node, Meaning] = {}
        self._grids: dict[Pair, Tensor] = {}

    def add(self, node: Node) -> None:
        """Determines the meaning of the next operation."""
        if node.op == "placeholder":
            shape = self.shape(node)
            size = shape[2], shape[3]
            labels = self._grid(size).expand(shape)
            self.known[node] = Meaning(State.MAP, labels, size, source=node)
        elif node.op != "call_function" or not self._read(node) or not self._is_tensor(node):
            self.known[node] = CONSTANT
        else:
            try:
                self.known[node] = self._of(node, operation_of(node))
            except (RuntimeError, IndexError, NotImplementedError) as error:
                reason = f"its places cannot be followed ({one_line(error)[:100]})"
                self.known[node] = self._unknown(node, reason)

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of a result, of the first one if there are several."""
        value = self.values[node]
        while isinstance(value, list | tuple):
            value = value[0]
        return tuple(value.shape)

    def _is_tensor(self, node: Node) -> bool:
        return isinstance(self.values[node], Tensor | list | tuple)

    def _grid(self, size: Pair) -> Tensor:
        """Labels of the places of two images, ``(2, 1, H, W)``."""
        if size not in self._grids:
            numbers = torch.arange(1, 1 + 2 * size[0] * size[1], dtype=torch.float64)
            self._grids[size] = numbers.view(2, 1, *size)
        return self._grids[size]

    def _read(self, node: Node) -> list[Node]:
        """The operands that depend on the image, in order and as often as they are used."""
        found: list[Node] = []

        def add(value: Node) -> None:
            if self.known[value].state is not State.CONSTANT:
                found.append(value)

        map_arg((node.args, node.kwargs), add)
        return found

    def _unknown(self, node: Node, reason: str, **facts: Any) -> Meaning:  # noqa: ANN401
        """The meaning of an operation that no mask can pass."""
        gates = (self.known[each].gate for each in self._read(node))
        facts = {"gate": operation_of(node) in _FACTORS or any(gates), **facts}
        reason = f"{described_layer(node, self.network)}: {reason}"
        return Meaning(State.UNKNOWN, reason=reason, **facts)

    def _mixed(self, node: Node, equal: Sequence[int] = (), gate: bool = False) -> Meaning:
        """The meaning of a result without places, whose values are equal along some axes."""
        shape = self.shape(node)
        kept = [1 if axis in equal else length for axis, length in enumerate(shape)]
        labels = torch.arange(torch.Size(kept).numel(), dtype=torch.float64).view(kept)
        return Meaning(State.MIXED, labels.expand(shape), gate=gate)

    def _after(self, node: Node, *read: Node, **changes: Any) -> Meaning:  # noqa: ANN401
        """The meaning of a map with the places of the first one that it was computed from."""
        usual = {"follows": read, "layers": (), "activates": False, "positive": False,
                 "gate": False, "source": node}  # fmt: skip
        return replace(self.known[read[0]], **{**usual, **changes})

    def _each(self, node: Node, read: Node, **changes: Any) -> Meaning:  # noqa: ANN401
        """The meaning of a function of each value alone."""
        first = self.known[read]
        return self._after(node, read, **{"source": first.source, "gate": first.gate, **changes})

    def _of(self, node: Node, name: str) -> Meaning:
        read = self._read(node)
        if name.endswith("_as"):  # the second operand gives type or shape only
            read = read[:1]
        known = [self.known[each] for each in read]
        first = known[0]
        states = {each.state for each in known}
        if name in _FACTORIES:
            return CONSTANT
        if name == "getitem":
            return self._item(node, read[0], node.args[1])
        if states == {State.MIXED}:
            return self._of_mixed(node, name, known)
        if name in _ARITHMETIC:
            return self._arithmetic(node, name, read)
        if State.UNKNOWN in states:
            unknown = max(
                (each for each in known if each.state is State.UNKNOWN), key=lambda e: e.of_batch
            )
            gate = name in _FACTORS or any(each.gate for each in known)
            return replace(unknown, gate=gate, source=unknown.source if pointwise(node) else None)
        if name in _PRODUCTS:
            return self._product(node, name, read)
        if name in ("cat", "stack"):
            return self._join(node, name, read)
        if len(set(read)) > 1 or first.state is State.MIXED or read[0] not in node.args[:1]:
            weights = name.startswith("conv") and "its weights depend on the image"
            return self._unknown(node, weights or f"there is no rule for {name} on several maps")
        if name in _COPIES or name in ("neg", "nan_to_num"):
            return self._each(node, read[0], positive=first.positive and name in _COPIES)
        if name in _ACTIVATIONS | _CUTTING:
            return self._activation(node, name, read[0])
        if name in _MONOTONE and (first.positive or not first.convolved):
            return self._each(node, read[0], positive=first.positive)
        if name in _NORMS:
            return self._norm(node, name, read[0])
        if name in ("softmax", "log_softmax"):
            return self._after(node, read[0], gate=True)
        if name in _REDUCTIONS:
            return self._reduction(node, name, read[0])
        if name in _MOVES | _PADS | _SPLITS or "upsample_nearest" in name:
            labels = self._moved(node, name, first.labels)
            changes = {"positive": first.positive, "gate": first.gate}
            if isinstance(labels, list):
                return self._after(node, read[0], labels=labels, **changes)
            return self._placed(node, self._after(node, read[0], labels=labels, **changes))
        return self._layer(node, name, read[0])

    def _item(self, node: Node, read: Node, index: Any) -> Meaning:  # noqa: ANN401
        """One of several results."""
        first = self.known[read]
        if isinstance(first.labels, list):
            found = replace(first, labels=first.labels[index], follows=(read,), source=node)
            return self._placed(node, found) if first.state is State.MAP else found
        if first.state is State.UNKNOWN or index == 0:
            return self._each(node, read, positive=first.positive)
        return self._mixed(node)

    def _of_mixed(self, node: Node, name: str, known: Sequence[Meaning]) -> Meaning:
        """Operations on what has no places any more."""
        first = known[0]
        gate = name in _GATES or "softmax" in name or any(each.gate for each in known)
        if len(known) == 1 and (name in _MOVES | _SPLITS or "upsample_nearest" in name):
            return Meaning(State.MIXED, self._moved(node, name, first.labels), gate=gate)
        shape = self.shape(node)
        if name in _WINDOWS | {"conv_transpose2d"} and varying(first.labels) & {2, 3}:
            return self._unknown(
                node, "it reads values that were mixed over all places as a map of places again"
            )
        changed = [*range(len(shape))]
        if pointwise(node):
            changed = [a for each in known for a in varying(each.labels.expand(shape))]
        elif "upsample" in name:
            changed = [*varying(first.labels)]
        return self._mixed(node, [axis for axis in range(len(shape)) if axis not in changed], gate)

    # Operations that move values

    def _moved(self, node: Node, name: str, labels: Tensor) -> Any:  # noqa: ANN401
        """The labels after an operation that only moves values."""

        def argument(other: Node) -> Any:  # noqa: ANN401
            value = labels if other is node.args[0] else self._constant(other)
            return value.cpu() if isinstance(value, Tensor) else value

        shape = self.shape(node)
        if name in _VIEWS:
            return _compact(labels.reshape(shape))
        if name.startswith("expand"):
            return _compact(labels.expand(shape))
        if name == "glu":
            return labels.chunk(2, _argument(node, 1, "dim", -1))[0]
        arguments: Any = map_arg(node.args, argument)
        keywords: Any = map_arg(dict(node.kwargs), argument)
        if name == "constant_pad_nd" or (name == "pad" and arguments[2:3] in ((), ("constant",))):
            # What is added along other axes than those of places belongs to the same places.
            kept = varying(labels) | ({2, 3} & {*range(labels.ndim)})
            widths = [
                width if labels.ndim - 1 - place // 2 in kept else 0
                for place, width in enumerate(arguments[1])
            ]
            return _compact(F.pad(_small(labels, kept), widths).expand(shape))
        if name in _PADS or "upsample" in name:
            labels = labels.narrow(1, 0, 1) if 1 not in varying(labels) else labels
            arguments = (labels, *arguments[1:])
        found: Any = node.target(*arguments, **keywords)  # type: ignore[operator]
        if isinstance(found, list | tuple):
            return [_compact(each) for each in found]
        return _compact(found).expand(shape)

    def _constant(self, node: Node) -> Any:  # noqa: ANN401
        """The value of an operation that does not depend on the image, or of a size."""
        if not self._is_tensor(node):
            return self.values[node]
        if node.op == "get_attr":
            return attrgetter(str(node.target))(self.module)
        arguments: Any = map_arg(node.args, self._constant)
        return node.target(*arguments, **map_arg(dict(node.kwargs), self._constant))  # type: ignore[operator]

    def _placed(self, node: Node, found: Meaning) -> Meaning:
        """Numbers the places of moved values anew, if they are no longer those of the grid.

        Only what can be ``(N, C, H, W)`` is numbered; other results wait for the next move.
        """
        axes = sorted(varying(found.labels) - {0})
        rank = found.labels.ndim
        if rank < 3 and found.size == (1, 1):
            return self._mixed(node)
        layout = None if len(axes) > 2 else arrangement(found.labels, found.size)
        # Of three axes one is that of channels, and so may be one of two beside an axis of size 1.
        mixed = len(axes) == 3 or (len(axes) == 2 and 1 in axes and 1 in found.labels.shape[2:])
        settled = layout is not None and (layout[1] is None or not (mixed or axes == [2, 3]))
        if rank != 4 or settled:
            return found
        pair = (axes[0], axes[1]) if len(axes) == 2 else (2, 3)
        if mixed:
            pair = _axes_of_places(found.labels, found.size)
        return self._numbered(found, pair) or found

    def _numbered(self, found: Meaning, axes: Pair) -> Meaning | None:
        """A map with places of its own along two axes; None if other axes hold the samples."""
        sample = _sample(found.labels, found.size)
        if sample is None:
            return None
        shape = found.labels.shape
        size = shape[axes[0]], shape[axes[1]]
        layer = gathering(sample.movedim([axis - 1 for axis in axes], (1, 2)), found.size)
        view = [2 if a == 0 else shape[a] if a in axes else 1 for a in range(4)]
        labels = self._grid(size).view(view).expand(shape)
        return replace(found, labels=labels, size=size, layers=(*found.layers, layer))

    # Operations on one map

    def _activation(self, node: Node, name: str, read: Node) -> Meaning:
        first = self.known[read]
        lowest: Any = 0
        if name in _CUTTING:
            default = -1.0 if name == "hardtanh" else None
            lowest = _argument(node, 2 if name == "threshold" else 1, "min", default)
        bounded = isinstance(lowest, int | float)
        cut = bounded and lowest >= 0
        if name in _CLAMPS and (not first.convolved or not bounded or lowest > 0):
            return self._each(node, read, positive=cut or first.positive)
        positive = name in _POSITIVE or (name in _CUTTING and cut)
        return self._activated(node, read, positive=positive, gate=name in _GATES)

    def _activated(self, node: Node, read: Node, **changes: Any) -> Meaning:  # noqa: ANN401
        first = self.known[read]
        if arrangement(first.labels, first.size) is None:
            return self._unknown(node, "it acts on values that left the grid of places")
        return self._each(node, read, activates=True, **changes)

    def _norm(self, node: Node, name: str, read: Node) -> Meaning:
        arguments: tuple[Any, ...] = node.args
        if name == "batch_norm" and (arguments[3] is None or arguments[5] is True):
            reason = "it normalises with the statistics of the batch even in eval mode, "
            reason += "so a mask would depend on the other samples"
            return self._unknown(node, reason, of_batch=True)
        return self._after(node, read)

    def _reduction(self, node: Node, name: str, read: Node) -> Meaning:
        first = self.known[read]
        dims = _argument(node, 2 if name in ("linalg_vector_norm", "norm") else 1, "dim", [])
        rank = first.labels.ndim
        dims = [dims] if isinstance(dims, int) else dims or range(rank)
        axes = sorted({axis % rank for axis in dims})
        if varying(_numbers_of_images(first)) & {*axes}:
            return self._unknown(node, f"{name} mixes the samples of a batch", of_batch=True)
        # In a map of one pixel no axis varies, and the last two are those of the places.
        pixel = first.size == (1, 1) and rank == 4 and axes[-1] > 1
        if varying(first.labels) & {*axes} or pixel:
            return self._mixed(node)
        labels = first.labels
        for axis in reversed(axes):
            labels = labels.select(axis, 0)
        if self.shape(node) != tuple(labels.shape):
            for axis in axes:
                labels = labels.unsqueeze(axis)
        return self._after(node, read, labels=labels, positive=first.positive)

    def _product(self, node: Node, name: str, read: list[Node]) -> Meaning:
        """Products with matrices; one with a constant may mix channels only."""
        labels = self.known[read[0]].labels
        operands = [each for each in node.args if isinstance(each, Node)]
        pair = operands if name in ("matmul", "bmm", "mm") else operands[-2:]
        pair = operands[:2] if name == "linear" else pair
        if len(read) > 1 or read[0] not in pair or name == "einsum":
            return self._mixed(node)
        axis = labels.ndim - (1 if pair[0] is read[0] else 2)
        shape = self.shape(node)
        if axis < 1 or axis in varying(labels) or (self.known[read[0]].size == (1, 1) and axis < 2):
            return self._mixed(node)
        return self._after(
            node, read[0], labels=labels.narrow(axis, 0, 1).expand(shape), convolved=True
        )

    # Layers between two grids

    def _layer(self, node: Node, name: str, read: Node) -> Meaning:
        """Operations with sliding windows, and resizings."""
        below: Meaning | None = self.known[read]
        assert below is not None
        shape = self.shape(node)
        if len(shape) != 4 or below.labels.ndim != 4 or pointwise(node):
            source = below.source if pointwise(node) else None
            return self._unknown(node, f"there is no rule for {name} on a map", source=source)
        if not same_labels(below.labels, self._grid(below.size)):
            below = self._numbered(replace(below, layers=()), (2, 3))
            if below is None:
                return self._unknown(node, f"{name} reads values that are not (N, C, H, W) places")
        above = shape[2], shape[3]
        if name.startswith("adaptive_") and above == (1, 1):
            return self._mixed(node)
        layer = self._layer_of(node, name, below.size, above)
        if layer is None:
            return self._unknown(node, f"there is no rule for {name} on a map")
        layers = below.layers if below is not self.known[read] else ()
        still = layer.window is not None and layer.window.moves_nothing
        convolves = name.startswith("conv")
        return self._after(
            node,
            read,
            labels=self._grid(above).expand(shape),
            size=above,
            layers=layers if still else (*layers, layer),
            convolved=below.convolved or convolves,
            positive=below.positive and not convolves,
        )

    def _layer_of(self, node: Node, name: str, below: Pair, above: Pair) -> Layer | None:
        arguments: list[Any] = [map_arg(each, self.values.__getitem__) for each in node.args[1:]]
        keywords: Any = map_arg(dict(node.kwargs), self.values.__getitem__)
        if name in _WINDOWS:
            window = _window(name, arguments, below, above)
            return Layer(window, maximum="max" in name)
        if name.startswith("adaptive_") and not (below[0] % above[0] or below[1] % above[1]):
            taps = below[0] // above[0], below[1] // above[1]
            return Layer(Window(taps, taps, (0, 0), (1, 1), below, above))
        apply: Callable[[Tensor], Tensor]
        if name.startswith("adaptive_"):
            apply = partial(_adapted, above)
        elif name.startswith("upsample_bilinear"):
            apply = partial(_applied, node.target, arguments, keywords)
        elif name.startswith(("upsample_bicubic", "_upsample_b")):
            apply = partial(F.interpolate, size=above, mode="bilinear")
        elif name == "conv_transpose2d":
            apply = partial(_transposed, arguments[0].shape[2:], arguments[2:])
        else:
            return None
        return Layer(None, apply=apply, below=below)

    # Joins and gates

    def _join(self, node: Node, name: str, read: list[Node]) -> Meaning:
        known = [self.known[each] for each in read]
        if any(each.state is State.MIXED for each in known):
            return self._unknown(
                node, f"{name} joins a map and values that were mixed over all places"
            )
        labels = [each.labels for each in known]
        dim = _argument(node, 1, "dim", 0) % (labels[0].ndim + (name == "stack"))
        if name == "stack":
            labels = [each.unsqueeze(dim) for each in labels]
        alike = all(each.size == known[0].size and dim not in varying(label)
                    and same_labels(label.narrow(dim, 0, 1), labels[0].narrow(dim, 0, 1))
                    for each, label in zip(known, labels, strict=True))  # fmt: skip
        if not alike:
            return self._unknown(node, f"{name} joins maps along places or of different layout")
        return self._after(
            node,
            *read,
            labels=labels[0].narrow(dim, 0, 1).expand(self.shape(node)),
            convolved=any(each.convolved for each in known),
            positive=all(each.positive for each in known),
            gate=all(each.gate for each in known),
        )

    def _arithmetic(self, node: Node, name: str, read: list[Node]) -> Meaning:
        known = [self.known[each] for each in read]
        gated = self._gated(node, name, read)
        if gated is not None:
            return gated
        if name.startswith("addc") and len(read) > 1:
            return self._unknown(node, f"there is no rule for {name} on several maps")
        for each in known:
            if each.state is State.UNKNOWN:
                return replace(each, gate=any(other.gate for other in known))
        maps = [each for each in read if self.known[each].state is State.MAP]
        shape = self.shape(node)
        labels = self.known[maps[0]].labels.expand(shape)
        if name == "div" and node.args[0] is not maps[0]:
            return self._unknown(node, "it divides by a map", source=known[-1].source, gate=True)
        one = len({each.source for each in known}) == 1
        if name in ("maximum", "minimum") and known[0].convolved and (one or len(read) == 1):
            activates = {"activates": name == "maximum", "gate": False}
            return self._each(node, read[0], labels=labels, **activates)
        if len(read) == 1:
            # Value by value also with a vector of constants: a scale and a shift.
            return self._each(node, read[0], labels=labels)
        if len(maps) < len(read):
            others = [each for each in known if each.state is State.MIXED]
            return self._with_mixed(node, name, maps[0], labels, others)
        same = all(each.size == known[0].size and same_labels(each.labels.expand(shape), labels)
                   for each in known[1:])  # fmt: skip
        if not same:
            return self._unknown(node, f"{name} joins maps of different layout")
        gates = [each.gate for each in known]
        follows = tuple(read)
        if name == "div":
            follows = (read[0],)
        elif name == "mul" and len(set(gates)) > 1:
            follows = tuple(each for each, gate in zip(read, gates, strict=True) if not gate)
        return self._after(
            node,
            *follows,
            labels=labels,
            convolved=any(each.convolved for each in known),
            gate=all(gates),
            positive=name in ("add", "mul", "div", "maximum") and all(e.positive for e in known),
        )

    def _gated(self, node: Node, name: str, read: list[Node]) -> Meaning | None:
        """An activation written as a product, x · f(x), or a quotient; None for others."""
        if len(read) != 2 or name not in ("mul", "div") or read[0] is read[1]:
            return None
        for value, factor in (read, read[::-1]):
            own, other = self.known[value], self.known[factor]
            if own.state is not State.MAP:
                continue
            same = own.source is not None and other.source is own.source
            if same and self._between(factor, value):
                if own.convolved:
                    return self._activated(node, value, gate=False)
                return self._each(node, value, gate=False)
            opaque = other.state is State.UNKNOWN and not other.of_batch
            if opaque and (name == "div" or other.gate):
                return self._after(node, value)
            if name == "div":
                return None
        return None

    def _between(self, factor: Node, value: Node) -> bool:
        """Whether a factor was computed from a value, by operations on each value alone."""
        source = self.known[value].source
        waiting = [factor]
        while waiting:
            node = waiting.pop()
            if node is value:
                return True
            if node is not source and self.known[node].source is source:
                waiting += self._read(node)
        return False

    def _with_mixed(
        self, node: Node, name: str, read: Node, labels: Tensor, others: Sequence[Meaning]
    ) -> Meaning:
        """A map and values without places: a factor, or something that comes back."""
        first = self.known[read]
        places = varying(labels) - {0}
        if first.size == (1, 1):
            places |= {2, 3} & {*range(labels.ndim)}
        for other in others:
            whole = not places & varying(other.labels.expand(self.shape(node)))
            factor = name == "div" or (name == "mul" and (whole or other.gate))
            centred = name in ("sub", "rsub") and whole
            if not factor and not centred and first.convolved:
                return self._unknown(
                    node,
                    f"{name} joins a map and values that were mixed over all places, "
                    "as an attention over places does",
                )
        return self._after(node, read, labels=labels)


def _argument(node: Node, place: int, name: str, default: object = None) -> Any:  # noqa: ANN401
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def pointwise(node: Node) -> bool:
    """Whether an operation is a function of each value alone."""
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


# Labels


def varying(labels: Tensor) -> set[int]:
    """The axes along which labels differ."""
    strides = labels.stride()
    return {axis for axis, size in enumerate(labels.shape) if size > 1 and strides[axis]}


def _compact(labels: Tensor) -> Tensor:
    """The same labels with stride 0 along the axes along which they are equal."""
    shape = labels.shape
    for axis in varying(labels):
        one = labels.narrow(axis, 0, 1)
        if torch.equal(labels, one.expand(labels.shape)):
            labels = one
    for axis, stride in enumerate(labels.stride()):
        labels = labels if stride else labels.narrow(axis, 0, 1)
    return labels.expand(shape)


def _numbers_of_images(found: Meaning) -> Tensor:
    """The image that each value belongs to, with size 1 along axes along which labels are equal."""
    small = _small(found.labels, varying(found.labels))
    return _compact((small - 1).div(found.size[0] * found.size[1], rounding_mode="floor"))


def _small(labels: Tensor, kept: set[int]) -> Tensor:
    for axis in {*range(labels.ndim)} - kept:
        labels = labels.narrow(axis, 0, 1)
    return labels


def same_labels(labels: Tensor, others: Tensor) -> bool:
    """Whether two maps have the same places along the same axes, whatever their channels."""
    kept = varying(labels) | varying(others)
    return labels is others or torch.equal(_small(labels, kept), _small(others, kept))


def _sample(labels: Tensor, size: Pair) -> Tensor | None:
    """The labels of the first image; None if the first axis does not hold the images."""
    small = _small(labels, varying(labels) | {0})
    if labels.shape[0] != 2 or 0 not in varying(labels):
        return None
    first, second = small
    apart = torch.where(first > 0, first + size[0] * size[1], 0)
    return labels[0] if torch.equal(second, apart) else None


def _axes_of_places(labels: Tensor, size: Pair) -> Pair:
    """The axes of ``(2, …)`` labels along which rows and columns change most, usually 2 and 3.

    An axis along which both change, such as the channels behind a space-to-depth, is none of them.
    """
    first, axes = labels[0] - 1, (1, 2, 3)
    spreads = []
    for numbers in (first.div(size[1], rounding_mode="floor"), first % size[1]):
        reached = [numbers.masked_fill(first < 0, -1).transpose(0, a - 1).flatten(1).amax(1)
                   for a in axes]  # fmt: skip
        spreads.append([float((each.amax() - each[each >= 0]).amax()) for each in reached])
    found = []
    for own, other in (spreads, spreads[::-1]):
        alone = {axis: own[axis - 1] for axis in axes if not other[axis - 1]}
        found += [axis for axis in alone if alone[axis] and alone[axis] == max(alone.values())][:1]
    found += [axis for axis in (3, 2, 1) if labels.shape[axis] == 1]
    return (min(found[:2]), max(found[:2])) if len(found) > 1 else (2, 3)


def arrangement(labels: Tensor, size: Pair) -> tuple[tuple[int, ...], Tensor | None] | None:
    """The layout of a map in which each place occurs in each channel.

    Args:
        labels: See :class:`Meaning`.
        size: ``(H, W)`` of the grid.

    Returns:
        The axes of channels, and the order in which the remaining values, flattened, are those of
        ``(H, W)``, ``(H·W,)`` int64, None if they are already. None if places are missing or occur
        several times, or if the first axis does not hold the images.
    """
    axes = varying(labels) - {0}
    sample = _sample(labels, size)
    if sample is None:
        return None
    flat = _small(sample, {axis - 1 for axis in axes}).flatten()
    wanted = torch.arange(1, 1 + size[0] * size[1], dtype=flat.dtype)
    if flat.shape != wanted.shape:
        return None
    channels = tuple(axis for axis in range(1, labels.ndim) if axis not in axes)
    if torch.equal(flat, wanted):
        return channels, None
    ordered, order = flat.sort()
    return (channels, order) if torch.equal(ordered, wanted) else None


def channel_axis(meaning: Meaning) -> int | None:
    """The axis of channels of a map ``(N, C, H, W)`` or ``(N, H, W, C)``; None of other results."""
    labels = meaning.labels
    if meaning.state is not State.MAP or not isinstance(labels, Tensor) or labels.ndim != 4:
        return None
    axes, order = arrangement(labels, meaning.size) or ((), None)
    return max(axes, key=labels.shape.__getitem__, default=None) if order is None else None


def gathering(labels: Tensor, below: Pair) -> Layer:
    """The layer of a map whose places are gathered from others.

    Args:
        labels: ``(n, h, w)``: 1 + the places that each of its places is made of, 0 for padding.
        below: ``(H, W)`` of the grid of these.
    """
    above = labels.shape[1], labels.shape[2]
    window = _shift(labels[0], below) if 0 not in varying(labels) else None
    if window is not None:
        return Layer(window)
    pairs = torch.stack([torch.arange(above[0] * above[1]).expand(len(labels), -1),
                         labels.reshape(len(labels), -1).long()]).flatten(1)  # fmt: skip
    made, source = torch.unique(pairs[:, pairs[1] > 0], dim=1)
    return Layer(None, apply=partial(_gathered, above, made, source - 1), below=below)


def _shift(labels: Tensor, below: Pair) -> Window | None:
    """The window of one tap by which places were shifted, cut off, padded or subsampled."""
    present = labels.nonzero().tolist()
    if not present:
        return None
    (i, j), above = present[0], (labels.shape[0], labels.shape[1])
    origin = divmod(int(labels[i, j]) - 1, below[1])
    nexts = [labels[i + 1 : i + 2, j], labels[i, j + 1 : j + 2]]
    steps = [int(each) - int(labels[i, j]) if each.any() else 0 for each in nexts]
    stride = max(steps[0] // below[1], 1), max(steps[1], 1)
    padding = i * stride[0] - origin[0], j * stride[1] - origin[1]
    rows, columns = (
        torch.arange(n) * s - p for n, s, p in zip(above, stride, padding, strict=True)
    )
    inside = ((rows >= 0) & (rows < below[0]))[:, None] & ((columns >= 0) & (columns < below[1]))
    expected = torch.where(inside, rows[:, None] * below[1] + columns + 1, 0)
    if not torch.equal(labels, expected.to(labels.dtype)):
        return None
    return Window((1, 1), stride, padding, (1, 1), below, above)


def _window(name: str, given: list[Any], below: Pair, above: Pair) -> Window:
    """The window of a convolution or pooling from the arguments behind the features."""
    convolves = name == "conv2d"
    kernel = both(given[0].shape[2:]) if convolves else both(given[0])
    rest = [None if each == [] else each for each in given[2 if convolves else 1 :]]
    stride, padding, dilation = (rest + [None] * 3)[:3]
    stride = both(stride or ((1, 1) if convolves else kernel))
    dilation = (1, 1) if name == "avg_pool2d" else both(dilation or 1)
    if padding == "same":
        padding = [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
    padding = (0, 0) if padding == "valid" else both(padding or 0)
    return Window(kernel, stride, padding, dilation, below, above)


# Linear functions of one channel that stand for layers which are no windows


def _gathered(above: Pair, made: Tensor, source: Tensor, channel: Tensor) -> Tensor:
    taken = channel.flatten(2)[..., source.to(channel.device)]
    result = channel.new_zeros(*channel.shape[:2], above[0] * above[1])
    return result.index_add(2, made.to(channel.device), taken).view(*channel.shape[:2], *above)


def _applied(target: Any, arguments: list[Any], keywords: Any, channel: Tensor) -> Tensor:  # noqa: ANN401
    result: Tensor = target(channel, *arguments, **keywords)
    return result


def _transposed(kernel: Sequence[int], given: list[Any], channel: Tensor) -> Tensor:
    """A transposed convolution with a kernel of ones."""
    stride, padding, extra, _, dilation = given + [1, 0, 0, 1, 1][len(given) :]
    ones = channel.new_ones(1, 1, *kernel)
    return F.conv_transpose2d(channel, ones, None, stride, padding, extra, 1, dilation)


def _adapted(size: Pair, channel: Tensor) -> Tensor:
    """Sums over the windows of an adaptive pooling."""
    for axis, count in ((2, size[0]), (3, size[1])):
        whole = channel.shape[axis]
        bounds = [(i * whole // count, -(-(i + 1) * whole // count)) for i in range(count)]
        parts = [channel.narrow(axis, low, high - low).sum(axis, True) for low, high in bounds]
        channel = torch.cat(parts, axis)
    return channel
