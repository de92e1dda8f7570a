"""A faster forward pass for networks whose layers are in ``nn.Sequential`` containers.

Each sequence of plain convolutions, batch norms, ReLUs and poolings is computed with the batch
norms folded into the convolutions, in channels-last format and in chunks of a few samples, so that
the feature maps stay in the processor's cache. All other modules run unchanged and are watched by
the recorder. Results differ from those of the model by rounding only.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbp_lightning.attribution.folding import Folding
from vbp_lightning.attribution.geometry import Layer, Pair, Window, size_of, window_between
from vbp_lightning.attribution.recording import Recorder, State, Trail
from vbp_lightning.attribution.upsampling import shares_of_maxima

# Largest feature map of a chunk of samples, about the size of the second- and third-level caches.
# Smaller chunks cost function calls, larger ones memory traffic.
_CACHED_BYTES = 20_000_000

# From this number of samples on, a convolution is faster than a matrix product.
_MANY = 4

_PASSED_ON = {nn.Identity, nn.Dropout, nn.Dropout2d}
# The settings that a plan depends on, by type of module; modules of other types run unchanged.
_SETTINGS: dict[type[nn.Module], Any] = {
    nn.Conv2d: attrgetter("stride", "padding", "dilation", "groups", "padding_mode"),
    nn.BatchNorm2d: attrgetter("eps", "running_mean.dtype"),
    nn.ReLU: attrgetter("inplace"),
    nn.MaxPool2d: attrgetter(
        "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"
    ),
    nn.AvgPool2d: attrgetter("kernel_size", "stride", "padding", "ceil_mode"),
}
_HEAD = {
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Flatten,
    nn.Linear,
    nn.BatchNorm1d,
    nn.ReLU,
    nn.Dropout,
    nn.Identity,
}

Signature = list[tuple[nn.Module, type[nn.Module], bool, Any]]


class FusedPass:
    """Fused forward passes of one model; the plan of each container is cached between calls."""

    def __init__(self) -> None:
        self._plans: dict[nn.Module, tuple[Signature, list[Part]]] = {}

    def run(self, modules: Sequence[nn.Module], inputs: Tensor, recorder: Recorder) -> Any:  # noqa: ANN401
        """Calls a model with the faster pass in its Sequentials.

        The model's own layers run where the faster pass would be slower or differ: on other devices
        than the CPU, in other types than float32, under autocast, and with global module hooks.

        Args:
            modules: The model and all modules in it, in eval mode.
            inputs: The argument of the model.
            recorder: Records the feature maps.

        Returns:
            The output of the model.
        """
        model = modules[0]
        chains: list[nn.Module] = []
        if inputs.device.type == "cpu" and inputs.dtype is torch.float32 and not recorder.hooked:
            chains = [module for module in modules if _is_chain(module)]
        opened = {chain for chain in chains if not _has_hooks(chain)}
        if model in opened:
            return self._forward(model, opened, recorder, inputs)
        try:
            for chain in chains:
                # Set on this instance only; a hook could not replace ``forward``.
                chain.__dict__["forward"] = partial(self._forward, chain, opened, recorder)
            with recorder.watching():
                return model(inputs)
        finally:
            for chain in chains:
                chain.__dict__.pop("forward", None)

    def _forward(
        self, chain: nn.Module, opened: set[nn.Module], recorder: Recorder, features: Tensor
    ) -> Tensor:
        """Replaces ``nn.Sequential.forward``."""
        for part in self._plan(chain, opened):
            if isinstance(part, _Other) or _can_take(features, recorder):
                features = part.run(features, recorder)
            else:
                with recorder.watching():
                    for module in part.modules:
                        features = module(features)
        return features

    def _plan(self, chain: nn.Module, opened: set[nn.Module]) -> "list[Part]":
        """The modules of a Sequential in order, grouped where they can be fused."""
        signature: Signature = [
            (module, type(module), _is_touched(module), _settings(module))
            for module in _leaves(chain, opened)
        ]
        if chain not in self._plans or self._plans[chain][0] != signature:
            self._plans[chain] = signature, _parts([module for module, *_ in signature])
        return self._plans[chain][1]


def _is_chain(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward and "forward" not in module.__dict__


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _is_touched(module: nn.Module) -> bool:
    return _has_hooks(module) or "forward" in module.__dict__


def _settings(module: nn.Module) -> Any:  # noqa: ANN401
    if type(module) is nn.BatchNorm2d and module.running_mean is None:
        return None
    read = _SETTINGS.get(type(module))
    return None if read is None else read(module)


def _leaves(chain: nn.Module, opened: set[nn.Module]) -> Iterator[nn.Module]:
    """The modules that a Sequential runs, nested Sequentials without hooks flattened."""
    for module in chain._modules.values():  # children() omits repeated modules
        if module is None:
            continue
        if module in opened:
            yield from _leaves(module, opened)
        else:
            yield module


def _parts(leaves: list[nn.Module]) -> "list[Part]":
    """Groups modules into fused runs, the head, and modules that run unchanged."""
    parts: list[Part] = []
    start = 0
    while start < len(leaves):
        end = start
        # A run begins with a convolution, whose output no other module uses: the input of an
        # in-place ReLU may be used elsewhere and must be changed as the module itself changes it.
        if isinstance(leaves[start], nn.Conv2d):
            while end < len(leaves) and _is_plain(leaves[end]):
                end += 1
        elif _begins_head(leaves[start]):
            while end < len(leaves) and type(leaves[end]) in _HEAD and not _is_touched(leaves[end]):
                end += 1
        if end == start:
            parts.append(_Other(leaves[start]))
            start += 1
            continue
        part_type = _Run if isinstance(leaves[start], nn.Conv2d) else _Head
        parts.append(part_type(leaves[start:end]))
        start = end
    return parts


def _is_plain(module: nn.Module) -> bool:
    """Whether a module has no hooks, no replaced ``forward`` and supported settings."""
    if _is_touched(module):
        return False
    if type(module) is nn.Conv2d:
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if type(module) is nn.BatchNorm2d:
        return module.running_mean is not None and module.running_mean.dtype is torch.float32
    if type(module) is nn.MaxPool2d:
        return not module.return_indices
    return type(module) in _PASSED_ON | {nn.ReLU, nn.AvgPool2d}


def _begins_head(module: nn.Module) -> bool:
    """Whether a module is a global pooling, which ends the convolutional part."""
    return (
        type(module) in (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
        and not _is_touched(module)
        and module.output_size in (1, (1, 1))
        and not getattr(module, "return_indices", False)
    )


def _can_take(features: object, recorder: Recorder) -> bool:
    trail = recorder.trail(features)
    return (
        trail is not None
        and trail.state is State.SPATIAL
        and isinstance(features, Tensor)
        and features.dim() == 4
        and features.dtype is torch.float32
        and not torch.is_autocast_enabled("cpu")
        and recorder.innermost
    )


class _Other:
    """A module that runs unchanged, watched unless it only prepares the pixels of the input.

    Before the first convolution only the position of each pixel matters for a mask. A module that
    was observed to keep the positions, and whose output has the size of its input, is not watched
    again.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._prepares = False

    def run(self, features: Tensor, recorder: Recorder) -> Tensor:
        before = recorder.trail(features)
        if self._prepares and before is not None and recorder.innermost:
            size, samples = features.shape[-2:], len(features)
            with recorder.paused():
                features = self.module(features)
            if (len(features), features.shape[-2:]) == (samples, size):
                recorder.follow(features, Trail(before, self.module))
            return features
        with recorder.watching():
            features = self.module(features)
        after = recorder.trail(features)
        self._prepares = (
            not recorder.changeable
            and not any(True for _ in self.module.children())
            and before is not None
            and after is not None
            and after.state is State.SPATIAL
            and after.only_prepares()
        )
        return features


