"""What the operations of a network do with places: the rules for ATen operations.

A *map* is a tensor whose values belong to places of the image. Its axes have roles: ``N`` samples,
``H`` and ``W`` places, ``HW`` both in one axis, and ``C`` channels, possibly in several axes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from vbp_lightning.graph.exporting import described_layer, operation_of
from vbp_lightning.graph.geometry import Layer, Pair, Window, both

Roles = tuple[str, ...]


class State(Enum):
    """The relation of a tensor to the places of the image."""

    CONSTANT = "does not depend on the image"
    MAP = "belongs to places"
    FLAT = "the values of a map in another order"
    MIXED = "places are mixed"
    UNKNOWN = "not known"


@dataclass(frozen=True)
class Meaning:
    """What is known about the result of an operation.

    Args:
        state: Its relation to the places of the image.
        roles: For a map, the role of each axis.
        size: For a map, its height and width.
        follows: The maps that it was computed from and that the mask goes back to; the factor of a
            gate is not among them.
        layer: The layer between these and the result; None if places stay where they are.
        activates: Whether it is the output of an activation.
        convolved: Whether a convolution came before.
        positive: Whether no value is negative.
        gate: Whether it is the output of a sigmoid, a softmax or the like.
        source: The operation whose result, value by value, it is a function of.
        extent: If places are mixed, its shape, with 1 for axes along which all values are equal.
        before: If it is flat, the map that it was.
        reason: If it is not known, why, with the name of the layer.
    """

    state: State
    roles: Roles = ()
    size: Pair = (1, 1)
    follows: tuple[Node, ...] = ()
    layer: Layer | None = None
    activates: bool = False
    convolved: bool = False
    positive: bool = False
    gate: bool = False
    source: Node | None = None
    extent: tuple[int, ...] = ()
    before: "Meaning | None" = None
    shape: tuple[int, ...] = ()
    reason: str = ""


CONSTANT = Meaning(State.CONSTANT)

_ACTIVATIONS = {
    "relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish",
    "hardswish", "softplus", "threshold", "hardtanh", "tanh", "sigmoid", "hardsigmoid",
}  # fmt: skip
_POSITIVE = {"relu", "relu6", "sigmoid", "hardsigmoid", "softplus"}
_GATES = {"sigmoid", "hardsigmoid", "tanh"}
_CLAMPS = {"clamp", "clamp_min", "clip"}
_MONOTONE = {"abs", "pow", "sqrt", "log", "log1p", "exp", "square", "clamp_max"}
_COPIES = {"clone", "to", "_to_copy", "contiguous", "detach", "alias", "lift_fresh_copy", "type_as"}
_NORMS = {
    "batch_norm",
    "layer_norm",
    "group_norm",
    "instance_norm",
    "rms_norm",
    "native_group_norm",
}
_VIEWS = {
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view", "view_as",
    "reshape_as",
}  # fmt: skip
_REDUCTIONS = {
    "mean", "sum", "amax", "amin", "max", "min", "logsumexp", "std", "var", "linalg_vector_norm",
    "norm", "prod",
}  # fmt: skip
_PRODUCTS = {"matmul", "bmm", "mm", "baddbmm", "addmm", "einsum", "scaled_dot_product_attention"}
_SPLITS = {"chunk", "split", "split_with_sizes", "tensor_split"}
_FACTORIES = {"zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones",
              "new_full", "new_empty", "rand_like", "randn_like"}  # fmt: skip
_COMPARISONS = {"gt", "ge", "lt", "le", "ne", "eq", "sign"}


class Rules:
    """Finds out the meaning of each operation of an exported forward pass, in order.

    Args:
        values: For each operation its result on tensors without values, for two images of one size.
        network: Type of the network, for messages.

    Attributes:
        known: The meaning of each operation so far.
    """

    def __init__(self, values: dict[Node, Any], network: str) -> None:
        self.values = values
        self.network = network
        self.known: dict[Node, Meaning] = {}

    def add(self, node: Node) -> None:
        """Determines the meaning of the next operation."""
        if node.op == "placeholder":
            shape = self.shape(node)
            self.known[node] = Meaning(
                State.MAP, ("N", "C", "H", "W"), (shape[2], shape[3]), source=node, shape=shape
            )
        elif node.op != "call_function" or not self._read(node) or not self._is_tensor(node):
            self.known[node] = CONSTANT
        else:
            found = self._of(node, operation_of(node))
            if found.state is State.MIXED and not found.extent:
                found = replace(found, extent=self.shape(node))
            self.known[node] = replace(found, shape=self.shape(node))

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of a result, of the first one if there are several."""
        value = self.values[node]
        while isinstance(value, list | tuple):
            value = value[0]
        return tuple(value.shape)

    def _is_tensor(self, node: Node) -> bool:
        value = self.values[node]
        return isinstance(value, Tensor | list | tuple)

    def _read(self, node: Node) -> list[Node]:
        """The operands that depend on the image, in order and as often as they are used."""
        found: list[Node] = []

        def add(value: object) -> None:
            if isinstance(value, Node) and self.known[value].state is not State.CONSTANT:
                found.append(value)
            elif isinstance(value, list | tuple):
                for each in value:
                    add(each)

        add([*node.args, *node.kwargs.values()])
        return found

    def unknown(self, node: Node, reason: str) -> Meaning:
        """The meaning of an operation that no mask can pass."""
        gate = any(self.known[each].gate for each in self._read(node))
        return Meaning(
            State.UNKNOWN, gate=gate, reason=f"{described_layer(node, self.network)}: {reason}"
        )

    def _of(self, node: Node, name: str) -> Meaning:
        read = self._read(node)
        known = [self.known[each] for each in read]
        states = {each.state for each in known}
        if name in _FACTORIES:
            return CONSTANT
        if name == "getitem":
            index = _argument(node, 1, "")
            if operation_of(read[0]) in ("max", "min", "max_pool2d_with_indices") and index != 0:
                return Meaning(State.MIXED)
            return replace(known[0], follows=(read[0],), layer=None, activates=False)
        if states == {State.MIXED}:
            return self._mixed(node, name, known)
        rule = self._rule(name)
        if rule is not None:
            return rule(node, name, read)
        if State.UNKNOWN in states:
            return self._first_unknown(known)
        first = known[0]
        if name in _PRODUCTS:
            return self._product(node, name, read)
        if len(set(read)) == 1 and first.state is State.FLAT:
            return self._flat(node, name, first)
        if len(set(read)) == 1 and self.known[read[0]].state is State.MAP:
            found = self._unary(node, name, read[0])
            if found is not None:
                return found
        return self.unknown(node, f"there is no rule for {name} on a map")

    def _rule(self, name: str) -> Callable[[Node, str, list[Node]], Meaning] | None:
        if name in ("add", "sub", "rsub", "mul", "div", "maximum", "minimum", "addcmul"):
            return self._arithmetic
        if name in ("cat", "stack"):
            return self._join
        if name in ("conv2d", "max_pool2d", "max_pool2d_with_indices", "avg_pool2d"):
            return self._window
        return None

    @staticmethod
    def _first_unknown(known: Sequence[Meaning]) -> Meaning:
        first = next(each for each in known if each.state is State.UNKNOWN)
        return replace(first, gate=any(each.gate for each in known))

    def _mixed(self, node: Node, name: str, known: Sequence[Meaning]) -> Meaning:
        """Operations on what has no places any more."""
        shape = self.shape(node)
        gate = name in _GATES or "softmax" in name or any(each.gate for each in known)
        if name in ("conv2d", "max_pool2d", "avg_pool2d") and max(known[0].extent[-2:]) > 1:
            return self.unknown(
                node, "it reads values that were mixed over all places as a map of places again"
            )
        if name in ("expand", "expand_as", "repeat") or name.startswith("upsample"):
            extent = known[0].extent
            return Meaning(
                State.MIXED, gate=gate, extent=(1,) * (len(shape) - len(extent)) + extent
            )
        if self._is_pointwise(node):
            extents = [(1,) * (len(shape) - len(e.extent)) + e.extent for e in known]
            return Meaning(
                State.MIXED, gate=gate, extent=tuple(map(max, zip(*extents, strict=True)))
            )
        return Meaning(State.MIXED, gate=gate)

    @staticmethod
    def _is_pointwise(node: Node) -> bool:
        return torch.Tag.pointwise in getattr(node.target, "tags", ())

    def _flat(self, node: Node, name: str, first: Meaning) -> Meaning:
        """Operations on the values of a map in another order."""
        before = first.before
        assert before is not None
        if name in _VIEWS and self.shape(node) == before.shape:
            return replace(before, follows=(self._read(node)[0],), layer=None, activates=False)
        if name in _REDUCTIONS | _PRODUCTS | {"linear", "adaptive_avg_pool1d"}:
            return Meaning(State.MIXED)
        if name in _ACTIVATIONS | _CLAMPS | _MONOTONE | _COMPARISONS:
            return self.unknown(node, f"{name} acts on values that left the grid of places")
        if name in _VIEWS | _COPIES | _NORMS | {"permute", "transpose", "softmax"}:
            return replace(first, follows=(self._read(node)[0],))
        return self.unknown(node, f"{name} reads a map whose values were put in another order")

    # Operations on one map

    def _unary(self, node: Node, name: str, read: Node) -> Meaning | None:
        """An operation on one map; None if there is no rule for it."""
        first = self.known[read]
        same = replace(first, follows=(read,), layer=None, activates=False)
        value = replace(same, source=first.source)  # a function of each value alone
        other = replace(same, source=node, gate=False)
        if name in _COPIES or name in ("neg", "nan_to_num"):
            return value
        if name in _ACTIVATIONS | _CLAMPS:
            return self._activation(node, name, value)
        if name in _MONOTONE:
            if first.positive or not first.convolved:
                return value
            return replace(
                self.unknown(node, f"there is no rule for {name} on a map"), source=first.source
            )
        if name in _COMPARISONS:
            return replace(
                self.unknown(node, f"there is no rule for {name} on a map"), source=first.source
            )
        if name in _NORMS:
            return self._norm(node, name, replace(other, positive=False))
        if name in _VIEWS:
            return self._view(node, read, first)
        if name in ("permute", "transpose", "t"):
            order = self._order(node, name, len(first.roles))
            return replace(other, roles=tuple(first.roles[axis] for axis in order))
        if name in _REDUCTIONS:
            return self._reduction(node, other)
        if name == "linear":
            if first.roles[-1] == "C":
                return replace(other, positive=False, convolved=True)
            return Meaning(State.MIXED)
        if name in _SPLITS or name in ("unbind", "select", "slice", "index_select"):
            return self._part(node, name, other)
        if name in ("softmax", "log_softmax"):
            return replace(other, gate=True, positive=True)
        if name in ("expand", "expand_as", "repeat"):
            return self._expanded(node, other)
        if name == "channel_shuffle":
            return other
        if first.roles != ("N", "C", "H", "W"):
            return None
        layer = self._places(node, name, read)
        if layer is None:
            return Meaning(State.MIXED) if name.startswith("adaptive_") else None
        return self._moved(node, other, layer)

    def _moved(self, node: Node, other: Meaning, layer: Layer | None) -> Meaning:
        height, width = self.shape(node)[-2:]
        return replace(other, layer=layer, size=(height, width))

    def _activation(self, node: Node, name: str, value: Meaning) -> Meaning:
        lowest: Any = -math.inf if name == "clamp" else 0
        if name in _CLAMPS | {"hardtanh", "threshold"}:
            place = 2 if name == "threshold" else 1
            lowest = _argument(node, place, "min")
            lowest = -1.0 if name == "hardtanh" and lowest is None else lowest
        bounded = isinstance(lowest, int | float)
        positive = name in _POSITIVE or (
            bounded and float(lowest) >= 0 and name not in _ACTIVATIONS
        )
        if name in _CLAMPS:
            if not value.convolved or (bounded and float(lowest) > 0):
                return replace(value, positive=positive or value.positive)
            if not bounded:
                return value
        return replace(value, activates=True, positive=positive, gate=name in _GATES)

    def _norm(self, node: Node, name: str, other: Meaning) -> Meaning:
        arguments: tuple[Any, ...] = node.args
        if name == "batch_norm" and (arguments[3] is None or arguments[5] is True):
            return self.unknown(
                node,
                "it normalises with the statistics of the batch even in eval mode, "
                "so a mask would depend on the other samples",
            )
        return other

    @staticmethod
    def _order(node: Node, name: str, count: int) -> list[int]:
        """The axes of the operand in the order of the result."""
        if name == "permute":
            return [axis % count for axis in _argument(node, 1, "dims")]
        order = list(range(count))
        first, second = _argument(node, 1, "dim0", 0), _argument(node, 2, "dim1", 1)
        order[first], order[second] = order[second], order[first]
        return order

    def _reduction(self, node: Node, other: Meaning) -> Meaning:
        roles, shape = other.roles, self.shape(node)
        name = operation_of(node)
        place = 2 if name in ("linalg_vector_norm", "norm") else 1
        dims = _argument(node, place, "dim", [])
        if dims is None or dims == []:
            return Meaning(State.MIXED)
        axes = {axis % len(roles) for axis in ([dims] if isinstance(dims, int) else dims)}
        reduced = {roles[axis] for axis in axes}
        if "N" in reduced:
            return self.unknown(node, f"{name} mixes the samples of a batch")
        if reduced - {"C"}:
            return Meaning(State.MIXED)
        if len(shape) == len(roles):
            return other
        return replace(other, roles=tuple(r for axis, r in enumerate(roles) if axis not in axes))

    def _part(self, node: Node, name: str, other: Meaning) -> Meaning:
        dim = _argument(node, 2 if name in _SPLITS else 1, "dim", 0) % len(other.roles)
        if name == "slice" and self.shape(node) == other.shape:
            return other
        role = other.roles[dim]
        if role == "C":
            if name in ("unbind", "select"):
                return replace(other, roles=other.roles[:dim] + other.roles[dim + 1 :])
            return other
        if name == "slice" and role in ("H", "W"):
            start = self._number(_argument(node, 2, "start", 0)) or 0
            step = self._number(_argument(node, 4, "step", 1))
            axis = "HW".index(role)
            below = other.size
            start = min(max(start + below[axis] if start < 0 else start, 0), below[axis])
            size = list(below)
            size[axis] = self.shape(node)[dim]
            stride, padding = [1, 1], [0, 0]
            stride[axis], padding[axis] = step, -start
            above = (size[0], size[1])
            window = Window((1, 1), both(stride), both(padding), (1, 1), below, above)
            layer = None if window.moves_nothing else Layer(window)
            return replace(other, layer=layer, size=above)
        return self.unknown(node, f"{name} takes out some places or samples of a map")

    def _number(self, value: object) -> int:
        found: Any = self.values[value] if isinstance(value, Node) else value
        return int(found) if found is not None else 0

    def _expanded(self, node: Node, other: Meaning) -> Meaning:
        shape = self.shape(node)
        roles = ("C",) * (len(shape) - len(other.roles)) + other.roles
        before = (1,) * (len(shape) - len(other.shape)) + other.shape
        changed = {role for role, a, b in zip(roles, before, shape, strict=True) if a != b}
        if changed - {"C"}:
            return self.unknown(node, "it repeats a map over places or samples")
        return replace(other, roles=roles)

    def _view(self, node: Node, read: Node, first: Meaning) -> Meaning:
        """Roles after the axes were split and merged."""
        old, new = self.shape(read), self.shape(node)
        other = replace(first, follows=(read,), layer=None, activates=False)
        flat = Meaning(
            State.FLAT, follows=(read,), before=first, gate=first.gate, convolved=first.convolved
        )
        roles: list[str] = []
        windows = [1, 1]
        i = j = 0
        while i < len(old) or j < len(new):
            taken, made = [i], [j]
            before = old[i] if i < len(old) else 1
            after = new[j] if j < len(new) else 1
            while before != after:
                if before < after:
                    taken.append(taken[-1] + 1)
                    before *= old[taken[-1]]
                else:
                    made.append(made[-1] + 1)
                    after *= new[made[-1]]
            i, j = taken[-1] + 1, made[-1] + 1
            own = [first.roles[axis] for axis in taken if axis < len(old)]
            sizes = [new[axis] for axis in made if axis < len(new)]
            if not sizes:
                if set(own) - {"C"}:
                    return flat
                continue
            found, kernel = _regrouped(own, sizes, first.size)
            if found is None:
                return flat
            for role, taps in kernel.items():
                windows["HW".index(role)] = taps
            roles += found
        layer, size = None, first.size
        if windows != [1, 1]:
            size = size[0] // windows[0], size[1] // windows[1]
            kernel_size = (windows[0], windows[1])
            window = Window(kernel_size, kernel_size, (0, 0), (1, 1), first.size, size)
            layer = Layer(window)
        return replace(other, roles=tuple(roles), layer=layer, size=size)

    def _places(self, node: Node, name: str, read: Node) -> Layer | None:
        """The layer of an operation that moves places; None for others."""
        below, above = self.known[read].size, self.shape(node)[-2:]
        arguments: list[Any] = [map_arg(each, self.values.__getitem__) for each in node.args[1:]]
        keywords: Any = map_arg(dict(node.kwargs), self.values.__getitem__)
        apply: Callable[[Tensor], Tensor] | None = None
        if name in ("pad", "constant_pad_nd") and len(arguments[0]) <= 4:
            constant = name != "pad" or (arguments[1:2] or ["constant"])[0] == "constant"
            if constant:
                left, _, top, _ = (*arguments[0], 0, 0)[:4]
                return Layer(
                    Window(
                        (1, 1), (1, 1), (int(top), int(left)), (1, 1), below, (above[0], above[1])
                    )
                )
        if name in ("pad", "reflection_pad2d", "replication_pad2d", "flip", "roll") or (
            name.startswith(("upsample_nearest", "upsample_bilinear"))
        ):
            places = arguments[-1] if name in ("flip", "roll") else ()
            if {axis % 4 for axis in places} <= {2, 3}:
                apply = _Applied(node.target, arguments, keywords)
        elif name.startswith(("upsample_bicubic", "_upsample_b")):
            apply = _Resized((above[0], above[1]))
        elif name == "conv_transpose2d":
            apply = _Transposed(arguments[0].shape[2:], arguments)
        elif name == "pixel_shuffle":
            apply = _Repeated(int(arguments[0]))
        elif name == "pixel_unshuffle":
            taps = both(int(arguments[0]))
            return Layer(Window(taps, taps, (0, 0), (1, 1), below, (above[0], above[1])))
        elif name in ("adaptive_avg_pool2d", "adaptive_max_pool2d") and above != (1, 1):
            if below[0] % above[0] == 0 and below[1] % above[1] == 0:
                taps = below[0] // above[0], below[1] // above[1]
                return Layer(Window(taps, taps, (0, 0), (1, 1), below, (above[0], above[1])))
            apply = _Adapted((above[0], above[1]))
        return None if apply is None else Layer(None, apply=apply, below=below)

    # Windows, joins and gates

    def _window(self, node: Node, name: str, read: list[Node]) -> Meaning:
        first = self.known[read[0]]
        if len(read) > 1 or node.args[0] is not read[0]:
            return self.unknown(node, "its weights depend on the image")
        if first.state is State.UNKNOWN:
            return first
        if first.roles != ("N", "C", "H", "W"):
            return self.unknown(node, f"{name} reads values that are not (N, C, H, W) places")
        arguments: list[Any] = list(node.args[1:])
        if name == "conv2d":
            kernel = both(self.shape(arguments[0])[2:])
            arguments = arguments[2:]
        else:
            kernel = both(arguments.pop(0))

        def argument(place: int, default: Pair) -> Any:  # noqa: ANN401
            given = arguments[place] if len(arguments) > place else default
            return default if given in ([], None) else given

        stride = both(argument(0, (1, 1) if name == "conv2d" else kernel))
        padding = argument(1, (0, 0))
        dilation = (1, 1) if name == "avg_pool2d" else both(argument(2, (1, 1)))
        if padding == "same":
            reach = [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
            padding = (reach[0], reach[1])
        padding = (0, 0) if padding == "valid" else both(padding)
        above = self.shape(node)[-2:]
        window = Window(kernel, stride, padding, dilation, first.size, (above[0], above[1]))
        convolves = name == "conv2d"
        found = replace(
            first,
            follows=(read[0],),
            layer=None if window.moves_nothing else Layer(window, maximum="max" in name),
            activates=False,
            size=window.above,
            convolved=first.convolved or convolves,
            positive=first.positive and not convolves,
            gate=False,
            source=node,
        )
        return found

    def _join(self, node: Node, name: str, read: list[Node]) -> Meaning:
        known = [self.known[each] for each in read]
        if any(each.state is State.UNKNOWN for each in known):
            return self._first_unknown(known)
        if any(each.state is State.FLAT for each in known):
            if {each.state for each in known} <= {State.FLAT, State.MIXED}:
                return Meaning(State.MIXED)
            return self.unknown(node, f"{name} reads a map whose values were put in another order")
        if any(each.state is State.MIXED for each in known):
            return self.unknown(
                node, f"{name} joins a map and values that were mixed over all places"
            )
        first = known[0]
        dim = _argument(node, 1, "dim", 0) % (len(first.roles) + (name == "stack"))
        alike = {(each.roles, each.size) for each in known}
        if len(alike) > 1 or (name == "cat" and first.roles[dim] != "C"):
            return self.unknown(node, f"{name} joins maps along places or of different layout")
        roles = first.roles
        if name == "stack":
            roles = (*roles[:dim], "C", *roles[dim:])
        return replace(
            first,
            roles=roles,
            follows=tuple(read),
            layer=None,
            activates=False,
            convolved=any(each.convolved for each in known),
            positive=all(each.positive for each in known),
            gate=all(each.gate for each in known),
            source=node,
        )

    def _arithmetic(self, node: Node, name: str, read: list[Node]) -> Meaning:
        left, right = node.args[0], node.args[1]
        known = [self.known[each] for each in read]
        if len(read) == 1:
            first = known[0]
            if first.state is not State.MAP:
                return replace(first, follows=(read[0],))
            if name in ("maximum", "minimum") and first.convolved:
                return replace(
                    first, follows=(read[0],), layer=None, activates=name == "maximum",
                    positive=False, gate=False,
                )  # fmt: skip
            roles = self._broadcast(node, read)
            if roles is None:
                return self.unknown(node, f"{name} repeats a map over places")
            # Value by value also with a vector of constants: a scale and a shift.
            return replace(
                first, roles=roles, follows=(read[0],), layer=None, activates=False, positive=False
            )
        if name == "addcmul":
            return self.unknown(node, "it adds a product of several maps")
        gated = self._gated(name, left, right, read)
        if gated is not None:
            return gated
        if any(each.state is State.UNKNOWN for each in known):
            return self._first_unknown(known)
        maps = [each for each in read if self.known[each].state is State.MAP]
        if any(each.state is State.FLAT for each in known):
            if maps:
                return self.unknown(
                    node, f"{name} reads a map whose values were put in another order"
                )
            return replace(
                next(each for each in known if each.state is State.FLAT), follows=tuple(read)
            )
        if len(maps) < len(read):
            return self._with_mixed(
                node, name, maps[0], [e for e in known if e not in [self.known[m] for m in maps]]
            )
        roles = self._broadcast(node, read)
        if roles is None:
            return self.unknown(node, f"{name} joins maps of different layout")
        follows = tuple(read)
        if name == "div":
            follows = (read[0],)
        elif name == "mul":
            gates = [each.gate for each in known]
            if len(set(gates)) > 1:
                follows = tuple(e for e, gate in zip(read, gates, strict=True) if not gate)
        size = self.known[follows[0]].size
        return Meaning(
            State.MAP, roles, size, follows,
            convolved=any(each.convolved for each in known),
            gate=all(each.gate for each in known),
            positive=name in ("add", "mul", "div", "maximum") and all(e.positive for e in known),
            source=node,
        )  # fmt: skip

    def _gated(self, name: str, left: object, right: object, read: list[Node]) -> Meaning | None:
        """An activation written as a product, x · f(x), or a quotient; None for others."""
        if len(read) != 2 or name not in ("mul", "div") or read[0] is read[1]:
            return None
        for value, factor in ((left, right), (right, left)):
            if not (isinstance(value, Node) and isinstance(factor, Node)):
                return None
            own, other = self.known[value], self.known[factor]
            if own.state is not State.MAP:
                continue
            same = own.source is not None and other.source is own.source
            if name == "mul" and same and self._between(factor, value):
                return replace(
                    own, follows=(value,), layer=None, activates=own.convolved,
                    positive=False, gate=False,
                )  # fmt: skip
            if other.state is State.UNKNOWN and (name == "div" or other.gate):
                return replace(own, follows=(value,), layer=None, activates=False)
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

    def _with_mixed(self, node: Node, name: str, read: Node, others: Sequence[Meaning]) -> Meaning:
        """A map and values without places: a factor, or something that comes back."""
        first = self.known[read]
        roles = self._broadcast(node, [read])
        if roles is None:
            return self.unknown(node, f"{name} repeats a map over places")
        for other in others:
            extent = (1,) * (len(roles) - len(other.extent)) + other.extent
            whole = all(
                size == 1
                for size, role in zip(extent[-len(roles) :], roles, strict=True)
                if role in ("H", "W", "HW")
            )
            factor = name in ("mul", "div") and (whole or other.gate)
            centred = name in ("sub", "rsub") and whole
            if not factor and not centred and first.convolved:
                return self.unknown(
                    node,
                    f"{name} joins a map and values that were mixed over all places, "
                    "as an attention over places does",
                )
        return replace(
            first, roles=roles, follows=(read,), layer=None, activates=False, positive=False,
            gate=False, source=node,
        )  # fmt: skip

    def _broadcast(self, node: Node, maps: Sequence[Node]) -> Roles | None:
        """The roles of a result with the axes of all maps; None if they do not agree."""
        shape = self.shape(node)
        roles = ["C"] * len(shape)
        for each in maps:
            own = self.known[each].roles
            offset = len(shape) - len(own)
            for axis, role in enumerate(own):
                size = self.shape(each)[axis]
                if role == "C":
                    continue
                if size != shape[offset + axis]:
                    return None
                if roles[offset + axis] not in ("C", role):
                    return None
                roles[offset + axis] = role
        sizes = {self.known[each].size for each in maps}
        return None if len(sizes) > 1 else tuple(roles)

    def _product(self, node: Node, name: str, read: list[Node]) -> Meaning:
        first = self.known[read[0]]
        weight = node.args[-1]
        plain = name == "matmul" and len(read) == 1 and node.args[0] is read[0]
        if plain and first.roles[-1:] == ("C",) and isinstance(weight, Node):
            # A product with a matrix of constants mixes channels only.
            return replace(
                first, follows=(read[0],), layer=None, activates=False, positive=False,
                gate=False, convolved=True, source=node,
            )  # fmt: skip
        return Meaning(State.MIXED)


def _argument(node: Node, place: int, name: str, default: object = None) -> Any:  # noqa: ANN401
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _regrouped(
    own: Sequence[str], sizes: Sequence[int], size: Pair
) -> tuple[list[str] | None, dict[str, int]]:
    """Roles of the axes that some neighbouring axes became, and the kernel of split places."""
    significant = [role for role in own if role != "C"]
    if not significant:
        return ["C"] * len(sizes), {}
    if len(significant) == len(own) == 1:
        role = own[0]
        if role == "HW":
            large = [each for each in sizes if each != 1] or [1]
            if len(large) == 1 and size != (1, 1):
                return ["HW" if each == large[0] else "C" for each in sizes], {}
            return (["H", "W"], {}) if tuple(sizes) == size else (None, {})
        if len(sizes) == 1:
            return [role], {}
        large = [each for each in sizes if each != 1]
        if len(large) <= 1:
            where = sizes.index(large[0]) if large else len(sizes) - 1
            return [role if axis == where else "C" for axis in range(len(sizes))], {}
        if role in ("H", "W") and len(sizes) == 2:
            return [role, "C"], {role: sizes[1]}
        return None, {}
    if list(own) == ["H", "W"] and len(sizes) == 1:
        return ["HW"], {}
    if own == significant and tuple(sizes) == size and list(own) == ["H", "W"]:
        return ["H", "W"], {}
    return None, {}


@dataclass(frozen=True, eq=False)
class _Applied:
    """An operation of the network, on one channel."""

    target: Any
    arguments: Sequence[Any]
    keywords: dict[str, Any]

    def __call__(self, channel: Tensor) -> Tensor:
        result: Tensor = self.target(channel, *self.arguments, **self.keywords)
        return result


@dataclass(frozen=True)
class _Resized:
    size: Pair

    def __call__(self, channel: Tensor) -> Tensor:
        return F.interpolate(channel, self.size, mode="bilinear")


@dataclass(frozen=True, eq=False)
class _Transposed:
    """A transposed convolution with a kernel of ones."""

    kernel: Sequence[int]
    arguments: Sequence[Any]

    def __call__(self, channel: Tensor) -> Tensor:
        given = list(self.arguments[2:])
        stride, padding, extra, _, dilation = given + [1, 0, 0, 1, 1][len(given) :]
        ones = channel.new_ones(1, 1, *self.kernel)
        return F.conv_transpose2d(channel, ones, None, stride, padding, extra, 1, dilation)


@dataclass(frozen=True)
class _Repeated:
    """Each pixel as a square of pixels."""

    factor: int

    def __call__(self, channel: Tensor) -> Tensor:
        wide = channel.expand(-1, self.factor**2, -1, -1)
        return F.pixel_shuffle(wide, self.factor)


@dataclass(frozen=True)
class _Adapted:
    """Sums over the windows of an adaptive pooling."""

    size: Pair

    def __call__(self, channel: Tensor) -> Tensor:
        for axis, count in ((2, self.size[0]), (3, self.size[1])):
            size = channel.shape[axis]
            parts = [
                channel.narrow(
                    axis, i * size // count, -(-(i + 1) * size // count) - i * size // count
                ).sum(axis, keepdim=True)
                for i in range(count)
            ]
            channel = torch.cat(parts, axis)
        return channel
