"""Geometry of convolutions and poolings, as the backward pass of the mask needs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
    """One layer between two recorded maps.

    Args:
        window: Its geometry.
        shares: For a max pooling whose maxima were recorded, the share of channels whose maximum
            came from each tap, ``(N, kernel rows · kernel columns, h, w)`` with ``(h, w)`` the size
            of its output; the shares of a window sum to one. None for every other layer.
    """

    window: Window
    shares: Tensor | None = None


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


def both(values: int | str | Sequence[int] | None) -> Pair:
    """A (vertical, horizontal) pair from one number or two, as PyTorch layers accept them.

    Raises:
        TypeError: ``values`` is text or None.
    """
    if isinstance(values, int):
        return values, values
    if values is None or isinstance(values, str):
        raise TypeError(f"a window takes numbers, not {values!r}")
    return values[0], values[-1]


def size_of(features: Tensor) -> Pair:
    """Height and width of feature maps ``(…, H, W)``."""
    return features.shape[-2], features.shape[-1]


def window_between(
    below: Tensor,
    above: Tensor,
    kernel: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | str | Sequence[int],
    dilation: int | Sequence[int],
) -> Window:
    """The window of a layer with input ``below`` and output ``above``, both ``(N, C, H, W)``."""
    return Window(
        both(kernel), both(stride), both(padding), both(dilation), size_of(below), size_of(above)
    )
