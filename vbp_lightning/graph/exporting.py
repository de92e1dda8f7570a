"""Exporting a network: its forward pass as a list of ATen operations.

``torch.export`` runs the network once on tensors without values and records every operation. It
replaces parameters while it runs and must not meet another thread, so it is given a copy of the
tree of modules that shares parameters and buffers, and only one export runs at a time.
"""

import inspect
import operator
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx import config as fx_config
from torchmetrics import Metric

from vbp_lightning.errors import UserError, one_line

_DICTIONARIES = frozenset((dict, OrderedDict))
_SEQUENCES = frozenset((list, tuple, set, torch.Size))
_CONTAINERS = _DICTIONARIES | _SEQUENCES
_SETTINGS = frozenset((bool, int, float, str, torch.dtype))
_LEFT_OUT = frozenset(
    ("training", "_current_fx_name", "_trainer", "_device", "_hparams", "_hparams_initial")
)
"""The mode, and what Lightning keeps about a module: no part of its forward pass."""


class UnsupportedNetworkError(UserError):
    """A network cannot be explained; names the layer and the reason."""


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy of the tree of modules, in eval mode, with the same parameters and buffers.

    Modules are copied wherever they are: as submodules, in plain containers, and bound in methods
    and hooks. All other attributes are shared, for instance the trainer of a LightningModule.
    """
    copy = _Copier()(model)
    assert isinstance(copy, nn.Module)
    for module in copy.modules():
        module.training = False
    return copy


class _Copier:
    def __init__(self) -> None:
        self._copies: dict[int, nn.Module] = {}

    def __call__(self, value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, nn.Module):
            if id(value) not in self._copies:
                copy = self._copies[id(value)] = value.__new__(type(value))
                copy.__dict__.update({key: self(each) for key, each in vars(value).copy().items()})
            return self._copies[id(value)]
        if isinstance(value, MethodType):
            return MethodType(value.__func__, self(value.__self__))
        if type(value) is partial:
            return partial(self(value.func), *self(value.args), **self(value.keywords))
        if type(value) in _DICTIONARIES:
            return type(value)((key, self(each)) for key, each in value.items())
        if type(value) in _SEQUENCES:
            return type(value)(self(each) for each in value)
        return value


@dataclass(frozen=True, eq=False)
class Signature:
    """What a recorded forward pass depends on, see :func:`signature`.

    Args:
        objects: Parameters, buffers and other tensors, which are compared by identity.
        facts: The modules' types and settings, and type, device and shape of tensors.
        opaque: Whether functions and other objects are among the facts, by identity.
    """

    objects: list[Tensor]
    facts: list[object]
    opaque: bool

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Signature)
            and len(self.objects) == len(other.objects)
            and all(map(operator.is_, self.objects, other.objects))
            and self.facts == other.facts
        )


def signature(model: nn.Module) -> Signature:
    """What a recorded forward pass depends on; equal for two calls if it still holds.

    The modules' types and settings, and identity, type, shape and device of every tensor, wherever
    modules and tensors are: as submodules, parameters and buffers, in plain containers, and bound
    in methods and hooks. The values of tensors are not part of it, nor is the training mode. The
    tensors are held, so that none of them is replaced by one with the same address.
    """
    objects: list[Tensor] = []
    facts: list[object] = []
    places: dict[int, int] = {}
    functions: list[object] = []

    def add(value: Any) -> None:  # noqa: ANN401
        kind = type(value)
        if kind in _SETTINGS:
            facts.append(value)
        elif kind in _DICTIONARIES:  # among them parameters, buffers and hooks
            facts.extend(value)
            for each in value.values():
                objects.append(each) if isinstance(each, Tensor) else add(each)
        elif kind in _SEQUENCES:
            facts.append(len(value))
            for each in value:
                add(each)
        elif isinstance(value, Tensor):
            objects.append(value)
        elif isinstance(value, Metric):  # counts between forward passes
            facts.append(kind)
        elif isinstance(value, nn.Module):
            new = id(value) not in places
            facts.append(places.setdefault(id(value), len(places)))
            if new:
                facts.append(kind)
                for key, each in vars(value).copy().items():
                    if key in _LEFT_OUT:
                        continue
                    kind = type(each)
                    if kind in _SETTINGS:  # most attributes: a call would take longer
                        facts.append(each)
                    elif each is not None and (kind not in _CONTAINERS or each):
                        add(each)
        elif kind is MethodType:
            functions.append(value.__func__)
            add(value.__self__)
        elif kind is partial:
            add([value.func, value.args, value.keywords])
        elif value is not None:
            functions.append(value if kind is FunctionType else id(value))

    add(model)
    try:
        facts += [(each.dtype, each.device, each.shape) for each in objects]
    except RuntimeError as error:  # of a lazy module
        raise UnsupportedNetworkError(
            f"{type(model).__name__}: parameters have no shape yet; run the network once before"
        ) from error
    return Signature(objects, facts + functions, bool(functions))


def exported(model: nn.Module, example: Tensor, name: str, free_size: bool) -> GraphModule:
    """The operations of a forward pass in eval mode, none of which works in place.

    Args:
        model: Any network that takes ``(N, C, H, W)``; it is not changed, and may run meanwhile.
        example: ``(2, C, H, W)``; its values do not matter. The number of images stays free.
        name: Type of the network, for messages.
        free_size: Whether the size of the images stays free too, where the network allows.

    Returns:
        The operations, with the network's own parameters and buffers. ``meta["outputs"]`` has the
        operation that computes the output of each module, by name in the order in which they
        finish; see :class:`~vbp_lightning.graph.network_graph.NetworkGraph`.

    Raises:
        UnsupportedNetworkError: The network cannot be exported, or changes a tensor through a view.
    """
    copy = shared_copy(model)
    free: Any = dict.fromkeys((0, 2, 3) if free_size else (0,), torch.export.Dim.AUTO)
    try:
        first = next(iter(inspect.signature(copy.forward).parameters.values()), None)
        if first is not None and first.kind is first.VAR_POSITIONAL:  # as in DataParallel
            free = (free,)
        _mark_outputs(copy)
        with _no_stack_traces():
            program = torch.export.export(copy, (example,), dynamic_shapes=(free,), strict=False)
        module = program.module()
    except Exception as error:
        # What the network itself raises for these images is raised; the rest is refused.
        try:
            with torch.no_grad():
                copy(example.clone())
        except Exception:
            with torch.enable_grad():  # for instance to register a hook on a tensor
                copy(example.clone())
        layer = _layer_of(error, copy) or name
        raise UnsupportedNetworkError(
            f"{layer}: torch.export cannot follow it ({one_line(error)[:200]})"
        ) from error
    assert isinstance(module, GraphModule)
    _remove_dropout(module.graph)
    module.meta.update(outputs=_marked_outputs(module.graph), values={})
    _work_out_of_place(module.graph, name)
    module.recompile()
    return module


@contextmanager
def _no_stack_traces() -> Iterator[None]:
    """Keeps PyTorch from storing where in the code each operation is called.

    Nothing here reads it, and it takes a quarter of the time of an export.
    """
    before = getattr(fx_config, "do_not_emit_stack_traces", False)  # PyTorch 2.6 has none
    fx_config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        fx_config.do_not_emit_stack_traces = before


def _nothing(output: Tensor, module: str) -> None:
    """Shows in an exported graph which tensor a module returned."""


_mark = torch.library.custom_op("vbp_lightning::mark", _nothing, mutates_args=())
_mark.register_fake(_nothing)


def _mark_outputs(model: nn.Module) -> None:
    """Makes every module of a copy mark the tensor that it returns.

    The exported operations alone do not show it: a module may compute more than it returns, or
    nothing.
    """
    kinds = {kind: _marking(kind) for kind in {type(module) for module in model.modules()}}
    for name, module in model.named_modules():
        if name:
            vars(module)["_marked_name"] = name
            module.__class__ = kinds[type(module)]


def _marking(kind: type[nn.Module]) -> type[nn.Module]:
    def called(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        output = kind.__call__(self, *args, **kwargs)
        name = vars(self).get("_marked_name")
        if isinstance(output, Tensor) and name is not None:  # None: it was made by another module
            _mark(output, name)
        return output

    return type(kind.__name__, (kind,), {"__call__": called})


def _marked_outputs(graph: Graph) -> dict[str, Node]:
    """Removes the marks.

    Returns:
        By the name of a module the operation whose result it returned. The second use of a module
        has ``" (2)"`` appended to its name, and so on.
    """
    found: dict[str, Node] = {}
    uses: Counter[str] = Counter()
    for node in graph.find_nodes(op="call_function", target=torch.ops.vbp_lightning.mark.default):
        output, name = node.args
        uses[name] += 1
        found[name if uses[name] == 1 else f"{name} ({uses[name]})"] = output
        graph.erase_node(node)
    return found


def _layer_of(error: BaseException, model: nn.Module) -> str | None:
    """The innermost module of a model in whose ``forward`` an exception was raised."""
    names = {id(module): name for name, module in model.named_modules() if name}
    found = None
    cause: BaseException | None = error
    while cause is not None and found is None:
        trace = cause.__traceback__
        while trace is not None:
            module = trace.tb_frame.f_locals.get("self")
            if id(module) in names:
                found = f"{names[id(module)]} ({type(module).__name__})"
            trace = trace.tb_next
        cause = cause.__cause__ or cause.__context__
    return found


def layer_name(node: Node, model_type: str) -> str:
    """The name of the innermost module that ran an operation; the type of the network for none."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return path.split("@")[0] or model_type