class _Head:
    """The layers behind the convolutional part, which need not be watched."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.modules = modules

    def run(self, features: Tensor, recorder: Recorder) -> Tensor:
        trail = recorder.trail(features)
        with recorder.paused():
            for module in self.modules:
                features = module.forward(features)
        recorder.follow(features, Trail(trail, self.modules[0], state=State.ENDED))
        return features


class _Run:
    """A fused sequence of plain layers beginning with a convolution, run in chunks of samples."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.modules = modules
        self._steps: list[nn.Module] = []
        norms: dict[int, nn.BatchNorm2d] = {}
        for module in modules:
            last = len(self._steps) - 1
            if type(module) in _PASSED_ON:
                continue
            if isinstance(module, nn.BatchNorm2d) and (
                isinstance(self._steps[last], nn.Conv2d) and last not in norms
            ):
                norms[last] = module
            else:
                self._steps.append(module)
        convolutions = [
            (module, norms.get(index))
            for index, module in enumerate(self._steps)
            if isinstance(module, nn.Conv2d)
        ]
        self._folding = Folding(convolutions)
        # By size of the input: the windows of the steps, and bytes of one sample's largest map.
        self._sizes: dict[Pair, tuple[list[Window | None], int]] = {}

    def run(self, features: Tensor, recorder: Recorder) -> Tensor:
        """Runs the layers and records the trail of the result."""
        trail = recorder.trail(features)
        assert trail is not None
        with recorder.paused():
            folded = self._folding.folded()
            if any(weight.dtype is not torch.float32 for weight, _ in folded):
                raise TypeError("the input is float32, but the weights have another type")
            size = size_of(features)
            if size not in self._sizes:
                windows = _windows(self._steps, size)
                self._sizes[size] = windows, _largest_map(self._steps, windows, features)
            windows, largest = self._sizes[size]
            parts = []
            takings: list[list[Tensor | None]] = []
            for portion in torch.split(features, max(1, _CACHED_BYTES // largest)):
                result, taken = self._portion(portion, folded, windows, recorder)
                parts.append(result)
                takings.append(taken)
            result = _join(parts)
            for index, (module, window) in enumerate(zip(self._steps, windows, strict=True)):
                values = [each for taken in takings if (each := taken[index]) is not None]
                if isinstance(module, nn.ReLU):
                    trail = recorder.relu(trail, module, _join(values))
                elif window is not None:
                    layer = Layer(window, _join(values) if values else None)
                    trail = Trail(trail, module, layer, convolves=isinstance(module, nn.Conv2d))
        recorder.follow(result, trail)
        return result

    def _portion(
        self,
        features: Tensor,
        folded: list[tuple[Tensor, Tensor | None]],
        windows: list[Window | None],
        recorder: Recorder,
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The result of a chunk of samples and, for each step, the average or shares to record."""
        few = len(features) < _MANY
        weights = iter(folded)
        taken: list[Tensor | None] = []
        for module, window in zip(self._steps, windows, strict=True):
            kept = None
            module_type = type(module)
            if module_type is nn.Conv2d:
                weight, bias = next(weights)
                stride, padding, dilation, groups, _ = _SETTINGS[nn.Conv2d](module)
                if few and _is_pointwise(module) and features.is_contiguous():
                    features = _pointwise(features, weight, bias)
                else:
                    features = features.contiguous(memory_format=torch.channels_last)
                    features = F.conv2d(features, weight, bias, stride, padding, dilation, groups)
            elif module_type is nn.ReLU:
                features = features.relu_()  # the output of the convolution is owned by this call
                kept = _average(features)
            elif module_type is nn.MaxPool2d and recorder.maxima and window is not None:
                pooled = module.forward(features)
                kept = shares_of_maxima(features, pooled, window, recorder.precision)
                features = pooled
            else:
                features = module.forward(features)
            taken.append(kept)
        return features, taken


def _windows(steps: list[nn.Module], size: Pair) -> list[Window | None]:
    """The window of each step for an input size, computed on the meta device."""
    windows: list[Window | None] = []
    for module in steps:
        window = None
        below = torch.empty(1, 1, *size, device="meta")
        if isinstance(module, nn.Conv2d):
            ones = torch.empty(1, 1, *module.kernel_size, device="meta")
            above = F.conv2d(below, ones, None, module.stride, module.padding, module.dilation)
            geometry = (module.kernel_size, module.stride, module.padding, module.dilation)
            window = window_between(below, above, *geometry)
        elif isinstance(module, nn.MaxPool2d):
            above = module.forward(below)
            layout = (module.kernel_size, module.stride, module.padding, module.dilation)
            window = window_between(below, above, *layout)
        elif isinstance(module, nn.AvgPool2d):
            above = module.forward(below)
            window = window_between(
                below, above, module.kernel_size, module.stride, module.padding, 1
            )
        size = size if window is None else window.above
        windows.append(window)
    return windows


def _largest_map(steps: list[nn.Module], windows: list[Window | None], features: Tensor) -> int:
    """Bytes of the largest feature map of one sample."""
    largest = features[:1].numel()
    channels = features.shape[1]
    for module, window in zip(steps, windows, strict=True):
        if window is not None:
            channels = module.out_channels if isinstance(module, nn.Conv2d) else channels
            largest = max(largest, channels * window.above[0] * window.above[1])
    return max(1, largest) * features.element_size()


def _is_pointwise(conv: nn.Module) -> bool:
    """Whether each output pixel depends on one input pixel only."""
    stride, padding, _, groups, _ = _SETTINGS[nn.Conv2d](conv)
    pointwise = conv.kernel_size == (1, 1) and stride == (1, 1) and padding == (0, 0)
    return bool(pointwise and groups == 1)


def _pointwise(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A pointwise convolution as a matrix product: for few samples a seventh of the time."""
    pixels, matrix = features.flatten(2), weight.flatten(1).expand(len(features), -1, -1)
    if bias is None:
        result = torch.bmm(matrix, pixels)
    else:
        result = torch.baddbmm(bias.unsqueeze(1), matrix, pixels)
    return result.view(len(features), len(weight), *features.shape[2:])


def _average(features: Tensor) -> Tensor:
    """Channel average; for many channels-last samples a matrix product is faster than ``mean``."""
    if len(features) < _MANY or features.is_contiguous():
        return features.mean(1, keepdim=True)
    channels = features.shape[1]
    mean = features.new_full((channels,), 1 / channels)
    return (features.permute(0, 2, 3, 1) @ mean).unsqueeze(1)


def _join(portions: list[Tensor]) -> Tensor:
    return portions[0] if len(portions) == 1 else torch.cat(portions)


Part = _Other | _Run | _Head
