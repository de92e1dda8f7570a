"""The layers of a network by name, their outputs, and the score of one of their units."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from vbp_lightning.graph.exporting import operation_of
from vbp_lightning.graph.meaning import channel_axis
from vbp_lightning.graph.network_graph import NetworkGraph, graph_of
from vbp_lightning.graph.running import copied, evaluated, random_state_kept


def is_leaf(model: nn.Module, name: str) -> bool:
    """Whether a name is that of a layer, in any use, and not of a container of layers."""
    return next(model.get_submodule(name.split(" (")[0]).children(), None) is None


def results(graph: NetworkGraph, inputs: Tensor, wanted: Sequence[Node]) -> list[Tensor]:
    """The results of some operations, without gradients; runs nothing that they do not need.

    Args:
        graph: The graph for images of this size.
        inputs: ``(N, C, H, W)``; left unchanged.
        wanted: Operations of the graph.
    """
    key = "results", *wanted
    if key not in graph.programs:
        code, made, _ = copied(graph)
        code.output([made[node] for node in wanted])
        code.eliminate_dead_code()
        graph.programs[key] = GraphModule(graph.module, code)
    with torch.no_grad(), random_state_kept(inputs.device, graph.random):
        found: list[Tensor] = graph.programs[key](inputs.detach().clone())
    return found


def channels_first(graph: NetworkGraph, node: Node, values: Tensor) -> Tensor:
    """The result of an operation as ``(N, C, H, W)`` if it is a map with another order of axes."""
    axis = channel_axis(graph.meanings[node])
    return values if axis is None else values.movedim(axis, 1)


def layer_outputs(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """The output of every layer in one forward pass in eval mode.

    Args:
        model: Any network; left unchanged.
        inputs: ``(N, C, H, W)`` floating point, raw as the model takes them.

    Returns:
        The outputs by layer name in order of execution, usually ``(N, c, h, w)`` or ``(N, f)``. The
        second use of a layer has ``" (2)"`` appended to its name, and so on. Containers such as
        ``nn.Sequential`` and layers that return several tensors are left out.

    Raises:
        UnsupportedNetworkError: The network cannot be exported.
    """
    graph = graph_of(model, inputs)
    names = [name for name in graph.outputs if is_leaf(model, name)]
    found = results(graph, inputs, [graph.outputs[name] for name in names])
    return dict(zip(names, found, strict=True))


def executed_modules(model: nn.Module, inputs: Tensor) -> dict[str, nn.Module]:
    """The modules that run, containers included, by name in the order in which they finish."""
    names = graph_of(model, inputs).outputs
    return {name: model.get_submodule(name) for name in names if not name.endswith(")")}


def resolve_layer(model: nn.Module, name: str, inputs: Tensor) -> str:
    """The full name of a layer from its name or the end of it: ``block2`` of ``network.block2``.

    Args:
        model: Any network.
        name: The full name or the end of it, from a dot on.
        inputs: ``(N, C, H, W)``; layers that do not run for these are not known.

    Returns:
        The full name.

    Raises:
        ValueError: No layer or several have this name; the message lists all layers.
    """
    return full_name(list(graph_of(model, inputs).outputs), name)


def full_name(known: Sequence[str], name: str) -> str:
    """The only known name that equals a name or ends with it; see :func:`resolve_layer`.

    Raises:
        ValueError: There is none, or there are several.
    """
    if name in known:
        return name
    found = [each for each in known if each.endswith(f".{name}")]
    if len(found) == 1:
        return found[0]
    raise ValueError(f"layer is {name!r}; choose one of {', '.join(known)}")


class UnitScore(nn.Module):
    """A network that returns the activation of one unit instead of its output, in eval mode.

    Args:
        model: Any network.
        layer: Name of one of its modules, as in ``model.named_modules()``, with ``" (2)"`` for the
            second use of it.
        channel: Channel of a feature map, or unit of a flat output.
        position: Row and column in the feature map, or None for its centre. Ignored for a
            flat output.

    Shape:
        ``(N, C, H, W)`` to ``(N,)``.
    """

    def __init__(
        self, model: nn.Module, layer: str, channel: int, position: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.layer = layer
        self.channel = channel
        self.position = position

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the unit's activation, to which gradients flow if they are enabled.

        Raises:
            ValueError: The layer does not run, or has no such channel or position.
        """
        graph = graph_of(self.model, inputs)
        node = graph.output_of(self.layer)
        if torch.is_grad_enabled():
            (features,) = evaluated(graph, inputs, [node])[1]
        else:
            (features,) = results(graph, inputs, [node])
        features = channels_first(graph, node, features)
        if not 0 <= self.channel < features.shape[1]:
            raise ValueError(
                f"unit is {self.channel}; {self.layer} has units 0 to {features.shape[1] - 1}"
            )
        if features.ndim == 2:
            return features[:, self.channel]
        height, width = features.shape[-2:]
        row, column = self.position or (height // 2, width // 2)
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(
                f"position is {row}, {column}; the maps of {self.layer} are {height} × {width}"
            )
        return features[:, self.channel, row, column]


def last_linear(model: nn.Module, inputs: Tensor) -> str:
    """The name of the last linear layer that runs, which computes scores from features.

    Raises:
        ValueError: The network has none.
    """
    outputs = graph_of(model, inputs).outputs
    linear = [node for node in outputs.values() if operation_of(node) == "linear"]
    if not linear:
        raise ValueError("the network has no linear layer whose input could serve as features")
    return next(name for name, node in outputs.items() if node is linear[-1])


def features_and_outputs(model: nn.Module, layer: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The input of a linear layer and the output of the network, in eval mode.

    Args:
        model: Any network; left unchanged.
        layer: Name of the layer, see :func:`last_linear`.
        inputs: ``(N, C, H, W)``.

    Returns:
        ``(N, F)`` and ``(N, K)`` float32 on the CPU.
    """
    graph = graph_of(model, inputs)
    read = graph.output_of(layer).all_input_nodes[0]
    returned = graph.module.graph.output_node().all_input_nodes[0]
    features, output = results(graph, inputs, [read, returned])
    return features.flatten(1).float().cpu(), output.reshape(len(inputs), -1).float().cpu()
