"""Cloud-Optimised GeoTIFFs, written block by block and renamed when they are complete."""

import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rasterio.windows import Window

from vbp_lightning.data.imagery.extent import PixelGrid
from vbp_lightning.data.imagery.raster import without_place
from vbp_lightning.errors import plain
from vbp_lightning.files import replacing

CACHE = 64 << 20
"""Bytes of GDAL's block cache; its default is 5 % of the machine's memory."""

_TILE = 512

MASK_NODATA = 255
MASK_STEPS = 254
"""A normalised mask is stored as bytes from 0 to 254, which the raster's scale maps to [0, 1]."""


@dataclass(frozen=True)
class Placement:
    """What places a raster that has no transform.

    Args:
        points: Ground control points.
        crs: CRS of their coordinates.
        rpcs: Rational polynomial coefficients.
    """

    points: Sequence[GroundControlPoint] = ()
    crs: CRS | None = None
    rpcs: RPC | None = None

    @property
    def is_known(self) -> bool:
        """Whether anything places the raster."""
        return bool(self.points or self.rpcs)

    def of_cells(self, corner: float, step: int) -> "Placement":
        """The same for cells of ``step`` pixels, the first of which begins at a pixel."""
        points = [
            GroundControlPoint(
                (each.row - corner) / step, (each.col - corner) / step, each.x, each.y, each.z
            )
            for each in self.points
        ]
        rpcs = copy(self.rpcs)
        if rpcs is not None:  # which count from the centre of the first pixel
            for name in ("line", "samp"):
                offset, scale = getattr(rpcs, f"{name}_off"), getattr(rpcs, f"{name}_scale")
                setattr(rpcs, f"{name}_off", (offset + 0.5 - corner) / step - 0.5)
                setattr(rpcs, f"{name}_scale", scale / step)
        return Placement(points, self.crs, rpcs)


NOWHERE = Placement()

WriteWindow = Callable[[int, int, NDArray[np.float32]], None]
"""Writes values (h, w) at a row and a column of the raster; NaN is written as nodata."""


@contextmanager
def writing_cog(
    path: Path,
    grid: PixelGrid,
    description: str,
    tags: Mapping[str, str],
    *,
    as_bytes: bool,
    placement: Placement = NOWHERE,
) -> Iterator[WriteWindow]:
    """Yields a function that writes windows of a Cloud-Optimised GeoTIFF with one band.

    GDAL's COG driver takes whole rasters only. A plain tiled GeoTIFF beside ``path`` is written
    first and converted at the end.

    Args:
        path: The file to write or replace.
        grid: Size and georeference of the raster; the identity is not written.
        description: Description of the band.
        tags: Tags of the file.
        as_bytes: Whether values in [0, 1] are stored as bytes with a scale, nodata being 255;
            otherwise values are stored as float32, nodata being NaN.
        placement: What places a raster without a transform.

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
        "transform": None if grid.transform.is_identity else grid.transform,
        "nodata": MASK_NODATA if as_bytes else np.nan,
        "tiled": True,
        "blockxsize": _TILE,
        "blockysize": _TILE,
        "BIGTIFF": "IF_SAFER",
    }
    with rasterio.Env(GDAL_CACHEMAX=CACHE), without_place(), replacing(path) as temporary:
        plain = temporary.with_name(f"{temporary.stem}.plain.tif")
        written: list[tuple[Window, int]] = []
        try:
            with _gdal_errors():
                dataset = rasterio.open(plain, "w", **options)
            try:
                if placement.points:
                    dataset.gcps = placement.points, placement.crs
                if placement.rpcs:
                    dataset.rpcs = placement.rpcs
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
                    with _gdal_errors():
                        dataset.write(stored, 1, window=window)
                    written.append((window, _checksum(stored)))

                yield write
            finally:
                with _gdal_errors():
                    dataset.close()
            with _gdal_errors():
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
                with rasterio.open(temporary) as dataset:
                    for window, checksum in written:
                        if _checksum(dataset.read(1, window=window)) != checksum:
                            raise OSError("it holds other values than were written")
        finally:
            with suppress(OSError):
                plain.unlink()


def _checksum(values: NDArray[Any]) -> int:
    return zlib.crc32(values.tobytes())


@contextmanager
def _gdal_errors() -> Iterator[None]:
    """Raises an ``OSError`` for each error of the disk that GDAL meets.

    GDAL ignores those that it meets while it closes a raster; libtiff only prints them to standard
    error.
    """
    failure: Exception | None = None
    reading, writing = os.pipe()
    if os.name == "posix":
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
    standard_error = os.dup(2)
    os.dup2(writing, 2)
    try:
        yield
    except OSError as error:
        failure = error
    except CPLE_BaseError as error:  # rasterio.shutil.copy does not convert it
        failure = OSError(str(error))
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)
        os.close(writing)
        with suppress(BlockingIOError), open(reading, "rb") as pipe:
            printed = pipe.read().decode(errors="replace").splitlines()
    reasons = [line for line in printed if line.startswith("_tiff")]
    others = [line for line in printed if not line.startswith("_tiff")]
    if others:
        print(*map(plain, others), sep="\n", file=sys.stderr)
    if reasons:
        raise OSError(reasons[0].partition(": ")[2].rstrip(".")) from failure
    if failure is not None:
        raise failure


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
