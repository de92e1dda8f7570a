"""A faster forward pass for networks whose layers stand in ``nn.Sequential``.

While it lasts, each run of plain convolutions, batch norms, ReLUs and poolings in a Sequential is
computed with the batch norms folded into the convolutions, channels last and a few samples at a
time, so that the feature maps stay in the processor's cache. Everything else in the model runs as
it is and is watched by the recorder. Results differ from the model's by rounding only.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbp_lightning.attribution.folding import Folds
from vbp_lightning.attribution.geometry import Layer, Window, both, window_between
from vbp_lightning.attribution.recording import Recorder, State, Trail
from vbp_lightning.attribution.upsampling import shares_of_maxima

# Samples go together up to this size of the largest feature map: what second- and third-level
# caches hold. Smaller portions pay for their function calls, larger ones for memory traffic.
_CACHED_BYTES = 20_000_000

# So many samples at a time have pointwise convolutions computed channels last as well.
_MANY = 4

_PASSED_ON = {nn.Identity, nn.Dropout, nn.Dropout2d}
_PLAIN = {nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d} | _PASSED_ON
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


@contextmanager
def fused(
    modules: Sequence[nn.Module], inputs: Tensor, recorder: Recorder, folds: Folds
) -> Iterator[None]:
    """Lets the model's Sequentials take the faster pass while the context lasts.

    Does nothing where it would not help or not be the same: away from the CPU, in other types than
    float32, under autocast, and where somebody hooks every module there is.

    Args:
        modules: All modules of the model that may take it, in eval mode.
        inputs: What the model will be called with.
        recorder: Takes down the feature maps.
        folds: Folded convolutions of earlier passes.
    """
    chains: list[nn.Module] = []
    if inputs.device.type == "cpu" and inputs.dtype is torch.float32 and not recorder.overheard:
        chains = [module for module in modules if _is_chain(module)]
    opened = {id(chain) for chain in chains if not _has_hooks(chain)}
    try:
        for chain in chains:
            # An attribute of this one module: a hook could not take a forward's place.
            chain.forward = partial(_forward, chain, opened, recorder, folds)
        yield
    finally:
        for chain in chains:
            chain.__dict__.pop("forward", None)


def _is_chain(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward and "forward" not in module.__dict__


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _leaves(chain: nn.Module, opened: set[int]) -> Iterator[nn.Module]:
    """What a Sequential runs one after the other, nested Sequentials without hooks opened."""
    for module in chain._modules.values():  # children() leaves out the second use of a module
        if module is None:
            continue
        if id(module) in opened:
            yield from _leaves(module, opened)
        else:
            yield module


def _forward(
    chain: nn.Module, opened: set[int], recorder: Recorder, folds: Folds, features: Tensor
) -> Tensor:
    """Takes the place of ``nn.Sequential.forward``."""
    leaves = list(_leaves(chain, opened))
    start = 0
    while start < len(leaves):
        end = start
        # A run begins with a convolution: what an in-place ReLU or a pooling reads may be in use
        # elsewhere, and must be changed, or not, as the module itself would.
        if isinstance(leaves[start], nn.Conv2d) and _can_take(features, recorder):
            while end < len(leaves) and _is_plain(leaves[end]):
                end += 1
            features = _run(leaves[start:end], features, recorder, folds)
        elif _begins_head(leaves[start], features, recorder):
            while end < len(leaves) and _is_untouched(leaves[end], _HEAD):
                end += 1
            features = _run_head(leaves[start:end], features, recorder)
        if end > start:
            start = end
        else:
            features = leaves[start](features)
            start += 1
    return features


def _begins_head(module: nn.Module, features: object, recorder: Recorder) -> bool:
    """Whether a global pooling ends the convolutional part here."""
    return (
        isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
        and _is_untouched(module, _HEAD)
        and module.output_size in (1, (1, 1))
        and not getattr(module, "return_indices", False)
        and _can_take(features, recorder)
    )


def _run_head(head: list[nn.Module], features: Tensor, recorder: Recorder) -> Tensor:
    """Runs what stands behind the convolutional part, where nothing is left to watch."""
    trail = recorder.trail(features)
    with recorder.paused():
        for module in head:
            features = module.forward(features)
    recorder.follow(features, Trail(trail, head[0], state=State.ENDED))
    return features


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


def _is_untouched(module: nn.Module, kinds: set[type[nn.Module]]) -> bool:
    return type(module) in kinds and not _has_hooks(module) and "forward" not in module.__dict__


def _is_plain(module: nn.Module) -> bool:
    """Whether it does what its type says and nothing besides."""
    if not _is_untouched(module, _PLAIN):
        return False
    if isinstance(module, nn.Conv2d):
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            return False
        return _are_ordinary(module.weight, module.bias)
    if isinstance(module, nn.BatchNorm2d):
        mean, var = module.running_mean, module.running_var
        return mean is not None and _are_ordinary(mean, var, module.weight, module.bias)
    return not getattr(module, "return_indices", False)


def _are_ordinary(*values: Tensor | None) -> bool:
    return all(
        each is None or (each.dtype is torch.float32 and each.device.type == "cpu")
        for each in values
    )


@dataclass(eq=False)
class _Step:
    """One module of a run, as it is computed."""

    module: nn.Module
    norm: nn.BatchNorm2d | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None


@dataclass(eq=False)
class _Taken:
    """What one module of a run left for the way back."""

    module: nn.Module
    window: Window | None = None
    average: Tensor | None = None
    shares: Tensor | None = None


def _run(run: list[nn.Module], features: Tensor, recorder: Recorder, folds: Folds) -> Tensor:
    """Runs plain modules in portions of samples and notes the trail of the result."""
    trail = recorder.trail(features)
    assert trail is not None
    with recorder.paused():
        steps = _steps(run, folds)
        portion = max(1, _CACHED_BYTES // _largest_map(run, features))
        portions = [_portion(steps, part, recorder) for part in torch.split(features, portion)]
        result = _join([part for part, _ in portions])
        for taken in zip(*(each for _, each in portions), strict=True):
            trail = _extend(trail, taken, recorder)
    if result is not features:
        recorder.follow(result, trail)
    return result


def _steps(run: list[nn.Module], folds: Folds) -> list[_Step]:
    """The steps of a run, each batch norm behind a convolution folded into its weights."""
    steps: list[_Step] = []
    for module in run:
        if type(module) in _PASSED_ON:
            continue
        if (
            isinstance(module, nn.BatchNorm2d)
            and steps
            and isinstance(steps[-1].module, nn.Conv2d)
            and steps[-1].norm is None
        ):
            steps[-1].norm = module
        else:
            steps.append(_Step(module))
    for step in steps:
        if isinstance(step.module, nn.Conv2d):
            step.weight, step.bias = folds.folded(step.module, step.norm)
    return steps


def _largest_map(run: list[nn.Module], features: Tensor) -> int:
    """Bytes of one sample's largest feature map in a run."""
    channels, *size = features.shape[1:]
    largest = channels * size[0] * size[1]
    for module in run:
        if isinstance(module, nn.Conv2d):
            channels = module.out_channels
            for axis in (0, 1):
                reach = module.dilation[axis] * (module.kernel_size[axis] - 1)
                padded = size[axis] + 2 * int(module.padding[axis])
                size[axis] = (padded - reach - 1) // module.stride[axis] + 1
        elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            for axis in (0, 1):
                size[axis] //= both(module.stride)[axis]
        largest = max(largest, channels * size[0] * size[1])
    return largest * features.element_size()


