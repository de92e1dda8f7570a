"""Upsampling of a VisualBackProp mask through the layers between two activations.

Steps that are no sliding windows, such as a resizing, are undone by their adjoint, normalised to a
weighted mean for all upsamplings but ``deconv`` and ``unpool``. Every function takes a mask
``(N, 1, h, w)`` of the output size of the last layer, and the layers in forward order. It returns
the mask at the input size of the first layer.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from vbp_lightning.graph.geometry import Layer, Pair, Window, centres, every

Upsampling = Callable[[Tensor, Sequence[Layer]], Tensor]

# Up to this number of values conv_transpose2d is faster than strided additions. For more it is
# slower: 55.6 ms against 4.8 ms for 64 tiles (two cores).
_SMALL_MASK = 4096


def deconv(mask: Tensor, layers: Sequence[Layer]) -> Tensor:
    """The method of the paper: transposed convolutions of ones with each layer's geometry."""
    for layer in reversed(layers):
        mask = _back(mask, layer)
    return mask


def deconv_normalized(mask: Tensor, layers: Sequence[Layer]) -> Tensor:
    """``deconv`` divided by its coverage, the transposed convolution of a map of ones.

    This removes the dark borders that padding causes and the grid that overlapping windows cause.
    Pixels that no window covers are zero.
    """
    for layer in reversed(layers):
        covered = _back(mask.new_ones(1, 1, *mask.shape[2:]), layer)
        # Where the coverage is zero, the numerator is zero as well.
        if layer.window is None:
            covered.masked_fill_(covered == 0, 1)
        mask = _back(mask, layer) / covered.clamp_(min=0 if layer.window is None else 1)
    return mask


def nearest(mask: Tensor, layers: Sequence[Layer]) -> Tensor:
    """The value whose receptive-field centre is nearest; the mean of two equally near values.

    Between the centres of a layer with stride 2 and an odd kernel lies a pixel equally near to
    both. Taking one of them would shift the mask by half a pixel per layer.
    """
    return _resample(mask, layers, smooth=False)


def bilinear(mask: Tensor, layers: Sequence[Layer]) -> Tensor:
    """Linear interpolation between receptive-field centres, constant beyond the outermost ones."""
    return _resample(mask, layers, smooth=True)


def resize_conv(mask: Tensor, layers: Sequence[Layer]) -> Tensor:
    """``bilinear`` through layers with a stride, ``deconv_normalized`` through all others.

    A resize-convolution (Odena et al. 2016, "Deconvolution and Checkerboard Artifacts") with
    kernels of ones as in VisualBackProp. It is smoother than ``bilinear``, whose kinks at the
    centres of pooling windows are visible as faint blocks.
    """
    for layer in reversed(layers):
        strided = layer.window is not None and layer.window.stride != (1, 1)
        undo = bilinear if strided else deconv_normalized
        mask = undo(mask, [layer])
    return mask


def unpool(mask: Tensor, layers: Sequence[Layer]) -> Tensor:
    """Unpooling at the recorded maxima of max poolings; all other layers as in ``deconv``.

    The value of a pixel is the mask times the share of channels whose maximum came from it (the
    mean over channels of ``max_unpool2d``). Overlapping windows are added. A window with several
    equal maxima, for instance zeros behind a ReLU, is distributed evenly over them. The paper has
    no pooling layers and does not describe this variant.
    """
    for layer in reversed(layers):
        if layer.window is None or layer.shares is None:
            mask = _back(mask, layer)
        else:
            mask = _spread_shares(mask, layer.window, layer.shares)
    return mask


UPSAMPLINGS: dict[str, Upsampling] = {
    "deconv": deconv,
    "deconv_normalized": deconv_normalized,
    "nearest": nearest,
    "bilinear": bilinear,
    "resize_conv": resize_conv,
    "unpool": unpool,
}
"""The upsamplings by their names in ``VisualBackProp`` and in the configuration."""


def _back(mask: Tensor, layer: Layer) -> Tensor:
    """The adjoint of a layer of ones, of one channel."""
    if layer.window is not None:
        return spread(mask, layer.window)
    if layer.adjoint is not None:
        return layer.adjoint(mask)
    assert layer.apply is not None
    with torch.inference_mode(mode=False), torch.enable_grad():
        below = torch.zeros(len(mask), 1, *layer.below, dtype=mask.dtype, device=mask.device)
        above = layer.apply(below.requires_grad_())
        (gradient,) = torch.autograd.grad(above, below, mask.clone())
    return gradient


def spread(mask: Tensor, window: Window) -> Tensor:
    """Transposed convolution of one channel with ones: adds every value to its whole window.

    Values on the padding are dropped and pixels that no window covers are zero. With even padding
    this is the output padding ``(below + 2·padding − dilation·(kernel−1) − 1) mod stride``.

    Args:
        mask: ``(N, 1, h, w)`` of the output size of the layer.
        window: The geometry of the layer.

    Returns:
        ``(N, 1, H, W)`` of the input size of the layer, same dtype.
    """
    moves = window.kernel != (1, 1) or window.stride != (1, 1)
    if torch.compiler.is_compiling():  # for any number of samples, and without cached tensors
        if moves:
            return _transposed(mask, mask.new_ones(1, 1, *window.kernel), window)
    # Not on a GPU, where convolutions may use the lower precision of TensorFloat-32.
    elif mask.numel() <= _SMALL_MASK and mask.device.type == "cpu" and moves:
        return _transposed(mask, _ones(window.kernel, mask.dtype), window)
    for axis in (0, 1):
        mask = _spread_axis(mask, window, axis)
    return mask


