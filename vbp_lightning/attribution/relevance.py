r"""A forward pass whose gradient is layer-wise relevance propagation.

Write the relevance :math:`R` of a value :math:`a` as :math:`R = a\,G`. A layer that adds up
contributions, :math:`z_k = \sum_i a_i w_{ik} + b_k`, propagates :math:`G` by the chain rule with an
additional factor at :math:`z_k`; ReLUs, max poolings, sums, averages and reshapings propagate it by
the chain rule alone (Ancona et al. 2018, proposition 1). It therefore suffices to replace the
output of each convolution, linear layer and batch norm by a tensor of the same value whose gradient
contains the factor. Two tensors of ones, one multiplied with every bias and one with every
stabiliser, collect the relevance of these, so all relevance is accounted for.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from vbp_lightning.graph.exporting import (
    UnsupportedNetworkError,
    described_layer,
    operation_of,
)
from vbp_lightning.graph.meaning import KEEPING_ZERO, MOVING, State
from vbp_lightning.graph.network_graph import NetworkGraph

_PROPORTIONAL = MOVING | {
    # sums
    "mean", "sum", "neg", "avg_pool2d", "adaptive_avg_pool2d", "upsample_nearest2d",
    "upsample_bilinear2d",
    # choices
    "relu", "max_pool2d", "adaptive_max_pool2d", "amax", "max", "maximum",
}  # fmt: skip
_PRODUCTS = {"mul", "div", "matmul"}
_ADDITIONS = {"add", "sub", "rsub"}


class RelevancePass(Interpreter):
    r"""Runs a network with other outputs of layers, so that gradients propagate relevance.

    Convolutions follow the generalised gamma rule, a batch norm behind one being part of it:

    .. math:: R_i = \sum_k \frac{v_{ik} c_{ik}}{\sum_j v_{jk} c_{jk} \pm \varepsilon}\,R_k,
              \quad c_{ik} = a_i w_{ik},
              \quad v_{ik} = \frac{1 + \gamma\,[c_{ik} z_k > 0]}{1 + \gamma},

    where :math:`j` includes the bias, :math:`c_{0k} = b_k`. Linear layers and other batch norms
    follow it with :math:`\gamma = 0`, the epsilon rule. An activation propagates the relevance of
    its output to its input, an addition to its summands in proportion, a maximum to the largest
    value. Functions of each pixel alone before the first of these layers, for instance a
    normalisation, keep the relevance at the pixel.

    Args:
        graph: The graph for images of this size.
        inputs: ``(N, C, H, W)``; the weights of the network are converted to its type.
        epsilon: Stabiliser of every sum, in the units of the sum; at least 0.
        gamma: Additional weight of contributions that have the sign of the sum; ``inf`` keeps only
            these.

    Attributes:
        pixels: The image and the functions of its pixels, ``(N, C, H, W)`` each, with gradients.
        bias_unit: ``(N,)`` ones, multiplied with every bias.
        epsilon_unit: ``(N,)`` ones, multiplied with every stabiliser.
    """

    def __init__(self, graph: NetworkGraph, inputs: Tensor, epsilon: float, gamma: float) -> None:
        super().__init__(graph.module)
        self.extra_traceback = False  # errors stay one line
        self.pixels: list[Tensor] = []
        self.bias_unit = inputs.new_ones(len(inputs)).requires_grad_()
        self.epsilon_unit = inputs.new_ones(len(inputs)).requires_grad_()
        self._graph = graph
        self._epsilon = epsilon
        self._favour = 1.0 if gamma == float("inf") else gamma / (1 + gamma)
        self._type = inputs.dtype
        self._node = graph.image

    def refusal(self, reason: str) -> UnsupportedNetworkError:
        """The error that names the running layer and the reason why relevance cannot pass it."""
        where = described_layer(self._node, self._graph.network)
        return UnsupportedNetworkError(
            f"layer-wise relevance propagation cannot pass {where}: {reason}"
        )

    def run_node(self, n: Node) -> Any:  # noqa: ANN401
        """Runs one operation."""
        if n.op == "call_module":  # guards, which were checked for this size
            return None
        self._node = n
        if self._is_of_pixels(n):
            with torch.no_grad():
                self.pixels.append(super().run_node(n).clone().requires_grad_())
            return self.pixels[-1]
        result = super().run_node(n)
        if n.op == "get_attr":
            return result.detach().to(self._type if result.is_floating_point() else result.dtype)
        return result

    def _is_of_pixels(self, node: Node) -> bool:
        """Whether each value of a result is a function of one pixel."""
        meaning, image = self._graph.meanings[node], self._graph.image
        alone = meaning.state is State.MAP and meaning.source is image
        return alone and self._graph.values[node].shape == self._graph.values[image].shape

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        """Runs an operation by its rule."""
        name = operation_of(self._node)
        carrying = [each for each in _tensors((args, kwargs)) if each.requires_grad]
        if not carrying or name in _PROPORTIONAL:
            return target(*args, **kwargs)
        if name in ("conv2d", "linear"):
            return self._layer(target, *args, **kwargs)
        if name == "batch_norm":
            return self._norm(*args)
        if name in _ADDITIONS:
            if len(carrying) == 1:
                args = [self._counted(each, carrying[0]) for each in args]
            return getattr(torch, name)(*args, **kwargs)
        if name in _PRODUCTS:
            if len(carrying) > 1 or (name == "div" and args[0] is not carrying[0]):
                raise self.refusal(f"{name} multiplies or divides features by features")
            return target(*args, **kwargs)
        with torch.no_grad():
            after = target(*args, **kwargs)
        if name in KEEPING_ZERO:
            return _standing_for(after, carrying[0])
        # Sizes, constants, comparisons and indices of maxima carry no relevance.
        constant = self._graph.meanings[self._node].state is State.CONSTANT
        if not constant and any(each.is_floating_point() for each in _tensors(after)):
            raise self.refusal(f"there is no rule for {name}")
        return after

    def _counted(self, value: object, like: Tensor) -> object:
        """Counts a summand that is not a feature as a bias."""
        if not isinstance(value, Tensor | float | int) or value is like:
            return value
        return self._unit(self.bias_unit, like) * value

    def _unit(self, unit: Tensor, like: Tensor) -> Tensor:
        if like.ndim == 0 or len(like) != len(unit):
            raise self.refusal("it mixes the samples of a batch")
        return unit.view(-1, *[1] * (like.ndim - 1))

    def _layer(self, target: Any, *args: Any) -> Any:  # noqa: ANN401
        """Computes a convolution or a linear layer by its rule, or leaves it to a batch norm."""
        features, weight, bias = (*args, None)[:3]
        if weight.requires_grad or not features.requires_grad:
            raise self.refusal("its weights depend on the image")
        if {operation_of(user) for user in self._node.users} == {"batch_norm"}:
            return target, (features, weight, bias, *args[3:])
        total = target(features, weight, None, *args[3:])
        if weight.ndim == 2:
            return self._sum(total, None, bias)
        positive = None
        if self._favour > 0:
            positive = target(features.clamp(min=0), weight.clamp(min=0), None, *args[3:])
            if features.detach().amin() < 0:
                both = (features.clamp(max=0), weight.clamp(max=0))
                positive = positive + target(*both, None, *args[3:])
        return self._sum(total, positive, None if bias is None else bias.view(-1, 1, 1))

    def _norm(self, features: Any, *args: Any) -> Any:  # noqa: ANN401
        """Computes a batch norm by its rule, with the layer whose output it reads."""
        weight, bias, mean, var, training, _, eps = args[:7]
        if training or mean is None:
            raise self.refusal("it normalises with the statistics of the batch")
        scale = (var + eps).rsqrt() * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * scale
        if isinstance(features, tuple):
            target, (features, weight, bias, *geometry) = features
            weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
            shift = shift if bias is None else shift + scale * bias
            return self._layer(target, features, weight, shift, *geometry)
        shape = (-1, *[1] * (features.ndim - 2))
        return self._sum(scale.view(shape) * features, None, shift.view(shape))

    def _sum(self, total: Tensor, positive: Tensor | None, shift: Tensor | None) -> Tensor:
        """Adds up contributions by the generalised gamma rule.

        Args:
            total: The sum of all contributions to each output, without the bias.
            positive: The sum of the positive contributions; None for the epsilon rule.
            shift: The bias in a shape that broadcasts; None for no bias.
        """
        biased = total
        if shift is not None:
            biased = total + self._unit(self.bias_unit, total) * shift
        value = biased.detach()
        if positive is not None:
            if shift is not None:
                positive = positive + self._unit(self.bias_unit, total) * shift.clamp(min=0)
            favoured = torch.where(value > 0, positive, biased - positive)
            biased = torch.lerp(biased, favoured, self._favour)
        if self._epsilon > 0:
            stabiliser = torch.full_like(value, self._epsilon).copysign_(biased.detach())
            biased = biased + self._unit(self.epsilon_unit, total) * stabiliser
        return _standing_for(value, biased)


def _standing_for(value: Tensor, source: Tensor) -> Tensor:
    """A tensor of a value whose gradient passes relevance to the source, as G · value / source.

    Where the source is zero there are no contributions, and no relevance is propagated.
    """
    divisor = source.detach()
    factor = torch.where(divisor == 0, 0, value / divisor)
    proportional = source * factor
    return proportional + (value - proportional.detach())


def _tensors(value: object) -> Iterator[Tensor]:
    """The tensors in arguments or a result."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