def described_layer(node: Node, model_type: str) -> str:
    """Name and type of the innermost module that ran an operation, for messages."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    name = layer_name(node, model_type)
    if name == model_type:
        return name
    kind = stack[-1][1]
    return f"{name} ({getattr(kind, '__name__', str(kind).rpartition('.')[2])})"


def operation_of(node: Node) -> str:
    """The name of an operation in ATen without overload, such as ``conv2d``."""
    if node.target is operator.getitem:
        return "getitem"
    name, _, overload = str(node.target).removeprefix("aten.").partition(".")
    return f"{name}imum" if overload == "other" and name in ("max", "min") else name


def _remove_dropout(graph: Graph) -> None:
    """Removes dropouts, which do nothing in eval mode but count as random."""
    for node in list(graph.nodes):
        off = len(node.args) > 2 and node.args[2] is False
        if node.op == "call_function" and "dropout" in operation_of(node) and off:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _work_out_of_place(graph: Graph, name: str) -> None:
    """Replaces operations that work in place by those that do not.

    Raises:
        UnsupportedNetworkError: A tensor that is changed shares its memory with another one that is
            used later, or there is no other form of the operation.
    """
    base: dict[Node, Node] = {}
    order = {node: place for place, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        operation = operation_of(node)
        first = node.args[0] if node.args and isinstance(node.args[0], Node) else node
        changes = (operation.endswith("_") and operation[0] != "_") or "out" in node.kwargs
        views = getattr(node.target, "is_view", False) or operation == "getitem"
        base[node] = base[first] if (views and not changes) and first is not node else node
        if not changes:
            continue
        shared = [each for each in base if base[each] is base.get(first) and each is not node]
        used = any(order[user] > order[node] for each in shared for user in each.users)
        overload = str(node.target).rpartition(".")[2]
        packet = getattr(torch.ops.aten, operation.removesuffix("_"), None)
        if used or not operation.endswith("_") or not hasattr(packet, overload):
            raise UnsupportedNetworkError(
                f"{described_layer(node, name)}: {operation} changes a tensor through a view of it "
                "or through another name"
            )
        node.target = getattr(packet, overload)
