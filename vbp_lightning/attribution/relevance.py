r"""A forward pass whose gradient is layer-wise relevance propagation.

Write the relevance :math:`R` of a value :math:`a` as :math:`R = a\,G`. A layer that adds up
contributions, :math:`z_k = \sum_i a_i w_{ik} + b_k`, propagates :math:`G` by the chain rule with an
additional factor at :math:`z_k`; ReLUs, max poolings, sums, averages and reshapings propagate it by
the chain rule alone (Ancona et al. 2018, proposition 1). It therefore suffices to replace the
output of each convolution, linear layer and batch norm by a tensor of the same value whose gradient
contains the factor. Two tensors of ones, one multiplied with every bias and one with every
stabiliser, collect the relevance of these, so all relevance is accounted for.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.utils.weak import WeakIdKeyDictionary

from vbp_lightning.graph.exporting import (
    UnsupportedNetworkError,
    described_layer,
    operation_of,
)
from vbp_lightning.graph.network_graph import NetworkGraph

_MOVES = {
    "flatten", "unflatten", "reshape", "view", "view_as", "reshape_as", "permute", "transpose",
    "movedim", "t", "squeeze", "unsqueeze", "expand", "expand_as", "select", "slice", "getitem",
    "chunk", "split", "split_with_sizes", "unbind", "cat", "stack", "flip", "roll", "contiguous",
    "clone", "to", "_to_copy", "type_as", "alias", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "lift_fresh_copy",
}  # fmt: skip
_SUMS = {
    "mean", "sum", "neg", "avg_pool2d", "adaptive_avg_pool2d", "pad", "constant_pad_nd",
    "reflection_pad2d", "replication_pad2d", "upsample_nearest2d", "upsample_bilinear2d",
}  # fmt: skip
_CHOICES = {"relu", "max_pool2d", "adaptive_max_pool2d", "amax", "max", "maximum"}
_PROPORTIONAL = _MOVES | _SUMS | _CHOICES
_PRODUCTS = {"mul", "div", "matmul"}
_ACTIVATIONS = {
    "leaky_relu", "relu6", "hardtanh", "clamp", "clip", "clamp_min", "threshold", "elu", "selu",
    "celu", "gelu", "silu", "mish", "hardswish", "tanh", "prelu",
}  # fmt: skip
_ADDITIONS = {"add", "sub", "rsub"}
_LAYERS = {"conv2d", "linear", "batch_norm"}
_KNOWN = _PROPORTIONAL | _PRODUCTS | _ACTIVATIONS | _ADDITIONS | _LAYERS
# Operations that keep the position of each pixel of the input.
_PIXELWISE = {
    "add", "sub", "rsub", "mul", "div", "neg", "clamp", "clip", "clamp_min", "clamp_max", "pow",
    "sqrt", "log", "log1p", "to", "_to_copy", "type_as", "contiguous", "clone", "lift_fresh_copy",
}  # fmt: skip


class _Contributions(NamedTuple):
    """The sums of contributions to each output of a layer.

    Args:
        total: The sum of all contributions, without the bias.
        positive: The sum of the positive contributions; None if no rule needs it.
        shift: The bias in a shape that broadcasts; None for no bias.
    """

    total: Tensor
    positive: Tensor | None
    shift: Tensor | None


class RelevancePass(Interpreter):
    r"""Runs a network with other outputs of layers, so that gradients propagate relevance.

    Convolutions follow the generalised gamma rule, a batch norm behind one being part of it:

    .. math:: R_i = \sum_k \frac{v_{ik} c_{ik}}{\sum_j v_{jk} c_{jk} \pm \varepsilon}\,R_k,
              \quad c_{ik} = a_i w_{ik},
              \quad v_{ik} = \frac{1 + \gamma\,[c_{ik} z_k > 0]}{1 + \gamma},

    where :math:`j` includes the bias, :math:`c_{0k} = b_k`. Linear layers and other batch norms
    follow it with :math:`\gamma = 0`, the epsilon rule. An activation propagates the relevance of
    its output to its input, an addition to its summands in proportion, a maximum to the largest
    value. Pixelwise operations before the first of these layers, for instance a normalisation, keep
    the relevance at the pixel.

    Args:
        graph: The graph for images of this size.
        inputs: ``(N, C, H, W)``.
        epsilon: Stabiliser of every sum, in the units of the sum; at least 0.
        gamma: Additional weight of contributions that have the sign of the sum; ``inf`` keeps only
            these.

    Attributes:
        pixels: The inputs of the first layers, ``(N, C, H, W)`` each, with gradients.
        bias_unit: ``(N,)`` ones, multiplied with every bias.
        epsilon_unit: ``(N,)`` ones, multiplied with every stabiliser.
    """

    def __init__(self, graph: NetworkGraph, inputs: Tensor, epsilon: float, gamma: float) -> None:
        super().__init__(graph.module)
        self.pixels: list[Tensor] = []
        self.bias_unit = inputs.new_ones(len(inputs)).requires_grad_()
        self.epsilon_unit = inputs.new_ones(len(inputs)).requires_grad_()
        self._graph = graph
        self._epsilon = epsilon
        self._favour = 1.0 if gamma == float("inf") else gamma / (1 + gamma)
        self._shape = inputs.shape
        self._on_pixels = WeakIdKeyDictionary()
        self._on_pixels[inputs] = True
        self._sums = WeakIdKeyDictionary()  # of _Contributions
        self._node: Node | None = None

    def refusal(self, reason: str) -> UnsupportedNetworkError:
        """The error that names the running layer and the reason why relevance cannot pass it."""
        where = self._graph.network
        if self._node is not None:
            where = described_layer(self._node, where)
        return UnsupportedNetworkError(
            f"layer-wise relevance propagation cannot pass {where}: {reason}"
        )

    def run_node(self, n: Node) -> Any:  # noqa: ANN401
        """Runs one operation."""
        if n.op == "call_module":  # guards, which were checked for this size
            return None
        self._node = n
        result = super().run_node(n)
        return result.detach() if n.op == "get_attr" else result

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        """Runs an operation by its rule."""
        assert self._node is not None
        name = operation_of(self._node)
        tensors = list(_tensors((args, kwargs)))
        on_pixels = [each for each in tensors if each in self._on_pixels]
        carrying = [each for each in tensors if each.requires_grad]
        if not carrying and not on_pixels:
            return target(*args, **kwargs)
        if not carrying and name in _PIXELWISE:
            result = target(*args, **kwargs)
            if isinstance(result, Tensor) and result.shape == self._shape:
                self._on_pixels[result] = True
                return result
        if name not in _KNOWN:
            result = target(*args, **kwargs)
            # Sizes, comparisons and indices of maxima carry no relevance.
            if any(each.is_floating_point() for each in _tensors(result)):
                raise self.refusal(f"there is no rule for {name}")
            return result
        if on_pixels:
            args, kwargs = self._begin(args), self._begin(kwargs)
        return self._apply(target, name, args, kwargs)

    def _begin(self, value: Any) -> Any:  # noqa: ANN401
        """Replaces the pixels in arguments by copies with gradients, recorded in ``pixels``."""
        if isinstance(value, Tensor) and value in self._on_pixels:
            self.pixels.append(value.detach().clone().requires_grad_())
            # The product may be changed in place by the following operations; a leaf may not.
            return self.pixels[-1] * 1
        if isinstance(value, list | tuple):
            return type(value)(self._begin(each) for each in value)
        if isinstance(value, dict):
            return {key: self._begin(each) for key, each in value.items()}
        return value

    def _apply(self, target: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        if name in ("conv2d", "linear"):
            return self._layer(target, name == "conv2d", *args, **kwargs)
        if name == "batch_norm":
            return self._norm(*args, **kwargs)
        carrying = [each for each in _tensors((args, kwargs)) if each.requires_grad]
        if name in _ADDITIONS and len(carrying) == 1:
            counted = (self._counted(each, carrying[0]) for each in args)
            return getattr(torch, name)(*counted, **kwargs)
        if name in _PRODUCTS and (len(carrying) > 1 or (name == "div" and not _carries(args[0]))):
            raise self.refusal(f"{name} multiplies or divides features by features")
        if name in _ACTIVATIONS:
            before: Tensor = carrying[0]
            with torch.no_grad():
                after = target(*args, **kwargs)
            return _standing_for(after, before)
        return target(*args, **kwargs)

    def _counted(self, value: object, like: Tensor) -> object:
        """Counts a summand that is not a feature as a bias."""
        if not isinstance(value, Tensor | float | int) or value is like:
            return value
        return self._unit(self.bias_unit, like) * value

    def _unit(self, unit: Tensor, like: Tensor) -> Tensor:
        if like.ndim == 0 or len(like) != len(unit):
            raise self.refusal("it mixes the samples of a batch")
        return unit.view(-1, *[1] * (like.ndim - 1))

    def _layer(
        self,
        func: Callable[..., Tensor],
        convolves: bool,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *geometry: object,
        **named: object,
    ) -> Tensor:
        """Computes a convolution or a linear layer by its rule."""
        if weight.requires_grad or not features.requires_grad:
            raise self.refusal("its weights depend on the image")
        total = func(features, weight, None, *geometry, **named)
        positive = None
        if convolves and self._favour > 0:
            positive = func(features.clamp(min=0), weight.clamp(min=0), None, *geometry, **named)
            if features.detach().amin() < 0:
                both = (features.clamp(max=0), weight.clamp(max=0))
                positive = positive + func(*both, None, *geometry, **named)
        shift = bias
        if bias is not None and convolves:
            shift = bias.view(-1, 1, 1)
        result = self._sum(total, positive, shift)
        self._sums[result] = _Contributions(total, positive, shift)
        return result

    def _norm(
        self,
        features: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        *_: object,
    ) -> Tensor:
        """Computes a batch norm by its rule, merged with the layer whose output it reads."""
        if training or mean is None or var is None:
            raise self.refusal("it normalises with the statistics of the batch")
        scale = (var + eps).rsqrt()
        if weight is not None:
            scale = scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        shape = (-1, *[1] * (features.ndim - 2))
        scale, shift = scale.view(shape), shift.view(shape)
        if features not in self._sums:
            return self._sum(scale * features, None, shift)
        layer: _Contributions = self._sums[features]
        positive = layer.positive
        if positive is not None:
            positive = scale * torch.where(scale > 0, positive, layer.total - positive)
        if layer.shift is not None:
            shift = shift + scale * layer.shift
        return self._sum(scale * layer.total, positive, shift)

    def _sum(self, total: Tensor, positive: Tensor | None, shift: Tensor | None) -> Tensor:
        """Adds up contributions by the generalised gamma rule."""
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


def _carries(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _tensors(value: object) -> Iterator[Tensor]:
    """The tensors in arguments or a result."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
