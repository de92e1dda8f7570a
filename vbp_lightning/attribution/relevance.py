r"""A forward pass whose gradient is layer-wise relevance propagation.

Write the relevance :math:`R` of a value :math:`a` as :math:`R = a\,G`. A layer that adds up
contributions, :math:`z_k = \sum_i a_i w_{ik} + b_k`, propagates :math:`G` by the chain rule with an
additional factor at :math:`z_k`; ReLUs, max poolings, sums, averages and reshapings propagate it by
the chain rule alone (Ancona et al. 2018, proposition 1). It therefore suffices to replace the
output of each convolution, linear layer and batch norm by a tensor of the same value whose gradient
contains the factor. Two tensors of ones, one multiplied with every bias and one with every
stabiliser, collect the relevance of these, so all relevance is accounted for.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from vbp_lightning.graph.exporting import UnsupportedNetworkError

# One name for the operator, reflected and in-place forms of a function.
_SAME = {
    "iadd": "add", "radd": "add", "isub": "sub", "rsub": "sub", "subtract": "sub",
    "imul": "mul", "rmul": "mul", "multiply": "mul", "itruediv": "div", "truediv": "div",
    "true_divide": "div", "divide": "div", "negative": "neg", "rmatmul": "matmul",
}  # fmt: skip
_MOVES = {
    "flatten", "unflatten", "reshape", "view", "view_as", "reshape_as", "permute", "transpose",
    "swapaxes", "movedim", "t", "squeeze", "unsqueeze", "expand", "expand_as", "narrow", "select",
    "getitem", "chunk", "split", "unbind", "cat", "concat", "stack", "flip", "roll", "contiguous",
    "clone", "to", "float", "double", "type_as", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle",
}  # fmt: skip
_SUMS = {"mean", "sum", "neg", "avg_pool2d", "adaptive_avg_pool2d", "interpolate", "pad"}
_CHOICES = {"relu", "max_pool2d", "adaptive_max_pool2d", "amax", "max", "maximum"}
_OFF_IN_EVAL = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"}
_PROPORTIONAL = _MOVES | _SUMS | _CHOICES | _OFF_IN_EVAL
_PRODUCTS = {"mul", "div", "matmul"}
_ACTIVATIONS = {
    "leaky_relu", "relu6", "hardtanh", "clamp", "clip", "clamp_min", "threshold", "elu", "selu",
    "celu", "gelu", "silu", "mish", "hardswish", "tanh", "prelu",
}  # fmt: skip
_KNOWN = _PROPORTIONAL | _PRODUCTS | _ACTIVATIONS | {"conv2d", "linear", "add", "sub"}
# Functions that keep the position of each pixel of the input.
_PIXELWISE = {
    "add", "sub", "mul", "div", "neg", "clamp", "clip", "clamp_min", "clamp_max", "pow", "sqrt",
    "log", "log1p", "to", "float", "double", "type_as", "contiguous", "clone",
}  # fmt: skip


class _Contributions(NamedTuple):
    """The sums of contributions to each output of a layer.

    Args:
        total: The sum of all contributions, without the bias.
        positive: The sum of the positive contributions; None if no rule needs it.
        shift: The bias in a shape that broadcasts; None for no bias.
        version: Version counter of the layer's output, by which in-place changes are detected.
    """

    total: Tensor
    positive: Tensor | None
    shift: Tensor | None
    version: int


class RelevancePass(TorchFunctionMode):
    r"""Replaces the outputs of layers while a model runs, so that gradients propagate relevance.

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
        model: The network, in eval mode, parameters without gradients, ReLUs out of place.
        inputs: ``(N, C, H, W)``, the tensor object that the model is called with; the model may
            change it.
        epsilon: Stabiliser of every sum, in the units of the sum; at least 0.
        gamma: Additional weight of contributions that have the sign of the sum; ``inf`` keeps only
            these.

    Attributes:
        pixels: The inputs of the first layers, ``(N, C, H, W)`` each, with gradients.
        bias_unit: ``(N,)`` ones, multiplied with every bias.
        epsilon_unit: ``(N,)`` ones, multiplied with every stabiliser.
    """

    def __init__(self, model: nn.Module, inputs: Tensor, epsilon: float, gamma: float) -> None:
        super().__init__()
        self.model = model
        self.pixels: list[Tensor] = []
        self.bias_unit = inputs.new_ones(len(inputs)).requires_grad_()
        self.epsilon_unit = inputs.new_ones(len(inputs)).requires_grad_()
        self._epsilon = epsilon
        self._favour = 1.0 if gamma == float("inf") else gamma / (1 + gamma)
        self._shape = inputs.shape
        self._on_pixels = WeakIdKeyDictionary()
        self._on_pixels[inputs] = True
        self._sums = WeakIdKeyDictionary()  # of _Contributions
        self._running: list[nn.Module] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Replaces the outputs of layers within the context."""
        handles = [
            register_module_forward_pre_hook(lambda module, _: self._running.append(module)),
            register_module_forward_hook(lambda *_: self._leave(), always_call=True),
        ]
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def refusal(self, reason: str) -> UnsupportedNetworkError:
        """The error that names the running module and the reason why relevance cannot pass it."""
        module = self._running[-1] if self._running else self.model
        name = next((name for name, known in self.model.named_modules() if known is module), "")
        module_type = type(module).__name__
        where = f"{name} ({module_type})" if name else module_type
        return UnsupportedNetworkError(
            f"layer-wise relevance propagation cannot pass {where}: {reason}"
        )

    def _leave(self) -> None:
        self._running.pop()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        tensors = list(_tensors((args, kwargs)))
        on_pixels = [each for each in tensors if each in self._on_pixels]
        carrying = [each for each in tensors if each.requires_grad]
        if not carrying and not on_pixels:
            return func(*args, **kwargs)
        name, in_place = _described(func)
        if not carrying and name in _PIXELWISE:
            result = func(*args, **kwargs)
            if isinstance(result, Tensor) and result.shape == self._shape:
                self._on_pixels[result] = True
                return result
        if name not in _KNOWN and func is not F.batch_norm:
            result = func(*args, **kwargs)
            # Sizes, comparisons and indices of maxima carry no relevance.
            if any(each.is_floating_point() for each in _tensors(result)):
                raise self.refusal(f"there is no rule for {name}")
            return result
        if on_pixels:
            if in_place and args[0] in self._on_pixels:
                raise self.refusal(f"{name} changes the pixels in place")
            args, kwargs = self._begin(args), self._begin(kwargs)
        result = self._apply(func, name, in_place, args, kwargs)
        if not all(each.requires_grad for each in _tensors(result) if each.is_floating_point()):
            raise self.refusal(f"{name} cuts its result off from gradients")
        return result

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

    def _apply(
        self,
        func: Callable[..., Any],
        name: str,
        in_place: bool,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:  # noqa: ANN401
        if name in ("conv2d", "linear"):
            return self._layer(func, name == "conv2d", *args, **kwargs)
        if func is F.batch_norm:
            return self._norm(*args, **kwargs)
        carrying = [each for each in _tensors((args, kwargs)) if each.requires_grad]
        if name in ("add", "sub") and len(carrying) == 1:
            args = tuple(self._counted(each, carrying[0]) for each in args)
        elif name in _PRODUCTS and (len(carrying) > 1 or (name == "div" and not _carries(args[0]))):
            raise self.refusal(f"{name} multiplies or divides features by features")
        elif name in _ACTIVATIONS:
            if in_place or kwargs.get("inplace"):
                raise self.refusal(f"{name} is called as a function that works in place")
            before: Tensor = carrying[0]
            with torch.no_grad():
                after = func(*args, **kwargs)
            return _standing_for(after, before)
        return func(*args, **kwargs)

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
        self._sums[result] = _Contributions(total, positive, shift, result._version)
        return result

    def _norm(
        self,
        features: Tensor,
        mean: Tensor | None,
        var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
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
        if features not in self._sums or self._sums[features].version != features._version:
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


def _described(func: Callable[..., Any]) -> tuple[str, bool]:
    """The name of a function, the same for all its forms, and whether this form is in place."""
    name = getattr(func, "__name__", str(func))
    bare = name.strip("_")
    operator = name.startswith("__")
    in_place = bare in ("iadd", "isub", "imul", "itruediv") or (
        not operator and name.endswith("_") and not name.startswith("_")
    )
    return _SAME.get(bare, bare), in_place
