"""Windows of pixels: their overlap with a scene, their transform, their order in a scan."""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

BLOCK = 256
"""Side of a block of labels in pixels."""

_Number = TypeVar("_Number", float, NDArray[np.float64])


def overlap(
    row: int, col: int, height: int, width: int, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Returns the part of a window that lies in a scene.

    Args:
        row: First row of the window in the scene, negative above it.
        col: First column, negative to the left of it.
        height: Rows of the window.
        width: Columns of the window.
        shape: Height and width of the scene.

    Returns:
        Rows and columns of that part in the scene, and in the window; both are empty if the
        window lies outside.
    """
    top, left = min(max(row, 0), shape[0]), min(max(col, 0), shape[1])
    bottom, right = max(top, min(row + height, shape[0])), max(left, min(col + width, shape[1]))
    inside = slice(top, bottom), slice(left, right)
    return inside, (slice(top - row, bottom - row), slice(left - col, right - col))


def rescaled(
    transform: Affine, col: float = 0, row: float = 0, across: float = 1, down: float = 1
) -> Affine:
    """Returns the transform of a window, or of pixels of another size.

    Args:
        transform: From (column, row) to coordinates.
        col: First column of the window.
        row: First row of the window.
        across: Width of a new pixel in old ones.
        down: Height of a new pixel in old ones.
    """
    a, b, _, d, e, _ = transform[:6]
    x, y = coordinates(transform, col, row)
    return Affine(a * across, b * down, x, d * across, e * down, y)


def coordinates(transform: Affine, x: _Number, y: _Number) -> tuple[_Number, _Number]:
    """Applies a transform to a point, or to arrays of points.

    Written out because affine 3 deprecates the operator that affine 2 has.

    Args:
        transform: From (x, y) to other coordinates.
        x: First coordinate.
        y: Second coordinate.
    """
    a, b, c, d, e, f = transform[:6]
    return a * x + b * y + c, d * x + e * y + f


def scan_windows(shape: tuple[int, int], is_striped: bool, pixels: int) -> Iterator[Window]:
    """Yields windows that cover a scene once, in rows from left to right.

    They begin at multiples of ``BLOCK``. If the image is stored row by row, they span its width, so
    that each row is decoded once, up to a width of 32 768 pixels at least; otherwise they hold
    whole tiles of the usual 512 pixels.

    Args:
        shape: Height and width of the scene.
        is_striped: Whether it is stored row by row.
        pixels: About the largest number of pixels of a window.
    """
    height, width = shape
    rows = BLOCK if is_striped else 2 * BLOCK
    blocks = max(1, pixels // (2 * BLOCK) ** 2)
    # rows of an absurdly wide image would not fit into memory
    cols = (max(64, 16 * blocks) if is_striped else blocks) * 2 * BLOCK
    if height * width <= pixels:
        rows, cols = height, width
    for top in range(0, height, rows):
        for left in range(0, width, cols):
            yield Window(left, top, min(cols, width - left), min(rows, height - top))
