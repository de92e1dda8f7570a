"""What the operations of a network do with places: the rules for ATen operations.

A *map* is a tensor whose values belong to places of the image. Its axes have roles: ``N`` samples,
``H`` and ``W`` places, ``HW`` both in one axis, and ``C`` channels, possibly in several axes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
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
_CUTTING = {"clamp", "clamp_min", "clip", "hardtanh", "threshold"}
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
_PADS = {"pad", "reflection_pad2d", "replication_pad2d"}
_WINDOWS = {"conv2d", "max_pool2d", "max_pool2d_with_indices", "avg_pool2d"}
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

    def unknown(self, node: Node, reason: str, source: Node | None = None) -> Meaning:
        """The meaning of an operation that no mask can pass."""
        gate = any(self.known[each].gate for each in self._read(node))
        reason = f"{described_layer(node, self.network)}: {reason}"
        return Meaning(State.UNKNOWN, gate=gate, reason=reason, source=source)

    def _after(self, node: Node, *read: Node, **changes: Any) -> Meaning:  # noqa: ANN401
        """The meaning of a map with the places of the first one that it was computed from."""
        usual = {
            "follows": read, "layer": None, "activates": False, "positive": False, "gate": False,
            "source": node,
        }  # fmt: skip
        return replace(self.known[read[0]], **{**usual, **changes})

    def _moved(self, node: Node, read: Node, layer: Layer, **changes: Any) -> Meaning:  # noqa: ANN401
        """The meaning of a map behind a layer."""
        height, width = self.shape(node)[-2:]
        still = layer.window is not None and layer.window.moves_nothing
        changes = {"size": (height, width), "layer": None if still else layer, **changes}
        return self._after(node, read, **changes)

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
            return self._after(node, read[0], positive=known[0].positive, gate=known[0].gate)
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
        if name in _WINDOWS:
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
        if name in _WINDOWS | {"conv_transpose2d"} and max(known[0].extent[-2:]) > 1:
            return self.unknown(
                node, "it reads values that were mixed over all places as a map of places again"
            )
        extents = [(1,) * (len(shape) - len(each.extent)) + each.extent for each in known]
        if name in ("expand", "expand_as", "repeat") or name.startswith("upsample"):
            return Meaning(State.MIXED, gate=gate, extent=extents[0])
        if torch.Tag.pointwise in getattr(node.target, "tags", ()):
            extent = tuple(map(max, zip(*extents, strict=True)))
            return Meaning(State.MIXED, gate=gate, extent=extent)
        return Meaning(State.MIXED, gate=gate)

    def _flat(self, node: Node, name: str, first: Meaning) -> Meaning:
        """Operations on the values of a map in another order."""
        before = first.before
        assert before is not None
        if name in _VIEWS and self.shape(node) == before.shape:
            return replace(before, follows=first.follows, layer=None, activates=False)
        if name in _REDUCTIONS | _PRODUCTS | {"linear", "adaptive_avg_pool1d"}:
            return Meaning(State.MIXED)
        if name in _ACTIVATIONS | _CLAMPS | _MONOTONE | _COMPARISONS:
            return self.unknown(node, f"{name} acts on values that left the grid of places")
        if name in _VIEWS | _COPIES | _NORMS | {"permute", "transpose", "softmax"}:
            return first
        return self.unknown(node, f"{name} reads a map whose values were put in another order")

    # Operations on one map

    def _unary(self, node: Node, name: str, read: Node) -> Meaning | None:
        """An operation on one map; None if there is no rule for it."""
        first = self.known[read]
        if name in _COPIES or name in ("neg", "nan_to_num"):
            return self._each(node, read, positive=first.positive and name in _COPIES)
        if name in _ACTIVATIONS | _CLAMPS:
            return self._activation(node, name, read)
        if name in _MONOTONE and (first.positive or not first.convolved):
            return self._each(node, read, positive=first.positive)
        if name in _MONOTONE | _COMPARISONS:
            return self.unknown(node, f"there is no rule for {name} on a map", first.source)
        if name in _NORMS:
            return self._norm(node, name, read)
        if name in _VIEWS:
            return self._view(node, read, first)
        if name in ("permute", "transpose", "t"):
            order = self._order(node, name, len(first.roles))
            roles = tuple(first.roles[axis] for axis in order)
            return self._after(node, read, roles=roles, positive=first.positive, gate=first.gate)
        if name in _REDUCTIONS:
            return self._reduction(node, name, read)
        if name == "linear":
            mixes = first.roles[-1] != "C"
            return Meaning(State.MIXED) if mixes else self._after(node, read, convolved=True)
        if name in _SPLITS or name in ("unbind", "select", "slice", "index_select"):
            return self._part(node, name, read)
        if name in ("softmax", "log_softmax"):
            return self._after(node, read, gate=True)
        if name in ("expand", "expand_as", "repeat"):
            return self._expanded(node, read)
        if name == "channel_shuffle":
            return self._after(node, read, positive=first.positive, gate=first.gate)
        if first.roles != ("N", "C", "H", "W"):
            return None
        layer = self._places(node, name, read)
        if layer is None:
            return Meaning(State.MIXED) if name.startswith("adaptive_") else None
        return self._moved(node, read, layer, positive=first.positive, gate=first.gate)

    def _each(self, node: Node, read: Node, **changes: Any) -> Meaning:  # noqa: ANN401
        """The meaning of a function of each value alone."""
        first = self.known[read]
        return self._after(node, read, **{"source": first.source, "gate": first.gate, **changes})

    def _activation(self, node: Node, name: str, read: Node) -> Meaning:
        first = self.known[read]
        lowest: Any = 0
        if name in _CLAMPS | {"hardtanh", "threshold"}:
            default = -1.0 if name == "hardtanh" else None
            lowest = _argument(node, 2 if name == "threshold" else 1, "min", default)
        bounded = isinstance(lowest, int | float)
        cut = bounded and lowest >= 0
        if name in _CLAMPS and (not first.convolved or not bounded or lowest > 0):
            return self._each(node, read, positive=cut or first.positive)
        positive = name in _POSITIVE or (name in _CUTTING and cut)
        return self._each(node, read, activates=True, positive=positive, gate=name in _GATES)

    def _norm(self, node: Node, name: str, read: Node) -> Meaning:
        arguments: tuple[Any, ...] = node.args
        if name == "batch_norm" and (arguments[3] is None or arguments[5] is True):
            return self.unknown(
                node,
                "it normalises with the statistics of the batch even in eval mode, "
                "so a mask would depend on the other samples",
            )
        return self._after(node, read)

    @staticmethod
    def _order(node: Node, name: str, count: int) -> list[int]:
        """The axes of the operand in the order of the result."""
        if name == "permute":
            return [axis % count for axis in _argument(node, 1, "dims")]
        order = list(range(count))
        first, second = _argument(node, 1, "dim0", 0), _argument(node, 2, "dim1", 1)
        order[first], order[second] = order[second], order[first]
        return order

    def _reduction(self, node: Node, name: str, read: Node) -> Meaning:
        roles = self.known[read].roles
        dims = _argument(node, 2 if name in ("linalg_vector_norm", "norm") else 1, "dim", [])
        if dims is None or dims == []:
            return Meaning(State.MIXED)
        axes = {axis % len(roles) for axis in ([dims] if isinstance(dims, int) else dims)}
        reduced = {roles[axis] for axis in axes}
        if "N" in reduced:
            return self.unknown(node, f"{name} mixes the samples of a batch")
        if reduced - {"C"}:
            return Meaning(State.MIXED)
        if len(self.shape(node)) < len(roles):
            roles = tuple(role for axis, role in enumerate(roles) if axis not in axes)
        return self._after(node, read, roles=roles, positive=self.known[read].positive)

    def _part(self, node: Node, name: str, read: Node) -> Meaning:
        first = self.known[read]
        dim = _argument(node, 2 if name in _SPLITS else 1, "dim", 0) % len(first.roles)
        role = first.roles[dim]
        if role == "C" or (name == "slice" and self.shape(node) == first.shape):
            gone = {dim} if name in ("unbind", "select") else set()
            roles = tuple(each for axis, each in enumerate(first.roles) if axis not in gone)
            return self._after(node, read, roles=roles, positive=first.positive, gate=first.gate)
        if name != "slice" or role not in ("H", "W"):
            return self.unknown(node, f"{name} takes out some places or samples of a map")
        start = self._number(_argument(node, 2, "start", 0))
        step = self._number(_argument(node, 4, "step", 1))
        axis = "HW".index(role)
        size, stride, padding = list(first.size), [1, 1], [0, 0]
        padding[axis] = -min(max(start + size[axis] if start < 0 else start, 0), size[axis])
        stride[axis], size[axis] = step, self.shape(node)[dim]
        above = (size[0], size[1])
        window = Window((1, 1), both(stride), both(padding), (1, 1), first.size, above)
        return self._moved(
            node, read, Layer(window), size=above, positive=first.positive, gate=first.gate
        )

    def _number(self, value: object) -> int:
        found: Any = self.values[value] if isinstance(value, Node) else value
        return int(found) if found is not None else 0

    def _expanded(self, node: Node, read: Node) -> Meaning:
        first, shape = self.known[read], self.shape(node)
        more = len(shape) - len(first.roles)
        roles, before = ("C",) * more + first.roles, (1,) * more + first.shape
        changed = {role for role, a, b in zip(roles, before, shape, strict=True) if a != b}
        if changed - {"C"}:
            return self.unknown(node, "it repeats a map over places or samples")
        return self._after(node, read, roles=roles, positive=first.positive, gate=first.gate)

    def _view(self, node: Node, read: Node, first: Meaning) -> Meaning:
        """Roles after the axes were split and merged."""
        old, new = self.shape(read), self.shape(node)
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
        changes: dict[str, Any] = {}
        if windows != [1, 1]:
            blocks = (windows[0], windows[1])
            size = first.size[0] // blocks[0], first.size[1] // blocks[1]
            layer = Layer(Window(blocks, blocks, (0, 0), (1, 1), first.size, size))
            changes = {"layer": layer, "size": size}
        return self._each(node, read, roles=tuple(roles), positive=first.positive, **changes)

    def _places(self, node: Node, name: str, read: Node) -> Layer | None:
        """The layer of an operation that moves places; None for others."""
        below = self.known[read].size
        above = (self.shape(node)[-2], self.shape(node)[-1])
        arguments: list[Any] = [map_arg(each, self.values.__getitem__) for each in node.args[1:]]
        keywords: Any = map_arg(dict(node.kwargs), self.values.__getitem__)
        apply: Callable[[Tensor], Tensor] | None = None
        taps: Pair | None = None
        padding = (0, 0)
        if name in ("pad", "constant_pad_nd") and len(arguments[0]) > 4:
            return None
        if name == "constant_pad_nd" or (name == "pad" and arguments[1:2] in ([], ["constant"])):
            taps, padding = (1, 1), (int((*arguments[0], 0, 0)[2]), int(arguments[0][0]))
        elif name in ("flip", "roll"):
            if {axis % 4 for axis in arguments[-1]} <= {2, 3}:
                apply = partial(_applied, node.target, arguments, keywords)
        elif name in _PADS or name.startswith(("upsample_nearest", "upsample_bilinear")):
            apply = partial(_applied, node.target, arguments, keywords)
        elif name.startswith(("upsample_bicubic", "_upsample_b")):
            apply = partial(F.interpolate, size=above, mode="bilinear")
        elif name == "conv_transpose2d":
            apply = partial(_transposed, arguments[0].shape[2:], arguments[2:])
        elif name == "pixel_shuffle":
            apply = partial(_repeated, int(arguments[0]))
        elif name == "pixel_unshuffle":
            taps = both(int(arguments[0]))
        elif name.startswith("adaptive_") and above != (1, 1):
            if below[0] % above[0] == 0 and below[1] % above[1] == 0:
                taps = below[0] // above[0], below[1] // above[1]
            else:
                apply = partial(_adapted, above)
        if taps is not None:
            return Layer(Window(taps, taps, padding, (1, 1), below, above))
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
        above = (self.shape(node)[-2], self.shape(node)[-1])
        window = Window(kernel, stride, padding, dilation, first.size, above)
        convolves = name == "conv2d"
        return self._moved(
            node,
            read[0],
            Layer(window, maximum="max" in name),
            convolved=first.convolved or convolves,
            positive=first.positive and not convolves,
        )

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
        return self._after(
            node,
            *read,
            roles=roles,
            convolved=any(each.convolved for each in known),
            positive=all(each.positive for each in known),
            gate=all(each.gate for each in known),
        )

    def _arithmetic(self, node: Node, name: str, read: list[Node]) -> Meaning:
        known = [self.known[each] for each in read]
        if len(read) == 1:
            first = known[0]
            if first.state is not State.MAP:
                return replace(first, follows=(read[0],))
            if name in ("maximum", "minimum") and first.convolved:
                return self._each(node, read[0], activates=name == "maximum", gate=False)
            roles = self._broadcast(node, read)
            if roles is None:
                return self.unknown(node, f"{name} repeats a map over places")
            # Value by value also with a vector of constants: a scale and a shift.
            return self._each(node, read[0], roles=roles)
        if name == "addcmul":
            return self.unknown(node, "it adds a product of several maps")
        gated = self._gated(node, name, read)
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
            flats = [each for each in read if self.known[each].state is State.FLAT]
            mixed = [each for each in known if each.state is State.MIXED]
            # A factor or a mean of whole rows, as in a normalisation.
            factors = name in ("mul", "div", "sub") and all(
                each.extent[-1:] == (1,) for each in mixed
            )
            if mixed and not factors:
                return Meaning(State.MIXED)
            return replace(self.known[flats[0]], follows=tuple(flats))
        if len(maps) < len(read):
            others = [each for each in known if each.state is State.MIXED]
            return self._with_mixed(node, name, maps[0], others)
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
        return self._after(
            node,
            *follows,
            roles=roles,
            convolved=any(each.convolved for each in known),
            gate=all(each.gate for each in known),
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
            if name == "mul" and same and self._between(factor, value):
                return self._each(node, value, activates=own.convolved, gate=False)
            if other.state is State.UNKNOWN and (name == "div" or other.gate):
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
        return self._after(node, read, roles=roles)

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
            return self._after(node, read[0], convolved=True)
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


# Linear functions of one channel that stand for layers which are no windows


def _applied(target: Any, arguments: list[Any], keywords: Any, channel: Tensor) -> Tensor:  # noqa: ANN401
    result: Tensor = target(channel, *arguments, **keywords)
    return result


def _transposed(kernel: Sequence[int], given: list[Any], channel: Tensor) -> Tensor:
    """A transposed convolution with a kernel of ones."""
    stride, padding, extra, _, dilation = given + [1, 0, 0, 1, 1][len(given) :]
    ones = channel.new_ones(1, 1, *kernel)
    return F.conv_transpose2d(channel, ones, None, stride, padding, extra, 1, dilation)


def _repeated(factor: int, channel: Tensor) -> Tensor:
    """Each pixel as a square of pixels."""
    return F.pixel_shuffle(channel.expand(-1, factor**2, -1, -1), factor)


def _adapted(size: Pair, channel: Tensor) -> Tensor:
    """Sums over the windows of an adaptive pooling."""
    for axis, count in ((2, size[0]), (3, size[1])):
        whole = channel.shape[axis]
        bounds = [(i * whole // count, -(-(i + 1) * whole // count)) for i in range(count)]
        parts = [channel.narrow(axis, low, high - low).sum(axis, True) for low, high in bounds]
        channel = torch.cat(parts, axis)
    return channel
