"""Windows of pixels: their overlap with a scene, their transform, their order in a scan."""

from collections.abc import Iterator

from affine import Affine
from rasterio.windows import Window


def overlap(
    row: int, col: int, height: int, width: int, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of a window that lies in a scene.

    Args:
        row: First row of the window in the scene, negative above it.
        col: First column, negative to the left of it.
        height: Rows of the window.
        width: Columns of the window.
        shape: Height and width of the scene.

    Returns:
        Rows and columns of that part in the scene, and in the window; both are empty where the
        window lies outside.
    """
    top, left = min(max(row, 0), shape[0]), min(max(col, 0), shape[1])
    bottom, right = max(top, min(row + height, shape[0])), max(left, min(col + width, shape[1]))
    inside = slice(top, bottom), slice(left, right)
    return inside, (slice(top - row, bottom - row), slice(left - col, right - col))


def rescaled(
    transform: Affine, col: float = 0, row: float = 0, across: float = 1, down: float = 1
) -> Affine:
    """The transform of a window, or of larger pixels.

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


def coordinates(transform: Affine, x: float, y: float) -> tuple[float, float]:
    """Where a transform takes a point.

    Spelled out, since affine 3 deprecates the operator that affine 2 has.

    Args:
        transform: From (x, y) to other coordinates.
        x: First coordinate.
        y: Second coordinate.
    """
    a, b, c, d, e, f = transform[:6]
    return a * x + b * y + c, d * x + e * y + f


def scan_windows(shape: tuple[int, int], is_striped: bool, pixels: int) -> Iterator[Window]:
    """Windows that cover a scene once, in rows from left to right, at multiples of ``BLOCK``.

    Those of an image that is stored row by row span its width, so that each row is decoded once;
    others hold whole tiles of the usual 512 pixels.

    Args:
        shape: Height and width of the scene.
        is_striped: Whether it is stored row by row.
        pixels: About how many a window may hold.
    """
    height, width = shape
    rows = BLOCK if is_striped else 2 * BLOCK
    cols = width if is_striped else max(1, pixels // (2 * BLOCK) ** 2) * 2 * BLOCK
    if height * width <= pixels:
        rows, cols = height, width
    for top in range(0, height, rows):
        for left in range(0, width, cols):
            yield Window(left, top, min(cols, width - left), min(rows, height - top))


BLOCK = 256
"""Pixels, side of a block of labels."""