def _portion(
    steps: list[_Step], features: Tensor, recorder: Recorder
) -> tuple[Tensor, list[_Taken]]:
    few = len(features) < _MANY
    ours = False  # what came from outside must not be changed in place
    takings = []
    for step in steps:
        module, before = step.module, features
        taken = _Taken(module)
        if isinstance(module, nn.Conv2d):
            assert step.weight is not None
            if not few or module.kernel_size != (1, 1):
                before = before.contiguous(memory_format=torch.channels_last)
            features = F.conv2d(
                before,
                step.weight,
                step.bias,
                module.stride,
                module.padding,
                module.dilation,
                module.groups,
            )
            taken.window = window_between(
                before, features, module.kernel_size, module.stride, module.padding, module.dilation
            )
        elif isinstance(module, nn.ReLU):
            features = before.relu_() if ours else before.relu()
            taken.average = _average(features)
        elif isinstance(module, nn.BatchNorm2d):
            features = F.batch_norm(
                before,
                module.running_mean,
                module.running_var,
                module.weight,
                module.bias,
                eps=module.eps,
            )
        elif isinstance(module, nn.MaxPool2d):
            features = module.forward(before)
            taken.window = window_between(
                before, features, module.kernel_size, module.stride, module.padding, module.dilation
            )
            if recorder.maxima:
                taken.shares = shares_of_maxima(before, features, taken.window, recorder.precision)
        elif isinstance(module, nn.AvgPool2d):
            features = module.forward(before)
            taken.window = window_between(
                before, features, module.kernel_size, module.stride, module.padding, 1
            )
        ours = True
        takings.append(taken)
    return features, takings


def _average(features: Tensor) -> Tensor:
    """Channel average: channels last, a matrix product is faster than ``mean``."""
    if features.is_contiguous():
        return features.mean(1, keepdim=True)
    channels = features.shape[1]
    mean = features.new_full((channels,), 1 / channels)
    return (features.permute(0, 2, 3, 1) @ mean).unsqueeze(1)


def _extend(before: Trail, taken: Sequence[_Taken], recorder: Recorder) -> Trail:
    """The trail one module further, from what each portion left of it."""
    module, geometry = taken[0].module, taken[0].window
    averages = [each.average for each in taken if each.average is not None]
    if averages:
        return recorder.relu(before, module, _join(averages))
    if geometry is None:
        return before
    shares = [each.shares for each in taken if each.shares is not None]
    layer = Layer(geometry, _join(shares) if shares else None)
    return Trail(before, module, layer, convolves=isinstance(module, nn.Conv2d))


def _join(portions: list[Tensor]) -> Tensor:
    return portions[0] if len(portions) == 1 else torch.cat(portions)