def _transposed(mask: Tensor, weight: Tensor, window: Window) -> Tensor:
    """The transposed convolution with the geometry of a window."""
    extra = window.output_padding()
    if extra is not None:
        return F.conv_transpose2d(
            mask, weight, None, window.stride, window.padding, extra, 1, window.dilation
        )
    whole = F.conv_transpose2d(mask, weight, stride=window.stride, dilation=window.dilation)
    for axis in (0, 1):
        whole = _cut(whole, 2 + axis, window.padding[axis], window.below[axis])
    return whole


@lru_cache
def _ones(kernel: Pair, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(mode=False):  # later passes outside of inference mode use them too
        return torch.ones(1, 1, *kernel, dtype=dtype)


def _spread_axis(mask: Tensor, window: Window, axis: int) -> Tensor:
    kernel, stride, dilation = window.kernel[axis], window.stride[axis], window.dilation[axis]
    dim = 2 + axis
    if kernel > 1 or stride > 1:
        reach = (mask.shape[dim] - 1) * stride + 1
        shape = list(mask.shape)
        shape[dim] = reach + dilation * (kernel - 1)
        whole = mask.new_zeros(shape)
        for tap in range(0, dilation * kernel, dilation):
            every(whole, dim, tap, reach, stride).add_(mask)
        mask = whole
    return _cut(mask, dim, window.padding[axis], window.below[axis])


def _cut(whole: Tensor, dim: int, padding: int, size: int) -> Tensor:
    """Removes the padding and fills up to ``size`` with zeros; padding may be negative."""
    missing = padding + size - whole.shape[dim]
    if missing == 0 and padding == 0:
        return whole
    if missing > 0 or padding < 0:
        before, after = max(-padding, 0), max(missing, 0)
        whole = F.pad(whole, (0, 0, before, after) if dim == 2 else (before, after, 0, 0))
        padding += before
    return whole.narrow(dim, padding, size)


def _spread_shares(mask: Tensor, window: Window, shares: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        taps = torch.eye(shares.shape[1], dtype=mask.dtype, device=mask.device)
        return _transposed(mask * shares, taps.view(-1, 1, *window.kernel), window)
    reach = [
        (size - 1) * stride + 1 for size, stride in zip(mask.shape[2:], window.stride, strict=True)
    ]
    span = [d * (k - 1) for d, k in zip(window.dilation, window.kernel, strict=True)]
    whole = mask.new_zeros(len(mask), 1, reach[0] + span[0], reach[1] + span[1])
    shares = shares.to(mask.dtype).view(len(mask), *window.kernel, *mask.shape[2:])
    for row in range(window.kernel[0]):
        rows = every(whole, 2, row * window.dilation[0], reach[0], window.stride[0])
        for column in range(window.kernel[1]):
            pixels = every(rows, 3, column * window.dilation[1], reach[1], window.stride[1])
            pixels.addcmul_(mask, shares[:, row, column].unsqueeze(1))
    for axis in (0, 1):
        whole = _cut(whole, 2 + axis, window.padding[axis], window.below[axis])
    return whole


def _resample(mask: Tensor, layers: Sequence[Layer], smooth: bool) -> Tensor:
    for is_window, group in groupby(reversed(layers), lambda layer: layer.window is not None):
        together = [*group][::-1]
        if is_window:
            windows = [layer.window for layer in together if layer.window is not None]
            mask = _through_windows(mask, windows, smooth)
        else:
            mask = deconv_normalized(mask, together)
    return mask


def _through_windows(mask: Tensor, windows: Sequence[Window], smooth: bool) -> Tensor:
    for axis in (0, 1):
        lattice = centres(windows, axis)
        below, above = windows[0].below[axis], windows[-1].above[axis]
        if lattice.step == 1 and lattice.twice == 0 and below == above:
            continue
        geometry = below, above, lattice.step, lattice.twice, smooth
        of_pixels = _neighbours if torch.compiler.is_compiling() else _cached_neighbours
        first, second, weight = of_pixels(*geometry, mask.device, mask.dtype)
        shape = (-1, 1) if axis == 0 else (1, -1)
        low = mask.index_select(2 + axis, first)
        high = mask.index_select(2 + axis, second)
        mask = low.lerp_(high, weight.view(shape))
    return mask


def _neighbours(
    below: int,
    above: int,
    step: int,
    twice: int,
    smooth: bool,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """The two output pixels between whose centres each input pixel lies.

    Returns:
        Index of the first, index of the second, and weight of the second in [0, 1] (0, ½ or 1
        unless ``smooth``), each ``(below,)``.
    """
    # In units of half a pixel, so that equal distances are compared as integers.
    ahead = 2 * torch.arange(below) - twice
    before = ahead.div(2 * step, rounding_mode="floor")
    rest = ahead - before * 2 * step
    if smooth:
        weight = rest.double() / (2 * step)
    else:
        weight = ((rest > step).double() + (rest >= step).double()) / 2
    low, high = (index.clamp(0, above - 1).to(device) for index in (before, before + 1))
    return low, high, weight.to(device, dtype)


# Kept on the device: a CUDA graph cannot hold a copy from the processor's memory.
_cached_neighbours = lru_cache(maxsize=256)(torch.inference_mode(mode=False)(_neighbours))
