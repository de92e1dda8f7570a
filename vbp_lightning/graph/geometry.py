"""Geometry of the layers of a network: windows that slide, and other steps between two maps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


class Window(NamedTuple):
    """The sliding window of one executed convolution, pooling or padding.

    Every pair is (vertical, horizontal), in pixels. A padding is the window of a 1×1 kernel.

    Args:
        kernel: Number of taps.
        stride: Step of the window over the padded input.
        padding: Rows above and columns to the left of the input. The padding below and to the right
            follows from the two sizes, which covers uneven padding and ``ceil_mode``.
        dilation: Distance between taps.
        below: Height and width of the input map.
        above: Height and width of the output map.
    """

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    below: Pair
    above: Pair

    @property
    def moves_nothing(self) -> bool:
        """Whether each pixel of the output reads the pixel at its own place alone."""
        return self[:3] == ((1, 1), (1, 1), (0, 0)) and self.below == self.above

    def output_padding(self) -> Pair | None:
        """The output padding with which a transposed convolution restores the input size.

        None if no output padding does: the layer's padding is uneven or a window reaches beyond it.
        """
        extra = [0, 0]
        for axis in (0, 1):
            reach = (self.above[axis] - 1) * self.stride[axis]
            reach += self.dilation[axis] * (self.kernel[axis] - 1) + 1
            extra[axis] = self.below[axis] + 2 * self.padding[axis] - reach
            most = max(self.stride[axis], self.dilation[axis])
            if not 0 <= extra[axis] < most or self.padding[axis] < 0:
                return None
        return extra[0], extra[1]


@dataclass(frozen=True, eq=False)
class Layer:
    """One step between two maps of different places.

    Args:
        window: The geometry of a sliding window; None for other steps, such as a resizing.
        shares: For a max pooling whose maxima were recorded, the share of channels whose maximum
            came from each tap, ``(N, kernel rows · kernel columns, h, w)`` with ``(h, w)`` the size
            of its output; the shares of a window sum to one. None for every other layer.
        maximum: Whether the layer is a max pooling.
        apply: For a step that is no window, the linear function of one channel ``(N, 1, H, W)``
            that stands for it.
        below: Height and width of the input map of a step that is no window.
        adjoint: The adjoint of ``apply``, if it is known; otherwise autograd computes it.
    """

    window: Window | None
    shares: Tensor | None = None
    maximum: bool = False
    apply: Callable[[Tensor], Tensor] | None = None
    below: Pair = (1, 1)
    adjoint: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Centres:
    """Receptive-field centres along one axis: that of output pixel ``i`` is ``i·step + twice/2``.

    Args:
        step: Distance of neighbouring centres in pixels of the input map.
        twice: Twice the centre of the first pixel, which is an integer even if the centre is not.
    """

    step: int
    twice: int


def centres(windows: Sequence[Window], axis: int) -> Centres:
    """Receptive-field centres of the last layer's output pixels on the first layer's input.

    Args:
        windows: The windows of the layers in forward order.
        axis: 0 for rows, 1 for columns.

    Returns:
        In pixels of the input of the first layer.
    """
    step, twice = 1, 0
    for window in reversed(windows):
        stride = window.stride[axis]
        span = window.dilation[axis] * (window.kernel[axis] - 1)
        step *= stride
        twice = twice * stride + span - 2 * window.padding[axis]
    return Centres(step, twice)


def both(values: int | Sequence[int]) -> Pair:
    """A (vertical, horizontal) pair from one number or two, as PyTorch layers accept them."""
    return (values, values) if isinstance(values, int) else (values[0], values[-1])


NEARLY = 2.0**-8
"""Distance to a maximum from which on a value does not share in it, relative to the mean of the
maxima of all channels in the window."""


def shares_of_maxima(
    features: Tensor, pooled: Tensor, window: Window, dtype: torch.dtype
) -> Tensor:
    """The share of channels whose maximum came from each tap of each window of a max pooling.

    Args:
        features: ``(N, C, H, W)``, the input of the pooling.
        pooled: ``(N, C, h, w)``, its output.
        window: Its geometry.
        dtype: Type of the result.

    Returns:
        ``(N, kernel rows · kernel columns, h, w)`` in [0, 1], each window's taps summing to one.
        A channel with several equal maxima counts for each of them with the same part. Values just
        below the maximum count for less, linearly down to nothing at ``NEARLY``: which of two
        nearly equal values is the maximum is a matter of rounding, which must not move the mask.
    """
    padded, pooled = features.to(dtype), pooled.to(dtype)
    reach = [
        (size - 1) * stride + 1 for size, stride in zip(window.above, window.stride, strict=True)
    ]
    for axis in (0, 1):
        before = window.padding[axis]
        needed = reach[axis] + window.dilation[axis] * (window.kernel[axis] - 1)
        after = max(needed - before - window.below[axis], 0)
        if before or after:
            pad = (0, 0, before, after) if axis == 0 else (before, after, 0, 0)
            padded = F.pad(padded, pad, value=float("-inf"))
    size = pooled.abs().mean(1, keepdim=True)
    steepness = (NEARLY * size).clamp_(min=torch.finfo(dtype).tiny).reciprocal_()
    level = 1 - pooled * steepness
    weights = []
    for row in range(window.kernel[0]):
        rows = every(padded, 2, row * window.dilation[0], reach[0], window.stride[0])
        for column in range(window.kernel[1]):
            tap = every(rows, 3, column * window.dilation[1], reach[1], window.stride[1])
            weights.append(torch.addcmul(level, tap, steepness).clamp_(min=0))
    part = torch.stack(weights).sum(0).reciprocal_()
    return torch.cat([weight.mul_(part).mean(1, keepdim=True) for weight in weights], 1)


def every(whole: Tensor, dim: int, start: int, reach: int, stride: int) -> Tensor:
    """View of every ``stride``-th of ``reach`` rows (dim 2) or columns (dim 3) after ``start``."""
    taken = slice(start, start + reach, stride)
    return whole[:, :, taken] if dim == 2 else whole[:, :, :, taken]
