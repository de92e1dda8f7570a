"""White areas of an image in which no imagery was recorded."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.imagery.raster import OpenImage
from vbp_lightning.data.imagery.windows import scan_windows

MAX_PIXELS = 64_000_000
"""Pixels of the largest image that is searched, which takes some 500 MB."""

_NEAR_WHITE = 240
"""Lossy compression frays the border of a saturated area down to about this part of 255."""

_WINDOW = 1 << 22
"""Largest number of pixels of a window that is read."""


def white_nodata(bands: NDArray[Any], white_area: int) -> NDArray[np.bool_]:
    """Returns the areas that are white because nothing was recorded there.

    Such an area is a connected (by edges) set of nearly white pixels, at least ``white_area`` of
    them saturated in every band. Small saturated roofs and cars stay valid.

    Args:
        bands: (C, H, W) integers, a whole image; the largest value of their type is white.
        white_area: Least number of saturated pixels; 0 finds nothing.

    Returns:
        (H, W).
    """
    white = int(np.iinfo(bands.dtype).max)
    lowest = bands.min(axis=0)
    saturated = lowest == white
    if white_area == 0 or np.count_nonzero(saturated) < white_area:
        return np.zeros(lowest.shape, dtype=bool)
    areas, count = ndimage.label(lowest >= -(-white * _NEAR_WHITE // 255))
    sizes = np.bincount(areas[saturated], minlength=count + 1)
    nodata: NDArray[np.bool_] = (sizes >= white_area)[areas]
    return nodata


def read_white_nodata(image: OpenImage, white_area: int) -> NDArray[np.bool_]:
    """Reads a whole image in windows and returns its :func:`white_nodata`.

    Raises:
        DataError: The image is damaged.
    """
    lowest = np.empty(image.grid.shape, image.dtype)
    for window in scan_windows(image.grid.shape, image.is_striped, _WINDOW):
        lowest[window.toslices()] = image.read(window)[0].min(axis=0)
    return white_nodata(lowest[None], white_area)


def is_searched(image: OpenImage) -> bool:
    """Whether an image is searched for white areas.

    Images of more than ``MAX_PIXELS`` are not; their files must mark nodata by a mask.

    Raises:
        DataError: The image does not hold integers, or is larger and has no mask.
    """
    if not np.issubdtype(image.dtype, np.integer):
        raise DataError(
            f"{image.path}: white areas are searched in images of integers, and this one is "
            f"{image.dtype}: set data.source.white_area=0, and data.nodata to the value of nodata"
        )
    height, width = image.grid.shape
    if height * width > MAX_PIXELS and not image.has_mask:
        raise DataError(
            f"{image.path}: is {width} × {height} px, and white areas (data.source.white_area) are "
            f"searched in images of up to {MAX_PIXELS // 1_000_000} million pixels ({image.key}): "
            "mark them in the file with GDAL (nearblack -white -setmask -o MARKED.tif IMAGE)"
        )
    return height * width <= MAX_PIXELS
