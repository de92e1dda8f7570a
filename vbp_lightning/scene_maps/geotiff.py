"""Cloud-Optimised GeoTIFFs, written block by block and renamed when they are complete."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window

from vbp_lightning.data.imagery.extent import PixelGrid
from vbp_lightning.data.imagery.raster import without_place
from vbp_lightning.files import replacing

CACHE = 64 << 20
"""Bytes of GDAL's block cache; its default is 5 % of the machine's memory."""

_TILE = 512

MASK_NODATA = 255
MASK_STEPS = 254
"""A normalised mask is stored as bytes from 0 to 254, which the raster's scale maps to [0, 1]."""


WriteWindow = Callable[[int, int, NDArray[np.float32]], None]
"""Writes values (h, w) at a row and a column of the raster; NaN is written as nodata."""


@contextmanager
def writing_cog(
    path: Path, grid: PixelGrid, description: str, tags: Mapping[str, str], *, as_bytes: bool
) -> Iterator[WriteWindow]:
    """Yields a function that writes windows of a Cloud-Optimised GeoTIFF with one band.

    GDAL's COG driver takes whole rasters only. A plain tiled GeoTIFF beside ``path`` is written
    first and converted at the end.

    Args:
        path: The file to write or replace.
        grid: Size and georeference of the raster.
        description: Description of the band.
        tags: Tags of the file.
        as_bytes: Whether values in [0, 1] are stored as bytes with a scale, nodata being 255;
            otherwise values are stored as float32, nodata being NaN.

    Raises:
        OSError: The file cannot be written.
    """
    options = {
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "count": 1,
        "dtype": "uint8" if as_bytes else "float32",
        "crs": grid.crs,
        "transform": grid.transform,
        "nodata": MASK_NODATA if as_bytes else np.nan,
        "tiled": True,
        "blockxsize": _TILE,
        "blockysize": _TILE,
        "BIGTIFF": "IF_SAFER",
    }
    with rasterio.Env(GDAL_CACHEMAX=CACHE), without_place(), replacing(path) as temporary:
        plain = temporary.with_name(f"{temporary.stem}.plain.tif")
        try:
            with rasterio.open(plain, "w", **options) as dataset:
                dataset.update_tags(**tags)
                dataset.set_band_description(1, description)
                if as_bytes:
                    dataset.scales = (1 / MASK_STEPS,)

                def write(row: int, col: int, values: NDArray[np.float32]) -> None:
                    if not values.size:
                        return
                    stored: NDArray[Any] = values
                    if as_bytes:
                        steps = np.rint(np.nan_to_num(values) * MASK_STEPS)
                        stored = np.where(np.isnan(values), MASK_NODATA, steps).astype(np.uint8)
                    window = Window(col, row, values.shape[1], values.shape[0])
                    dataset.write(stored, 1, window=window)

                yield write
            rasterio.shutil.copy(
                plain,
                temporary,
                driver="COG",
                COMPRESS="DEFLATE",
                PREDICTOR="YES",
                BLOCKSIZE=_TILE,
                OVERVIEW_RESAMPLING="AVERAGE",
                BIGTIFF="IF_SAFER",
            )
        finally:
            plain.unlink(missing_ok=True)


def tags_of(path: Path) -> dict[str, str]:
    """The tags of a raster; empty if the file is missing or cannot be read."""
    if not path.exists():  # GDAL would log an error.
        return {}
    try:
        with without_place(), rasterio.open(path) as dataset:
            tags: dict[str, str] = dataset.tags()
            return tags
    except rasterio.errors.RasterioIOError:
        return {}
