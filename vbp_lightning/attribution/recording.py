"""Recording a network's feature maps and the layers between them in one forward pass.

The pass is watched at the level of operations, below that of modules, so every operation between
two feature maps is seen: a ReLU or a clamp called as a function, a reshaping, a gate. An operation
that cannot be followed raises an error that names it.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from vbp_lightning.attribution.geometry import Layer, Pair, Window, size_of, window_between
from vbp_lightning.attribution.upsampling import shares_of_maxima
from vbp_lightning.errors import UserError


class UnsupportedNetworkError(UserError):
    """The feature maps of a network cannot be traced to the input; names the module and reason."""


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """The channel average of one ReLU's output.

    Args:
        module: The ReLU.
        average: ``(N, 1, h, w)``, float32 or float64.
        layers: The convolutions, poolings and paddings between the previous feature map (the input
            for the first) and this one, in forward order.
    """

    module: nn.Module
    average: Tensor
    layers: tuple[Layer, ...]


@dataclass(frozen=True, eq=False)
class Recording:
    """The result of one forward pass.

    Args:
        output: The output of the model.
        maps: The feature maps of the convolutional part, in forward order.
    """

    output: Any
    maps: tuple[FeatureMap, ...]


def names_of(maps: Sequence[FeatureMap], model: nn.Module) -> tuple[str, ...]:
    """The name of each map's ReLU in the model; the second use of a module ends in ``" (2)"``."""
    by_module = {module: name for name, module in model.named_modules()}
    uses: Counter[nn.Module] = Counter()
    names = []
    for each in maps:
        uses[each.module] += 1
        name = by_module.get(each.module) or type(each.module).__name__
        names.append(name if uses[each.module] == 1 else f"{name} ({uses[each.module]})")
    return tuple(names)


class State(Enum):
    """The relation of a tensor to the pixels of the input."""

    SPATIAL = "a feature map"
    RESHAPED = "a feature map's values in another order"
    ENDED = "behind the convolutional part"


class Trail:
    """How a tensor was computed from the input: a linked list of layers and feature maps.

    Args:
        before: The trail of the tensor that it was computed from; None for the input itself.
        module: The module that computed it, or, once the state is not spatial, the module that
            ended the spatial state.
        layer: The layer that computed it; None for a pixelwise operation.
        average: The channel average, if it is the output of a ReLU.
        state: Its relation to the pixels of the input.
        convolves: Whether the layer is a convolution.
    """

    __slots__ = ("average", "before", "convolutions", "layer", "module", "state")

    def __init__(
        self,
        before: "Trail | None",
        module: nn.Module | None = None,
        layer: Layer | None = None,
        average: Tensor | None = None,
        state: State = State.SPATIAL,
        convolves: bool = False,
    ) -> None:
        self.before = before
        self.module = module
        self.layer = layer
        self.average = average
        self.state = state
        self.convolutions: int = (before.convolutions if before else 0) + convolves

    def only_prepares(self) -> bool:
        """Whether no layer has moved the pixels of the input and no map was recorded."""
        step: Trail | None = self
        while step is not None and step.layer is None and step.average is None:
            step = step.before
        return step is None


# Names of operations in ATen, without the underscore of in-place ones.
_IDENTITIES = {"clone", "_to_copy", "detach", "alias", "lift_fresh", "contiguous"}
_ARITHMETIC = {"add", "sub", "rsub", "mul", "div", "neg", "addcmul"}
_PREPARATIONS = {"clamp", "clamp_min", "clamp_max", "abs", "pow", "sqrt", "log", "log1p", "exp"}
_BATCH_NORMS = {
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_no_update",
}
_VIEWS = {
    "view", "_unsafe_view", "_reshape_alias", "reshape", "expand", "unsqueeze", "squeeze",
    "flatten", "select", "slice", "split", "chunk",
}  # fmt: skip
_PERMUTATIONS = {"permute", "transpose", "t"}
_REDUCTIONS = {
    "mean", "sum", "amax", "amin", "max", "min", "std", "var", "var_mean", "std_mean", "logsumexp",
    "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "mkldnn_adaptive_avg_pool2d",
    "adaptive_max_pool2d", "any", "all", "linalg_vector_norm",
}  # fmt: skip
_MATRIX_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "mv", "dot"}
_KEEP_RESHAPED = (
    _IDENTITIES | _ARITHMETIC | _BATCH_NORMS | _VIEWS | _PERMUTATIONS | {"cat", "native_layer_norm"}
)
_FACTORIES = {
    "empty_like", "zeros_like", "ones_like", "full_like", "new_empty", "new_zeros", "new_ones",
    "new_full", "rand_like", "randn_like",
}  # fmt: skip
_RELUS = {"relu", "hardtanh", "threshold", "clamp", "clamp_min", "relu6"}
_RELU_MODULES = (nn.ReLU, nn.ReLU6)

