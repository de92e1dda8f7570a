"""The graph of a network for images of one size: maps, layers, activations and joins."""

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from vbp_lightning.graph.exporting import (
    UnsupportedNetworkError,
    exported,
    layer_name,
    signature,
)
from vbp_lightning.graph.geometry import Layer, Pair
from vbp_lightning.graph.meaning import Meaning, Rules, State


@dataclass(eq=False)
class Step:
    """A map on the way from the image to the head.

    Args:
        node: The operation that computes it.
        name: Name of the module that ran it; the second activation of a module ends in ``" (2)"``.
        roles: The role of each axis, see :mod:`~vbp_lightning.graph.meaning`.
        sources: The maps that it was computed from, gates left out.
        layer: The layer between these and it; None if places stay where they are.
        activates: Whether it is the output of an activation.
        ends: Whether the head can be reached from it without passing another activation.
        depth: The number of activations on the longest way from the image to it, itself included.
        size: Height and width.
        positive: Whether no value is negative.
    """

    node: Node
    name: str
    roles: tuple[str, ...]
    sources: tuple["Step", ...]
    layer: Layer | None
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

    def __post_init__(self) -> None:
        nodes = self.module.graph.nodes
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
        """What each operation does with places."""
        rules = Rules(self.values, self.network)
        for node in self.module.graph.nodes:
            rules.add(node)
        return rules.known

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The maps that lead to the head, in forward order; the first is the image.

        Raises:
            UnsupportedNetworkError: An operation between the maps has no rule, or there is no
                activation.
        """
        return _steps(self.module, self.meanings, self.network)

    @cached_property
    def activations(self) -> tuple[Step, ...]:
        """The activations that lead to the head, in forward order."""
        return tuple(step for step in self.steps if step.activates)

    def output_of(self, module: str) -> Node:
        """The operation that computes the output of a module.

        Raises:
            ValueError: The module does not run, or returns no tensor.
        """
        if module not in self.outputs:
            raise ValueError(f"layer is {module!r}; it does not run, or returns no tensor")
        return self.outputs[module]


@dataclass(eq=False)
class _Export:
    """Exported operations, and the graphs of the sizes that they hold for.

    Args:
        module: The operations.
        sizes: The graph of each ``(C, H, W)``.
    """

    module: GraphModule
    sizes: dict[tuple[int, ...], NetworkGraph]


_LOCK = threading.RLock()
_EXPORTS: WeakKeyDictionary[nn.Module, tuple[list[object], dict[object, list[_Export]]]] = (
    WeakKeyDictionary()
)


def graph_of(model: nn.Module, inputs: Tensor) -> NetworkGraph:
    """The graph of a network for images of the size, type and device of the inputs.

    It is exported once and holds as long as the tree of modules and the identity, type and device
    of every parameter and buffer stay the same; their values may change.

    Args:
        model: Any network that takes ``(N, C, H, W)``; it is not changed, and may run meanwhile in
            other threads.
        inputs: ``(N, C, H, W)``.

    Raises:
        UnsupportedNetworkError: The network cannot be exported.
    """
    present = signature(model)
    size = tuple(inputs.shape[1:])
    kind = inputs.dtype, inputs.device
    with _LOCK:
        known, exports = _EXPORTS.get(model, (None, {}))
        if known != present:
            known, exports = present, {}
            _EXPORTS[model] = present, exports
        of_kind = exports.setdefault(kind, [])
        for export in of_kind:
            if size in export.sizes:
                return export.sizes[size]
        with _for_export(inputs.device.type):
            name = type(model).__name__
            example = torch.zeros(2, *size, dtype=inputs.dtype, device=inputs.device)
            for export in of_kind:
                values = _values(export.module, size)
                if values is not None:
                    break
            else:
                # The size of the images is fixed in the first export, which is faster.
                module = exported(model, example, name, free_size=bool(of_kind))
                values = _values(module, size)
                if values is None:
                    raise UnsupportedNetworkError(
                        f"{name}: the number of images cannot change in the exported network"
                    )
                export = _Export(module, {})
                of_kind.append(export)
            export.sizes[size] = NetworkGraph(name, export.module, values)
        return export.sizes[size]


class Graphs:
    """The graphs of one network, one for each size of images; a faster :func:`graph_of`.

    Copies and pickles hold the network only.

    Args:
        model: Any network that takes ``(N, C, H, W)``.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._dicts: list[dict[str, object]] = []
        self._ids: list[int] = []
        self._graphs: dict[object, NetworkGraph] = {}

    def __getstate__(self) -> nn.Module:
        return self.model

    def __setstate__(self, model: nn.Module) -> None:
        self.__init__(model)  # type: ignore[misc]

    def of(self, inputs: Tensor) -> NetworkGraph:
        """The graph for images of the size, type and device of the inputs.

        Raises:
            UnsupportedNetworkError: As for :func:`graph_of`.
        """
        key = inputs.shape[1:], inputs.dtype, inputs.device
        # No attribute of any module has been replaced: nothing that a signature names has changed.
        ids = [id(value) for each in self._dicts for value in each.values()]
        if ids != self._ids or key not in self._graphs:
            own = [vars(module) for module in self.model.modules()]
            held = [value for each in own for value in each.values() if isinstance(value, dict)]
            dicts = [*own, *held]
            present = [id(value) for each in dicts for value in each.values()]
            graph = graph_of(self.model, inputs)
            known = self._graphs if ids == self._ids else {}
            self._dicts, self._ids, self._graphs = dicts, present, {**known, key: graph}
            return graph
        return self._graphs[key]


