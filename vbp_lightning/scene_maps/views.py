"""Scenes and their maps, reduced to the size of a picture."""

from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling

from vbp_lightning.data.imagery.raster import readable, without_place
from vbp_lightning.scene_maps.geotiff import CACHE, MASK_NODATA, MASK_STEPS
from vbp_lightning.scene_maps.scene_job import PERCENT, SceneJob, stretched

_ROWS = 512


def reduction(shape: tuple[int, int], longest: int) -> int:
    """The integer factor that reduces a scene so that no side exceeds ``longest`` pixels."""
    return max(1, -(-max(shape) // longest))


def reduced_image(job: SceneJob, factor: int) -> NDArray[np.float32]:
    """The bands (C, h, w) of a scene, each value the mean of ``factor`` × ``factor`` pixels.

    Nodata pixels and pixels beyond the scene count with their fill values.

    Args:
        job: The job of the scene.
        factor: Positive integer.
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
    """The values (rows, cols) of a probability raster, NaN for cells without a value.

    Raises:
        DataError: The file is damaged.
    """
    with readable(path, "output"), without_place(), rasterio.open(path) as dataset:
        values: NDArray[np.float32] = dataset.read(1)
        return values


def reduced_mask(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    """A raster of a VisualBackProp mask, resampled to another size and scaled to [0, 1].

    Args:
        path: The raster; unscaled values are scaled from their smallest value and 99.5th
            percentile.
        shape: Height and width of the result.

    Returns:
        (h, w), NaN at nodata pixels.
    """
    with (
        readable(path, "output"),
        rasterio.Env(GDAL_CACHEMAX=CACHE),
        without_place(),
        rasterio.open(path) as dataset,
    ):
        values = dataset.read(1, out_shape=shape, resampling=Resampling.average)
        is_bytes = dataset.dtypes[0] == "uint8"
    if is_bytes:
        mask: NDArray[np.float32] = values.astype(np.float32) / MASK_STEPS
        mask[values == MASK_NODATA] = np.nan
        return mask
    seen = values[np.isfinite(values)]
    low, high = np.percentile(seen, (0, PERCENT)) if seen.size else (0.0, 1.0)
    return stretched(values, low, high)
