"""Maps as Cloud-Optimised GeoTIFFs, written block by block and renamed when they are whole."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.windows import Window

from vbp_lightning.data.imagery.raster import without_place
from vbp_lightning.files import replacing

CACHE = 64 << 20
"""Bytes of GDAL's block cache; its default is 5 % of the machine's memory."""

_TILE = 512

MASK_NODATA = 255
MASK_STEPS = 254
"""A normalised mask is stored as bytes of 0 to 254, read as 0 to 1 by the raster's scale."""


@dataclass(frozen=True)
class RasterPlan:
    """A raster to write.

    Args:
        shape: Height and width.
        transform: From (column, row) to the coordinates of ``crs``.
        crs: Of the scene, or None.
        dtype: ``float32``, NaN being nodata, or ``uint8`` for a normalised mask.
        description: Of the only band.
        tags: Of the file.
        resampling: Of the overviews.
    """

    shape: tuple[int, int]
    transform: Affine
    crs: CRS | None
    dtype: str
    description: str
    tags: Mapping[str, str]
    resampling: Resampling = Resampling.average


class RasterWriter:
    """A raster that is open for writing windows."""

    def __init__(self, dataset: Any, dtype: str) -> None:  # noqa: ANN401
        self._dataset = dataset
        self._dtype = dtype

    def write(self, row: int, col: int, values: NDArray[np.float32]) -> None:
        """Writes a window.

        Args:
            row: First row.
            col: First column.
            values: (h, w), NaN where there are none; of a ``uint8`` raster in [0, 1].
        """
        if not values.size:
            return
        stored: NDArray[Any] = values
        if self._dtype == "uint8":
            steps = np.rint(np.nan_to_num(values) * MASK_STEPS)
            stored = np.where(np.isnan(values), MASK_NODATA, steps).astype(np.uint8)
        window = Window(col, row, values.shape[1], values.shape[0])
        self._dataset.write(stored, 1, window=window)


@contextmanager
def writing_cog(path: Path, plan: RasterPlan) -> Iterator[RasterWriter]:
    """Yields a writer; what it wrote becomes a Cloud-Optimised GeoTIFF at ``path``.

    GDAL's COG driver takes a whole raster, not windows: a plain tiled GeoTIFF beside it is
    written first and then converted.

    Args:
        path: The file to write or replace.
        plan: What to write.

    Raises:
        OSError: The file cannot be written.
    """
    is_bytes = plan.dtype == "uint8"
    options = {
        "driver": "GTiff",
        "height": plan.shape[0],
        "width": plan.shape[1],
        "count": 1,
        "dtype": plan.dtype,
        "crs": plan.crs,
        "transform": plan.transform,
        "nodata": MASK_NODATA if is_bytes else np.nan,
        "tiled": True,
        "blockxsize": _TILE,
        "blockysize": _TILE,
        "BIGTIFF": "IF_SAFER",
    }
    with rasterio.Env(GDAL_CACHEMAX=CACHE), without_place(), replacing(path) as temporary:
        plain = temporary.with_name(f"{temporary.stem}.plain.tif")
        try:
            with rasterio.open(plain, "w", **options) as dataset:
                dataset.update_tags(**plan.tags)
                dataset.set_band_description(1, plan.description)
                if is_bytes:
                    dataset.scales = (1 / MASK_STEPS,)
                yield RasterWriter(dataset, plan.dtype)
            rasterio.shutil.copy(
                plain,
                temporary,
                driver="COG",
                COMPRESS="DEFLATE",
                PREDICTOR="YES",
                BLOCKSIZE=_TILE,
                OVERVIEW_RESAMPLING=plan.resampling.name.upper(),
                BIGTIFF="IF_SAFER",
            )
        finally:
            plain.unlink(missing_ok=True)


def tags_of(path: Path) -> dict[str, str]:
    """The tags of a raster; none where there is no such file or it cannot be read."""
    if not path.exists():  # GDAL would log an error
        return {}
    try:
        with without_place(), rasterio.open(path) as dataset:
            tags: dict[str, str] = dataset.tags()
            return tags
    except rasterio.errors.RasterioIOError:
        return {}
