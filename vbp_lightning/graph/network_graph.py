"""The graph of a network for images of one size: maps, layers, activations and joins."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from vbp_lightning.errors import one_line
from vbp_lightning.graph.exporting import (
    Signature,
    UnsupportedNetworkError,
    layer_name,
    signature,
)
from vbp_lightning.graph.geometry import Layer, Pair
from vbp_lightning.graph.meaning import Meaning, State, arrangement, meanings_of
from vbp_lightning.graph.outputs import Head, output_named, outputs_of
from vbp_lightning.graph.sharing import export_of


@dataclass(eq=False)
class Step:
    """A map on the way from the image to the head.

    Args:
        node: The operation that computes it.
        name: Name of the module that ran it; the second activation of a module ends in ``" (2)"``.
        channels: The axes of channels.
        order: The order in which the other values are those of the places; None if they are.
        sources: The maps that it was computed from, gates left out.
        layers: The layers between these and it, in forward order.
        activates: Whether it is the output of an activation.
        ends: Whether the head can be reached from it without passing another activation.
        depth: The number of activations on the longest way from the image to it, itself included.
        size: Height and width.
        positive: Whether no value is negative.
    """

    node: Node
    name: str
    channels: tuple[int, ...]
    order: Tensor | None
    sources: tuple["Step", ...]
    layers: tuple[Layer, ...]
    activates: bool
    ends: bool
    depth: int
    size: Pair
    positive: bool


@dataclass(eq=False)
class NetworkGraph:
    """What a network computes for images of one size.

    Args:
        network: Type of the network, for messages.
        module: The exported operations, with the network's own parameters and buffers.
        values: For each operation its result for two images, as tensors without values.
        programs: Generated code that runs the operations, by what it returns.

    Attributes:
        image: The operation whose result is the image.
        outputs: By the name of a module the operation that computes its output, in the order in
            which they finish. The second use of a module has ``" (2)"`` appended to its name, and
            so on. Modules that return no tensor, but for instance several, are left out.
        random: Whether the network draws random numbers.
        weights: Number of its parameters.
        largest: Bytes of the largest map of one image.
        by_sample: Whether all outputs have one entry for each image.
    """

    network: str
    module: GraphModule
    values: dict[Node, Any]
    programs: dict[object, Any] = field(default_factory=dict)
    _paths: dict[Head, tuple[Step, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes = self.module.graph.nodes
        self.image = next(node for node in nodes if node.op == "placeholder")
        self.outputs: dict[str, Node] = self.module.meta["outputs"]
        self.random = any(
            torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) for node in nodes
        )
        self.weights = sum(each.numel() for each in self.module.parameters())
        maps = [each for each in self.values.values() if isinstance(each, Tensor) and each.ndim > 2]
        self.largest = max(each[:1].nbytes for each in maps)
        recorded = [
            each.meta.get("val") for each in self.module.graph.output_node().all_input_nodes
        ]
        self.by_sample = all(
            isinstance(each, Tensor) and each.ndim > 0 and isinstance(each.shape[0], torch.SymInt)
            for each in recorded
        )

    @cached_property
    def meanings(self) -> dict[Node, Meaning]:
        """What each operation does with places; for large images it takes much memory."""
        return meanings_of(self.module, self.values, self.network)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The maps that lead to any output, see :meth:`paths`."""
        return self.paths()

    @property
    def activations(self) -> tuple[Step, ...]:
        """The activations that lead to any output, in forward order."""
        return tuple(step for step in self.steps if step.activates)

    def paths(self, head: Head = None) -> tuple[Step, ...]:
        """The maps that lead to an output, in forward order; the first is the image.

        Args:
            head: Key or index of an output of a network with several; None for all of them.

        Raises:
            UnsupportedNetworkError: An operation between the maps has no rule, or there is no
                activation.
            ValueError: There is no such output.
        """
        if head not in self._paths:
            known = meanings_of(self.module, self.values, self.network)
            found = _steps(self.module, known, self.network, head)
            self._paths.setdefault(head, found)  # of several threads, the first one's
        return self._paths[head]

    @cached_property
    def stride(self) -> int | None:
        """Pixels between neighbouring places of the last maps; None if there is no one distance.

        The factors of gates do not count.
        """
        strides: dict[Step, set[int | None]] = {}
        last = dict.fromkeys(self.steps)
        for step in self.steps:
            windows = [each.window for each in step.layers]
            below = set[int | None]().union(*(strides[each] for each in step.sources)) or {1}
            for source in step.sources:
                last.pop(source, None)
            factors = {
                None if None in windows else prod(w.stride[axis] for w in windows if w)
                for axis in (0, 1)
            }
            strides[step] = {b and f and b * f for b in below for f in factors}
        found = set[int | None]().union(*(strides[each] for each in last))
        return found.pop() if len(found) == 1 else None

    def output_of(self, module: str) -> Node:
        """The operation that computes the output of a module.

        Raises:
            ValueError: The module does not run, or returns no tensor.
        """
        if module not in self.outputs:
            raise ValueError(f"layer is {module!r}; it does not run, or returns no tensor")
        return self.outputs[module]