# Layers that keep the position of features but are implemented by reshaping or pooling channels.
_OPAQUE = {nn.GroupNorm, nn.LocalResponseNorm, nn.InstanceNorm2d}


class InputsChangedError(Exception):
    """The model would change its input in place and must be given a copy."""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every tensor of one forward pass, beginning with the input.

    Args:
        model: The network, already in eval mode.
        inputs: ``(N, C, H, W)``, the tensor object that the model is called with.
        precision: Type of the channel averages.
        maxima: Whether to record the positions of the maxima of max poolings.
        changeable: Whether the model may change the inputs in place.

    Attributes:
        relus: The trails of the recorded ReLUs' outputs, in order of execution.
        hooked: Whether other code has registered global module hooks.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        precision: torch.dtype,
        maxima: bool = False,
        changeable: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.samples = len(inputs)
        self.precision = precision
        self.maxima = maxima
        self.relus: list[Trail] = []
        self._trails: dict[int, tuple[ReferenceType[Tensor], Trail]] = {}
        self.follow(inputs, Trail(None))
        self.changeable = changeable
        self._inputs = None if changeable else inputs.untyped_storage()._cdata
        self._running: list[nn.Module] = []
        self._opaque: tuple[int, Trail] | None = None
        self._thread = threading.get_ident()
        self._watching = False
        self.hooked = bool(
            nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches operations and running modules within the context."""
        if self._watching:
            yield
            return
        # Global hooks leave the modules of the model unchanged and are also called for modules that
        # the model creates while it runs.
        handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        try:
            self._watching = True
            with self:
                yield
        finally:
            self._watching = False
            for handle in handles:
                handle.remove()

    @property
    def innermost(self) -> bool:
        """Whether no other dispatch mode was entered since, so that this one can be paused."""
        return not self._watching or _get_current_dispatch_mode() is self

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops watching within the context; the caller records the trails."""
        if not self._watching:
            yield
            return
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            self.__enter__()  # type: ignore[no-untyped-call]

    def trail(self, tensor: object) -> Trail | None:
        """The trail of a tensor, None if it was not computed from the input."""
        if not isinstance(tensor, Tensor):
            return None
        # `id()` values are reused after garbage collection, so the weak reference is compared too.
        known = self._trails.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None

    def follow(self, tensor: Tensor, trail: Trail) -> None:
        """Records the trail of a tensor."""
        self._trails[id(tensor)] = ref(tensor), trail

    def relu(self, before: Trail, module: nn.Module, average: Tensor) -> Trail:
        """Records the channel average of a ReLU's output and returns the trail of the output."""
        trail = Trail(before, module, average=average)
        self.relus.append(trail)
        return trail

    def average(self, features: Tensor) -> Tensor:
        """Channel average ``(N, 1, h, w)`` in the precision of the recorder."""
        wide = torch.promote_types(features.dtype, self.precision)
        return features.mean(1, keepdim=True, dtype=wide).to(self.precision)

    def maps(self) -> tuple[FeatureMap, ...]:
        """The feature maps along the main path, which ends at the last ReLU.

        Raises:
            UnsupportedNetworkError: No map was recorded, or one is not on the main path.
        """
        if not self.relus:
            raise UnsupportedNetworkError(
                f"VisualBackProp cannot explain {type(self.model).__name__}: "
                "no nn.ReLU module runs in its convolutional part"
            )
        backwards: list[FeatureMap] = []
        layers: list[Layer] = []
        on_path = []
        step: Trail | None = self.relus[-1]
        while step is not None:
            if step.average is not None:
                on_path.append(step)
                layers.clear()
                cursor = step.before
                while cursor is not None and cursor.average is None:
                    if cursor.layer is not None:
                        layers.insert(0, cursor.layer)
                    cursor = cursor.before
                assert step.module is not None
                backwards.append(FeatureMap(step.module, step.average, tuple(layers)))
            step = step.before
        for relu in self.relus:
            if relu not in on_path:
                raise self.refusal(
                    relu.module,
                    "its output lies beside the main path (the branch with the most convolutions) "
                    "from the input to the last ReLU, and the mask cannot include it",
                )
        return tuple(reversed(backwards))

    def refusal(self, module: nn.Module | None, reason: str) -> UnsupportedNetworkError:
        """The error that names a module and the reason why the mask cannot be computed."""
        module = self.model if module is None else module
        name = next((name for name, known in self.model.named_modules() if known is module), "")
        module_type = type(module).__name__
        where = f"{name} ({module_type})" if name else module_type
        return UnsupportedNetworkError(f"VisualBackProp cannot follow {where}: {reason}")

    # Running modules

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if threading.get_ident() != self._thread:
            return
        self._running.append(module)
        if self._opaque is None and type(module) in _OPAQUE and args:
            trail = self.trail(args[0])
            if trail is not None and trail.state is State.SPATIAL:
                self._opaque = (len(self._running), trail)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        if threading.get_ident() != self._thread:
            return
        if self._opaque is not None and self._opaque[0] == len(self._running):
            if isinstance(output, Tensor):
                self.follow(output, Trail(self._opaque[1], module))
            self._opaque = None
        self._running.pop()

    # Operations

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        operation, in_place, mutable = _described(func)
        if mutable and self._changes_inputs(args):
            raise InputsChangedError
        output: object = func(*args, **(kwargs or {}))
        if self._opaque is not None:
            return output
        sources = self._sources(args, kwargs)
        if not sources:
            if operation in ("relu", "hardtanh") and args[0].dim() == 4:
                raise self.refusal(
                    self._module, "its input cannot be traced to that of the network"
                )
            return output
        if in_place:
            self._check_aliases(args[0])
        first, *others = output if isinstance(output, tuple | list) else (output,)
        if isinstance(first, Tensor) and operation not in _FACTORIES:
            trail = self._step(operation, args, sources, first)
            self.follow(first, trail)
            for other in others:
                if isinstance(other, Tensor):  # indices, statistics: no feature map
                    self.follow(other, Trail(trail, trail.module, state=State.ENDED))
        return output

    @property
    def _module(self) -> nn.Module | None:
        return self._running[-1] if self._running else None

    def _sources(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> list[Trail]:
        found = []
        for argument in (*args, *kwargs.values()) if kwargs else args:
            for item in argument if isinstance(argument, list | tuple) else (argument,):
                if (trail := self.trail(item)) is not None:
                    found.append(trail)
        return found

    def _changes_inputs(self, args: tuple[Any, ...]) -> bool:
        return any(
            isinstance(each, Tensor) and each.untyped_storage()._cdata == self._inputs
            for each in args[:1]
        )

    def _check_aliases(self, changed: Tensor) -> None:
        """Marks other tensors on the memory of a changed one as reshaped: they changed too."""
        storage = changed.untyped_storage()._cdata
        for reference, _ in list(self._trails.values()):
            other = reference()
            if other is None or other is changed:
                continue
            if other.untyped_storage()._cdata == storage:
                self.follow(other, Trail(self.trail(other), self._module, state=State.RESHAPED))

    def _step(
        self, operation: str, args: tuple[Any, ...], sources: list[Trail], result: Tensor
    ) -> Trail:
        """The trail of the result of an operation on tensors with trails."""
        if any(trail.state is State.SPATIAL for trail in sources):
            return self._spatial_step(operation, args, sources, result)
        reshaped = [trail for trail in sources if trail.state is State.RESHAPED]
        if operation in ("relu", "hardtanh") and self._is_map(result) and result[0, 0].numel() > 1:
            lost = (reshaped or sources)[0].module
            raise self.refusal(
                self._module,
                "its output cannot be mapped to the pixels of the input, "
                f"since {type(lost).__name__} before it left the grid of pixels",
            )
        if not reshaped:
            return Trail(sources[0], sources[0].module, state=State.ENDED)
        if operation in _MATRIX_PRODUCTS | _REDUCTIONS or result.dtype is torch.bool:
            return Trail(reshaped[0], self._module, state=State.ENDED)
        if operation in _KEEP_RESHAPED:
            return Trail(reshaped[0], self._module, state=State.RESHAPED)
        if operation in _RELUS:
            raise self._unknown(operation)
        reshaper = type(reshaped[0].module).__name__
        raise self.refusal(
            self._module,
            f"{operation} reads a feature map whose values {reshaper} put in another order, "
            "or changed through a view",
        )

    def _spatial_step(
        self, operation: str, args: tuple[Any, ...], sources: list[Trail], result: Tensor
    ) -> Trail:
        module = self._module
        if operation in _ARITHMETIC and len(sources) == 1 and self._is_map(result):
            if {size_of(result)} == self._sizes(args):
                return Trail(sources[0], module)
            raise self._unknown(operation)
        spatial = [trail for trail in sources if trail.state is State.SPATIAL]
        before = spatial[0]
        if len(sources) == 1 and self.trail(args[0]) is before:
            if operation in ("relu", "hardtanh") and isinstance(module, _RELU_MODULES):
                if self._is_map(result):
                    return self.relu(before, module, self.average(result))
                raise self._unknown(operation)
            layer = self._layer(operation, args, result) if self._is_map(result) else None
            if layer is not None:
                return Trail(before, module, layer, convolves=operation == "convolution")
            if operation in _BATCH_NORMS:
                if _uses_batch_statistics(operation, args):
                    raise self.refusal(
                        module,
                        "it normalises with the statistics of the batch even in eval mode, "
                        "so a mask would depend on the other samples",
                    )
                return Trail(before, module)
            if operation in _IDENTITIES:
                return Trail(before, module)
            if operation in _VIEWS:
                bands = operation == "slice" and before.convolutions == 0 and args[1] == 1
                if bands or result.shape == args[0].shape:
                    return Trail(before, module)
                return Trail(before, module, state=State.RESHAPED)
            if operation in _PERMUTATIONS:
                return Trail(before, module, state=State.RESHAPED)
            if operation in _REDUCTIONS or result.dtype is torch.bool:
                return Trail(before, module, state=State.ENDED)
        if self._is_map(result) and {size_of(result)} == self._sizes(args):
            if operation == "add" and len(spatial) == len(sources):
                return Trail(self._main(spatial), module)
            # Before the first convolution every tensor has the pixel grid of the input.
            bands = operation == "cat" and args[1:] == (1,)
            if all(trail.convolutions == 0 for trail in sources) and (
                operation in _ARITHMETIC | _PREPARATIONS or bands
            ):
                return Trail(before, module)
        raise self._unknown(operation)

    def _layer(self, operation: str, args: tuple[Any, ...], result: Tensor) -> Layer | None:
        """The layer that an operation is; None for operations that are no layer."""
        if operation == "convolution" and not args[6]:
            kernel = args[1].shape[2:]
            return Layer(window_between(args[0], result, kernel, args[3], args[4], args[5]))
        if operation == "max_pool2d_with_indices":
            return self._max_pool(result, *args)
        if operation == "avg_pool2d":
            return self._avg_pool(result, *args)
        if operation == "constant_pad_nd" and len(args[1]) <= 4:
            left, _, top, _ = (*args[1], 0, 0)[:4]
            size = size_of(args[0])
            return Layer(Window((1, 1), (1, 1), (top, left), (1, 1), size, size_of(result)))
        return None

    def _is_map(self, result: Tensor) -> bool:
        return result.dim() == 4 and len(result) == self.samples

    def _sizes(self, args: tuple[Any, ...]) -> set[Pair]:
        """Sizes of the feature maps among the arguments."""
        sizes = set()
        for argument in args:
            for item in argument if isinstance(argument, list | tuple) else (argument,):
                trail = self.trail(item)
                if trail is not None and trail.state is State.SPATIAL:
                    sizes.add(size_of(item))
        return sizes

    def _main(self, branches: list[Trail]) -> Trail:
        """The branch of an addition that the mask follows: the one with the most convolutions."""
        most = max(branch.convolutions for branch in branches)
        main = [branch for branch in branches if branch.convolutions == most]
        if len(set(main)) > 1 and most > 0:
            raise self.refusal(
                self._module,
                f"it adds {len(main)} branches of {most} convolutions each, "
                "so none of them is the main path",
            )
        return main[0]

    def _max_pool(
        self,
        pooled: Tensor,
        features: Tensor,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        *_: object,
    ) -> Layer:
        window = window_between(features, pooled, kernel, stride or kernel, padding, dilation)
        if not self.maxima:
            return Layer(window)
        return Layer(window, shares_of_maxima(features, pooled, window, self.precision))

    @staticmethod
    def _avg_pool(
        pooled: Tensor,
        features: Tensor,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        *_: object,
    ) -> Layer:
        return Layer(window_between(features, pooled, kernel, stride or kernel, padding, 1))

    def _unknown(self, operation: str) -> UnsupportedNetworkError:
        module = self._module
        if operation in _RELUS and not isinstance(module, nn.ReLU | nn.ReLU6 | nn.Hardtanh):
            return self.refusal(
                module,
                f"it calls {operation} as a function, whose output cannot be recorded; "
                "use an nn.ReLU module",
            )
        if isinstance(module, nn.modules.conv._ConvNd) and module.padding_mode != "zeros":
            return self.refusal(
                module, f"padding_mode={module.padding_mode!r} is not supported; use 'zeros'"
            )
        if operation == "convolution":
            return self.refusal(
                module,
                "only a plain convolution of a single feature map (N, C, H, W) is supported",
            )
        return self.refusal(
            module,
            f"the mask has no rule for {operation}; the convolutional part may hold "
            "Conv2d, BatchNorm2d, ReLU, pooling, zero padding and residual additions",
        )


@cache
def _described(func: OpOverload) -> tuple[str, bool, bool]:
    """The name without the underscore of in-place forms, whether in place, whether mutating."""
    name: str = func.overloadpacket.__name__
    in_place = name.endswith("_") and not name.endswith("__")
    return name.removesuffix("_") if in_place else name, in_place, func._schema.is_mutable


def _uses_batch_statistics(operation: str, args: tuple[Any, ...]) -> bool:
    return not operation.endswith(("no_training", "no_update")) and bool(args[5])
