"""White areas of a scene where no imagery was recorded."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_NEAR_WHITE = 240
"""Lossy compression frays the border of a saturated area down to about this value."""


def missing_white(bands: NDArray[Any], white_area: int) -> NDArray[np.bool_]:
    """Areas of an 8-bit scene that are white because nothing was recorded there.

    Such an area is a connected (by edges) set of nearly white pixels, at least ``white_area`` of
    them saturated in every band. Small saturated roofs and cars stay valid.

    Args:
        bands: (C, H, W) uint8.
        white_area: Least number of saturated pixels; 0 finds nothing.

    Returns:
        (H, W).
    """
    lowest = bands.min(axis=0)
    if white_area == 0 or np.count_nonzero(lowest == 255) < white_area:
        return np.zeros(lowest.shape, dtype=bool)
    areas, _ = ndimage.label(lowest >= _NEAR_WHITE)
    saturated = np.bincount(areas[lowest == 255], minlength=areas.max() + 1)
    missing: NDArray[np.bool_] = (saturated >= white_area)[areas]
    return missing