_LOCK = threading.RLock()
_Cached = dict[object, tuple[list[GraphModule], dict[object, NetworkGraph]]]
_EXPORTS: WeakKeyDictionary[nn.Module, tuple[Signature, _Cached]] = WeakKeyDictionary()
"""For each type and device the exports, and the graphs of the sizes that were asked for."""


def graph_of(model: nn.Module, inputs: Tensor, free_size: bool = False) -> NetworkGraph:
    """The graph of a network for images of the size, type and device of the inputs.

    It is exported once and holds as long as the tree of modules and the identity, type and device
    of every parameter and buffer stay the same; their values may change.

    Args:
        model: Any network that takes ``(N, C, H, W)``; it is not changed, and may run meanwhile in
            other threads. What was made of exported operations is not exported once more.
        inputs: ``(N, C, H, W)``.
        free_size: Whether the operations have to be those for other heights and widths as well,
            where the network allows. Otherwise it is exported like this when a second size comes,
            since it takes longer.

    Raises:
        UnsupportedNetworkError: The network cannot be exported.
    """
    present = signature(model)
    size = tuple(inputs.shape[1:])
    with _LOCK:
        known, cached = _EXPORTS.get(model, (None, {}))
        if known != present:
            known, cached = present, {}
            _EXPORTS[model] = present, cached
        exports, graphs = cached.setdefault((inputs.dtype, inputs.device), ([], {}))
        if isinstance(model, GraphModule) and "outputs" in model.meta:
            exports[:] = [model]
        elif free_size and exports and not exports[-1].meta["free_size"]:
            graphs.clear()
            exports.clear()
        if size not in graphs:
            with _for_export(inputs.device.type):
                graphs[size] = _graph(model, present, inputs, exports, free_size)
        return graphs[size]


def _graph(
    model: nn.Module,
    present: Signature,
    inputs: Tensor,
    exports: list[GraphModule],
    free_size: bool,
) -> NetworkGraph:
    """The graph from one of the exports that holds for the inputs, or from a new one."""
    name, size = type(model).__name__, inputs.shape[1:]
    for module in exports:
        values = _values(module, size, name)
        if values is not None:
            return NetworkGraph(name, module, values)
    example = torch.zeros(2, *size, dtype=inputs.dtype, device=inputs.device)
    if model in exports:
        raise UnsupportedNetworkError(
            f"{name}: its exported operations do not hold for images of {size[1]} × {size[2]} px"
        )
    free_size = free_size or bool(exports)
    exports.append(export_of(model, present, example, name, free_size))
    exports[-1].meta["free_size"] = free_size
    values = _values(exports[-1], size, name)
    if values is None:
        raise UnsupportedNetworkError(
            f"{name}: the number of images cannot change in the exported network"
        )
    return NetworkGraph(name, exports[-1], values)


@contextmanager
def _for_export(device: str) -> Iterator[None]:
    """Neither inference mode nor autocast, and no messages about symbolic sizes."""
    loggers = [
        logging.getLogger(f"torch.{name}")
        for name in ("fx.experimental.symbolic_shapes", "_export.non_strict_utils")
    ]
    disabled = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with (
            torch.inference_mode(mode=False),
            torch.no_grad(),
            torch.autocast(device, enabled=False),
        ):
            yield
    finally:
        for logger, before in zip(loggers, disabled, strict=True):
            logger.disabled = before


