"""Scenes and maps at the size of a picture."""

from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling

from vbp_lightning.data.imagery.raster import without_place
from vbp_lightning.scene_maps.geotiff import CACHE, MASK_NODATA, MASK_STEPS
from vbp_lightning.scene_maps.scene_job import PERCENT, SceneJob, stretched

_ROWS = 512


def reduction(shape: tuple[int, int], longest: int) -> int:
    """By which whole number a scene is reduced so that no side exceeds ``longest`` pixels."""
    return max(1, -(-max(shape) // longest))


def reduced_image(job: SceneJob, factor: int) -> NDArray[np.float32]:
    """The bands (C, h, w) of a scene, each value the mean of ``factor`` × ``factor`` pixels.

    Pixels beyond the scene or without imagery count as what gaps are filled with.

    Args:
        job: Of the scene.
        factor: Whole number.
    """
    height, width = (-(-size // factor) for size in job.grid.shape)
    rows = max(1, _ROWS // factor)
    small = np.empty((len(job.settings.fill), height, width), np.float32)
    with job.opened() as read:
        for row in range(0, height, rows):
            count = min(rows, height - row)
            bands, _ = read(row * factor, 0, count * factor, width * factor)
            parts = bands.reshape(len(small), count, factor, width, factor)
            small[:, row : row + count] = parts.mean(axis=(2, 4))
    return small


def probabilities_of(path: Path) -> NDArray[np.float32]:
    """The values of a probability raster, NaN where there are none."""
    with without_place(), rasterio.open(path) as dataset:
        values: NDArray[np.float32] = dataset.read(1)
        return values


def reduced_mask(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    """A mask raster at another size, (h, w), NaN where there is none; raw ones come to [0, 1].

    Args:
        path: Of the raster.
        shape: Height and width wanted.
    """
    with rasterio.Env(GDAL_CACHEMAX=CACHE), without_place(), rasterio.open(path) as dataset:
        values = dataset.read(1, out_shape=shape, resampling=Resampling.average)
        is_bytes = dataset.dtypes[0] == "uint8"
    if is_bytes:
        mask: NDArray[np.float32] = values.astype(np.float32) / MASK_STEPS
        mask[values == MASK_NODATA] = np.nan
        return mask
    seen = values[np.isfinite(values)]
    low, high = np.percentile(seen, (0, PERCENT)) if seen.size else (0.0, 1.0)
    return stretched(values, low, high)
