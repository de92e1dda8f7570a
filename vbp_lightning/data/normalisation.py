"""Mean and standard deviation of each band."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROWS = 64
"""Rows converted to float64 at a time: whole large scenes would need eight times their size."""


def band_statistics(
    scenes: Iterable[tuple[NDArray[Any], NDArray[np.bool_]]],
) -> tuple[list[float], list[float]]:
    """Mean and population standard deviation of each band over all valid pixels.

    Streams through the scenes and combines the parts by Chan, Golub and LeVeque (1979), which
    does not cancel as the difference of sums of squares does.

    Args:
        scenes: Bands (C, H, W) and valid pixels (H, W) of each scene.

    Returns:
        Means and standard deviations, one a band, in the units of the scenes.

    Raises:
        ValueError: There is no valid pixel.
    """
    count = 0
    mean: NDArray[np.float64] = np.zeros(0)
    squares: NDArray[np.float64] = np.zeros(0)
    for bands, valid in scenes:
        for top in range(0, bands.shape[1], _ROWS):
            part, seen = bands[:, top : top + _ROWS], valid[top : top + _ROWS]
            pixels = (part.reshape(len(part), -1) if seen.all() else part[:, seen]).astype(float)
            added = pixels.shape[1]
            if added == 0:
                continue
            part_mean = pixels.mean(axis=1)
            pixels -= part_mean[:, None]
            part_squares = np.einsum("bp,bp->b", pixels, pixels)
            if count == 0:
                count, mean, squares = added, part_mean, part_squares
                continue
            total = count + added
            delta = part_mean - mean
            squares = squares + part_squares + delta**2 * (count * added / total)
            mean = mean + delta * (added / total)
            count = total
    if count == 0:
        raise ValueError("no valid pixel to measure")
    return mean.tolist(), np.sqrt(squares / count).tolist()