class _Shapes(Interpreter):
    """Runs operations on tensors without values and keeps the results."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[Node, Any] = {}

    def run_node(self, n: Node) -> Any:  # noqa: ANN401
        result = super().run_node(n)
        if n.op == "get_attr" and isinstance(result, Tensor):
            result = result.detach().to("meta")
        self.values[n] = result
        return result

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        def moved(value: Any) -> Any:  # noqa: ANN401
            return torch.device("meta") if isinstance(value, torch.device) else value

        args = tuple(map(moved, args))
        return super().call_function(target, args, {k: moved(v) for k, v in kwargs.items()})


def _values(module: GraphModule, size: Sequence[int], network: str) -> dict[Node, Any] | None:
    """The results for two images of a size; None if the operations do not hold for it."""
    known = module.meta.setdefault("values", {})
    if tuple(size) in known:
        found: dict[Node, Any] = known[tuple(size)]
        return found
    placeholder = next(node for node in module.graph.nodes if node.op == "placeholder")
    recorded = placeholder.meta["val"]
    example = torch.empty(2, *size, dtype=recorded.dtype, device="meta")
    fits = all(
        isinstance(each, torch.SymInt) or each == wanted
        for each, wanted in zip(recorded.shape, example.shape, strict=True)
    )
    if not (fits and isinstance(recorded.shape[0], torch.SymInt)):
        return None
    shapes = _Shapes(module)
    try:
        with torch.no_grad():
            shapes.run(example)
    except AssertionError:  # a guard of the export
        return None
    except RuntimeError as error:  # for instance at an autocast inside of the network
        reason = one_line(error)[:200]
        raise UnsupportedNetworkError(
            f"{network}: its exported operations do not run ({reason})"
        ) from error
    known[tuple(size)] = shapes.values
    return shapes.values


def _steps(
    module: GraphModule, known: dict[Node, Meaning], network: str, head: Head
) -> tuple[Step, ...]:
    nodes = list(module.graph.nodes)
    returned = module.graph.process_outputs(module.graph.output_node().args[0])
    outputs = [*outputs_of(returned).values()] if head is None else [output_named(returned, head)]
    followed, ends = _leading(nodes, known, outputs)
    steps: dict[Node, Step] = {}
    uses: Counter[str] = Counter()
    for node in nodes:
        if node not in followed:
            continue
        meaning = known[node]
        sources = tuple(steps[each] for each in meaning.follows)
        if len(sources) == 1 and not meaning.layers and not meaning.activates:
            # The places are those of the source.
            before = sources[0]
            steps[node] = before
            continue
        name = layer_name(node, network)
        if meaning.activates:
            uses[name] += 1
            name = name if uses[name] == 1 else f"{name} ({uses[name]})"
        layout = arrangement(meaning.labels, meaning.size) or ((), None)
        depth = max((each.depth for each in sources), default=0) + meaning.activates
        steps[node] = Step(
            node, name, *layout, sources, meaning.layers, meaning.activates,
            node in ends, depth, meaning.size, meaning.positive,
        )  # fmt: skip
    ordered = tuple(dict.fromkeys(steps.values()))
    if not any(step.activates for step in ordered):
        raise UnsupportedNetworkError(
            f"{network}: no activation acts on its maps, so there is nothing to explain"
        )
    return ordered


def _leading(
    nodes: Sequence[Node], known: dict[Node, Meaning], outputs: Sequence[Node]
) -> tuple[set[Node], set[Node]]:
    """The maps that lead to the outputs, not only as the factor of a gate.

    Returns:
        The maps, and among other operations those from which the outputs are reached without
        passing another activation.
    """
    maps, ends = set[Node](), {*outputs}
    for node in reversed(nodes):
        meaning = known[node]
        if meaning.state is State.CONSTANT or node not in maps | ends:
            continue
        if meaning.state is State.UNKNOWN:
            raise UnsupportedNetworkError(meaning.reason)
        if meaning.state is State.MAP:
            maps |= {node, *meaning.follows}
        if node in ends and not meaning.activates:
            mixed = meaning.state is State.MIXED
            ends |= {*(node.all_input_nodes if mixed else meaning.follows)}
    return maps, ends
