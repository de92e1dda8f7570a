"""Running a network's operations and keeping the averages of its activations on the way.

The operations run as code that is generated from the exported ones. For float32 on a CPU, batch
norms are folded into the convolutions before them, convolutions run in channels-last format, and
samples in chunks so small that the feature maps stay in the processor's cache. Results differ from
those of the network by rounding only.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Graph, GraphModule, Interpreter, Node

from vbp_lightning.graph.exporting import operation_of
from vbp_lightning.graph.folding import Folding
from vbp_lightning.graph.geometry import Pair, Window, shares_of_maxima
from vbp_lightning.graph.network_graph import NetworkGraph

# Largest feature map of a chunk of samples, about the size of the second- and third-level caches.
# Smaller chunks cost function calls, larger ones memory traffic.
_CACHED_BYTES = 20_000_000

# From this number of samples on, a convolution is faster than a matrix product.
_MANY = 4

# Weights per pixel of all images up to which folding batch norms pays for comparing the weights.
_FOLDED_PER_PIXEL = 32

_LEARNED = {
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose2d",
    "linear",
    "addmm",
    "matmul",
    "mm",
    "bmm",
}

Rule = Callable[[Tensor, Tensor], Tensor]
"""Gets the input and the output of a ReLU, and returns what the network goes on with."""


@dataclass(frozen=True, eq=False)
class Forward:
    """The result of a forward pass.

    Args:
        output: The output of the network.
        averages: For each activation the mean over channels of its positive part, ``(N, 1, h, w)``
            in float32 or float64.
        shares: For each max pooling, if they were wanted, the share of channels whose maximum came
            from each tap, see :class:`~vbp_lightning.graph.geometry.Layer`.
    """

    output: Any
    averages: dict[Node, Tensor]
    shares: dict[Node, Tensor]


def forward(
    graph: NetworkGraph, inputs: Tensor, maxima: bool = False, fuse: bool = True
) -> Forward:
    """Runs a network on images, in eval mode and without gradients.

    Args:
        graph: The graph for images of this size.
        inputs: ``(N, C, H, W)``; left unchanged.
        maxima: Whether to record the positions of the maxima of max poolings.
        fuse: Whether the faster form may be used.
    """
    plain = inputs.device.type != "cpu" or inputs.dtype is not torch.float32
    fast = fuse and not plain and not torch.is_autocast_enabled("cpu")
    pixels = len(inputs) * inputs.shape[2] * inputs.shape[3]
    folds = fast and graph.weights <= _FOLDED_PER_PIXEL * pixels
    if (maxima, fast, folds) not in graph.programs:
        graph.programs[maxima, fast, folds] = _Program(graph, maxima, fast, folds)
    program: _Program = graph.programs[maxima, fast, folds]
    kept = random_state_kept(inputs.device) if graph.random else nullcontext()
    with torch.no_grad(), kept:
        return program.run(inputs.detach())


def evaluated(
    graph: NetworkGraph, inputs: Tensor, wanted: Sequence[Node] = (), rule: Rule | None = None
) -> tuple[Any, list[Tensor]]:
    """The output of a network and the results of some operations, to which gradients flow.

    Args:
        graph: The graph for images of this size.
        inputs: ``(N, C, H, W)``; gradients flow to it if it requires them.
        wanted: Operations of the graph.
        rule: Replaces every one of the :func:`relus`, if given.
    """
    run = _WithGradients(graph.module, {*wanted}, dict.fromkeys(relus(graph) if rule else (), rule))
    with torch.enable_grad(), random_state_kept(inputs.device, graph.random):
        output = run.run(inputs)
    return output, [run.kept[node] for node in wanted]


def relus(graph: NetworkGraph) -> list[Node]:
    """The ReLUs behind a convolution or a linear layer, which may be cut off above, as ReLU6 is."""
    found, learned = [], set[Node]()
    for node in graph.module.graph.nodes:
        name = operation_of(node)
        if node.op == "call_function" and (
            name in _LEARNED or not learned.isdisjoint(node.all_input_nodes)
        ):
            learned.add(node)
            lowest: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("min")
            cut = isinstance(lowest, int | float) and lowest == 0
            clamps = name in ("hardtanh", "clamp", "clamp_min")
            if name in ("relu", "relu6") or (clamps and cut):
                found.append(node)
    return found


class _WithGradients(Interpreter):
    def __init__(
        self, module: GraphModule, wanted: set[Node], rules: dict[Node, Rule | None]
    ) -> None:
        super().__init__(module)
        self._wanted = wanted
        self._rules = rules
        self.kept: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:  # noqa: ANN401
        if n.op == "call_module":  # guards, which were checked for this size
            return None
        result = super().run_node(n)
        if n.op == "get_attr":
            return result.detach()
        if (rule := self._rules.get(n)) is not None:
            result = rule(self.env[n.args[0]], result)  # type: ignore[index]
        if n in self._wanted:
            if not result.requires_grad:
                result = result.detach().requires_grad_()
            self.kept[n] = result
        return result


@contextmanager
def random_state_kept(device: torch.device, random: bool = True) -> Iterator[None]:
    """Restores the random state of the CPU and of a device.

    Args:
        device: Where the network is.
        random: Whether random numbers may be drawn; otherwise nothing is done.
    """
    devices = [] if device.type == "cpu" else [device]
    kind = "cuda" if device.type == "cpu" else device.type
    with torch.random.fork_rng(devices, random, device_type=kind):
        yield


def copied(graph: NetworkGraph) -> tuple[Graph, dict[Node, Node], Any]:
    """A copy of the operations that can be changed, without the guards, which hold for this size.

    Returns:
        The copy, still without an output; its operations by those of the graph; what the network
        returns.
    """
    code, made = Graph(), dict[Node, Node]()
    outputs = code.graph_copy(graph.module.graph, made)
    for guard in code.find_nodes(op="call_module"):
        code.erase_node(guard)
    return code, made, outputs


class _Program:
    """Generated code that returns the output and what is recorded."""

    def __init__(self, graph: NetworkGraph, maxima: bool, fast: bool, folds: bool) -> None:
        self._graph = graph
        self._fast = fast
        self._averaged = graph.activations
        self._shared = tuple(
            step for step in graph.steps if maxima and step.layers and step.layers[-1].maximum
        )
        self._code, self._made, outputs = copied(graph)
        self._record()
        self._folding = Folding(self._folded() if folds else [])
        if fast:
            self._fasten()
        for node in self._code.find_nodes(op="get_attr"):
            if not node.users:
                self._code.erase_node(node)
        self._code.output(
            (
                outputs,
                [self._made[each.node].next for each in self._averaged],
                [self._made[each.node].next for each in self._shared],
            )
        )
        self._module = GraphModule(graph.module, self._code)
        self._portion = max(1, _CACHED_BYTES // graph.largest)

    def run(self, inputs: Tensor) -> Forward:
        """Runs the code on ``(N, C, H, W)``."""
        weights = self._folding.folded()
        portions: Sequence[Tensor] = [inputs]
        if self._fast and self._graph.by_sample and len(inputs) > self._portion:
            portions = torch.split(inputs, self._portion)
        results = [self._module.forward(portion, *weights) for portion in portions]
        output, averages, shares = (
            results[0]
            if len(results) == 1
            else [[*map(torch.cat, zip(*part, strict=True))] for part in zip(*results, strict=True)]
        )
        return Forward(
            self._graph.module.graph.process_outputs(output),
            {step.node: each for step, each in zip(self._averaged, averages, strict=True)},
            {step.node: each for step, each in zip(self._shared, shares, strict=True)},
        )

    def _record(self) -> None:
        """Adds the averages of activations and the shares of max poolings behind these."""
        for step in (*self._averaged, *self._shared):
            node, order = self._made[step.node], None
            if step.order is not None:
                name = f"order_of_{step.node.name}"
                self._graph.module.register_buffer(name, step.order, persistent=False)
                with self._code.inserting_before(node):
                    order = self._code.get_attr(name)
            with self._code.inserting_after(node):
                if step.activates:
                    arguments = (node, step.channels, order, step.positive, step.size)
                    self._code.call_function(average, arguments)
                else:
                    window = tuple(step.layers[-1].window or ())
                    self._code.call_function(_shares, (node.args[0], node, window))

    def _folded(self) -> list[tuple[list[Tensor | None], float | None]]:
        """Replaces convolutions and the batch norms behind them by convolutions.

        Returns:
            For each convolution the tensors of both, and what the batch norm adds to the variance.
        """
        folded = []
        last = self._code.find_nodes(op="placeholder")[-1]
        for conv in self._code.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default):
            norm = next(iter(conv.users), conv)  # none if its result is not used
            tensors = [conv.args[1], *conv.args[2:3]]
            eps = None
            if len(conv.users) == 1 and norm.target is torch.ops.aten.batch_norm.default:
                tensors, eps = (
                    [*tensors, *[None][: 2 - len(tensors)], *norm.args[1:5]],
                    norm.args[7],
                )
            if any(isinstance(each, Node) and each.op != "get_attr" for each in tensors):
                continue
            module = self._graph.module
            values = [
                None if each is None else attrgetter(str(each.target))(module) for each in tensors
            ]
            if any(each is not None and each.dtype is not torch.float32 for each in values):
                continue
            folded.append((values, eps))
            with self._code.inserting_after(last):
                weight = self._code.placeholder(f"weight{len(folded)}")
            with self._code.inserting_after(weight):
                bias = last = self._code.placeholder(f"bias{len(folded)}")
            conv.args = (conv.args[0], weight, bias, *conv.args[3:])
            if eps is not None:
                norm.replace_all_uses_with(conv)
                self._code.erase_node(norm)
        return folded

    def _fasten(self) -> None:
        """Runs convolutions in the faster form, and ReLUs behind them in place."""
        for node in self._code.nodes:
            if node.target is torch.ops.aten.conv2d.default:
                node.target = convolution
            elif node.target is torch.ops.aten.relu.default:
                before = node.args[0]
                fresh = before.target is convolution or operation_of(before) in (
                    "add",
                    "batch_norm",
                )
                if fresh and len(before.users) == 1:
                    node.target = torch.ops.aten.relu_.default


def convolution(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """``conv2d`` in channels-last format, or as a matrix product where that is faster."""
    if (
        len(features) < _MANY
        and weight.shape[2:] == (1, 1)
        and groups == 1
        and {*stride} == {1}
        and {*padding} == {0}
        and features.is_contiguous()
    ):
        # For few samples this takes a seventh of the time.
        pixels, matrix = features.flatten(2), weight.flatten(1).expand(len(features), -1, -1)
        if bias is None:
            result = torch.bmm(matrix, pixels)
        else:
            result = torch.baddbmm(bias.unsqueeze(1), matrix, pixels)
        return result.view(len(features), len(weight), *features.shape[2:])
    features = features.contiguous(memory_format=torch.channels_last)
    return F.conv2d(features, weight, bias, stride, padding, dilation, groups)


def average(
    values: Tensor, channels: tuple[int, ...], order: Tensor | None, positive: bool, size: Pair
) -> Tensor:
    """The mean over channels of the positive part of an activation, ``(N, 1, h, w)``.

    Args:
        values: Of any layout with the images along the first axis.
        channels: The axes of channels.
        order: The order in which the other values are those of the places; None if they are.
        positive: Whether no value is negative.
        size: ``(h, w)``.
    """
    if not positive:
        values = values.clamp(min=0)
    wide = torch.promote_types(values.dtype, torch.float32)
    plain = len(values) < _MANY or wide is not values.dtype or values.is_contiguous()
    if channels == (1,) and values.ndim == 4 and not plain:
        # For many channels-last samples a matrix product is faster than ``mean``.
        mean = values.new_full((values.shape[1],), 1 / values.shape[1])
        values = values.permute(0, 2, 3, 1) @ mean
    else:
        values = values.mean(channels, dtype=wide) if channels else values.to(wide)
    if order is not None:
        values = values.flatten(1).index_select(1, order.to(values.device))
    return values.reshape(len(values), 1, *size)


def _shares(
    features: Tensor, pooled: Tensor | Sequence[Tensor], window: tuple[Pair, ...]
) -> Tensor:
    pooled = pooled if isinstance(pooled, Tensor) else pooled[0]
    wide = torch.promote_types(features.dtype, torch.float32)
    return shares_of_maxima(features, pooled, Window(*window), wide)