@contextmanager
def _for_export(device: str) -> Iterator[None]:
    """Neither inference mode nor autocast, and no messages about symbolic sizes."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    disabled = logger.disabled
    logger.disabled = True
    try:
        with (
            torch.inference_mode(mode=False),
            torch.no_grad(),
            torch.autocast(device, enabled=False),
        ):
            yield
    finally:
        logger.disabled = disabled


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


def _values(module: GraphModule, size: Sequence[int]) -> dict[Node, Any] | None:
    """The results for two images of a size; None if the operations do not hold for it."""
    placeholder = next(node for node in module.graph.nodes if node.op == "placeholder")
    recorded = placeholder.meta["val"]
    example = torch.empty(2, *size, dtype=recorded.dtype, device="meta")
    fits = all(
        isinstance(known, torch.SymInt) or known == wanted
        for known, wanted in zip(recorded.shape, example.shape, strict=True)
    )
    if not (fits and isinstance(recorded.shape[0], torch.SymInt)):
        return None
    shapes = _Shapes(module)
    try:
        with torch.no_grad():
            shapes.run(example)
    except AssertionError:  # a guard of the export
        return None
    return shapes.values


def _steps(module: GraphModule, known: dict[Node, Meaning], network: str) -> tuple[Step, ...]:
    nodes = list(module.graph.nodes)
    ends = _ends(nodes, known)
    followed = _followed(nodes, known, ends)
    steps: dict[Node, Step] = {}
    uses: Counter[str] = Counter()
    for node in nodes:
        if node not in followed:
            continue
        meaning = known[node]
        sources = tuple(steps[each] for each in meaning.follows)
        if len(sources) == 1 and meaning.layer is None and not meaning.activates:
            # The places are those of the source.
            before = sources[0]
            steps[node] = before
            continue
        name = layer_name(node, network)
        if meaning.activates:
            uses[name] += 1
            name = name if uses[name] == 1 else f"{name} ({uses[name]})"
        depth = max((each.depth for each in sources), default=0) + meaning.activates
        steps[node] = Step(
            node, name, meaning.roles, sources, meaning.layer, meaning.activates,
            node in ends, depth, meaning.size, meaning.positive,
        )  # fmt: skip
    ordered = tuple(dict.fromkeys(steps.values()))
    if not any(step.activates for step in ordered):
        raise UnsupportedNetworkError(
            f"{network}: no activation acts on its maps, so there is nothing to explain"
        )
    return ordered


def _ends(nodes: Sequence[Node], known: dict[Node, Meaning]) -> set[Node]:
    """The operations from which the output is reached without passing another activation."""
    ends: set[Node] = set()
    for node in reversed(nodes):
        if node.op == "output":
            read = node.all_input_nodes
        elif node not in ends or known[node].activates:
            continue
        elif known[node].state is State.MIXED:
            read = node.all_input_nodes
        else:
            read = list(known[node].follows)
        _check(read, known)
        ends |= {each for each in read if known[each].state is not State.CONSTANT}
    return ends


def _check(followed: Iterable[Node], known: dict[Node, Meaning]) -> None:
    for node in followed:
        if known[node].state is State.UNKNOWN:
            raise UnsupportedNetworkError(known[node].reason)


def _followed(nodes: Sequence[Node], known: dict[Node, Meaning], ends: set[Node]) -> set[Node]:
    """The maps from which the head is reached, not only as the factor of a gate."""
    followed = {node for node in ends if known[node].state in (State.MAP, State.FLAT)}
    for node in reversed(nodes):
        if node in followed:
            followed |= {*known[node].follows}
            _check(known[node].follows, known)
    return followed
