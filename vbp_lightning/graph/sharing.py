"""Exports that networks of the same structure share: only their tensors differ."""

from collections import OrderedDict
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from vbp_lightning.graph.exporting import Signature, exported, shared_copy
from vbp_lightning.graph.outputs import outputs_of

_KEPT = 32
"""Number of structures whose exports are kept, without any tensor."""


@dataclass(frozen=True, eq=False)
class _Template:
    """Exported operations without tensors.

    Args:
        graph: The operations.
        outputs: The operation of the output of each module.
        tensors: The place of each tensor among those of the signature, by its name in the graph.
        others: Other attributes that the operations refer to: the guards of the export.
        values: The results without values, which all networks share, by the size of the images.
    """

    graph: Graph
    outputs: dict[str, Node]
    tensors: dict[str, int]
    others: dict[str, Any]
    values: dict[tuple[int, ...], dict[Node, Any]]


_TEMPLATES: OrderedDict[object, _Template] = OrderedDict()


def export_of(
    model: nn.Module, present: Signature, example: Tensor, name: str, free_size: bool
) -> GraphModule:
    """As :func:`~vbp_lightning.graph.exporting.exported`, from an earlier export where possible.

    A network of the same structure was exported if the facts of the signatures are equal; what
    they cannot show, such as a global variable that ``forward`` reads, shows in another output.

    Args:
        model: The network.
        present: Its signature.
        example: ``(2, C, H, W)``.
        name: Type of the network, for messages.
        free_size: Whether the size of the images stays free too.

    Raises:
        UnsupportedNetworkError: As for ``exported``.
    """
    key = (*present.facts, example.dtype, example.device, example.shape, free_size)
    shared = not present.opaque and not any(map(Tensor.is_inference, present.objects))
    if shared and key in _TEMPLATES:
        _TEMPLATES.move_to_end(key)
        found = _bound(_TEMPLATES[key], present)
        if _agree(found, model, example):
            return found
    module = exported(model, example, name, free_size)
    places = {id(tensor): place for place, tensor in enumerate(present.objects)}
    names = {str(node.target) for node in module.graph.find_nodes(op="get_attr")}
    tensors = {each: places.get(id(attrgetter(each)(module)), -1) for each in names}
    if shared and -1 not in tensors.values():
        calls = {str(node.target) for node in module.graph.find_nodes(op="call_module")}
        others = {each: attrgetter(each)(module) for each in calls}
        _TEMPLATES[key] = _Template(
            module.graph, module.meta["outputs"], tensors, others, module.meta["values"]
        )
        module.graph.owning_module = None  # which holds tensors
        while len(_TEMPLATES) > _KEPT:
            _TEMPLATES.popitem(last=False)
    return module


def _bound(template: _Template, present: Signature) -> GraphModule:
    """The operations with the tensors of a network."""
    tensors = {name: present.objects[place] for name, place in template.tensors.items()}
    module = GraphModule({**tensors, **template.others}, template.graph)
    module.meta.update(outputs=template.outputs, values=template.values)
    template.graph.owning_module = None
    return module


def _agree(module: GraphModule, model: nn.Module, example: Tensor) -> bool:
    """Whether the operations give the outputs of a network."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(example.shape, generator=generator).to(example)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        first, second = (outputs_of(each(images.clone())) for each in (module, shared_copy(model)))
    return first.keys() == second.keys() and all(
        torch.equal(each, second[name]) for name, each in first.items()
    )
