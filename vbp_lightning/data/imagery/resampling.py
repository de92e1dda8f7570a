"""Resampling of images to another grid: nodata pixels stay nodata and have no weight."""

from collections.abc import Callable
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from vbp_lightning.data.imagery.extent import (
    PixelGrid,
    centre_x,
    edge_points,
    for_warp,
    nearest_turn,
    projection,
    transformer,
)
from vbp_lightning.data.imagery.windows import coordinates, rescaled

Read = Callable[[Window], tuple[NDArray[Any], NDArray[np.bool_]]]
"""Reads a window of the image as it is stored: bands (C, h, w) and valid pixels (h, w)."""

TOLERANCE = 1e-6
"""Largest error of a warp in pixels. By default GDAL interpolates transformations to an eighth of a
pixel, differently for each window; rasterio cannot pass on 0."""

_ANY_CRS = CRS.from_epsg(3857)
"""For images without a CRS: only the transforms matter if both sides have the same CRS."""


def read_resampled(
    read: Read,
    source: PixelGrid,
    target: PixelGrid,
    window: Window,
    method: Resampling,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Reads a window of an image on another grid.

    Invalid pixels become NaN before GDAL weighs the pixels. GDAL cannot warp the file itself to the
    same result: it knows neither a second nodata value beside a mask, nor one that invalidates all
    bands, nor an alpha band that is read as imagery.

    Args:
        read: Reads windows of the stored image.
        source: Grid of the stored image.
        target: Grid of the result.
        window: Part of the target.
        method: GDAL's resampling.

    Returns:
        Bands (C, h, w) of the stored type and valid pixels (h, w); invalid pixels hold 0.
    """
    shape = int(window.height), int(window.width)
    across, down = _scale(source, target)
    reach = ceil(2 * max(1.0, across, down)) + 2
    place = _source_window(source, target, window, reach)
    pixels, valid = read(place)
    wide = np.float64 if pixels.dtype.itemsize > 2 and pixels.dtype != np.float32 else np.float32
    own, to = for_warp(source), for_warp(target, True)
    known = np.where(valid, pixels, np.array(np.nan, wide))
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            count=len(known),
            height=known.shape[1],
            width=known.shape[2],
            dtype=wide,
            nodata=np.nan,
            crs=own.crs or _ANY_CRS,
            transform=rescaled(own.transform, place.col_off, place.row_off),
        ) as written:
            written.write(known)
        with (
            memory.open() as stored,
            WarpedVRT(
                stored,
                src_crs=own.crs or _ANY_CRS,  # GeoTIFFs do not hold its extension
                crs=to.crs or _ANY_CRS,
                transform=rescaled(to.transform, window.col_off, window.row_off),
                width=shape[1],
                height=shape[0],
                nodata=np.nan,
                resampling=method,
                tolerance=TOLERANCE,
                # else GDAL takes the widths of kernels from the sizes of the two windows
                XSCALE=f"{1 / across:.12g}",
                YSCALE=f"{1 / down:.12g}",
            ) as warped,
        ):
            result = warped.read()
    seen = np.isfinite(result).all(axis=0)
    result[:, ~seen] = 0
    if np.issubdtype(pixels.dtype, np.integer):
        np.rint(result, out=result)
    bands = np.empty((*shape, len(pixels)), pixels.dtype).transpose(2, 0, 1)
    bands[...] = result
    return bands, seen


def _source_window(source: PixelGrid, target: PixelGrid, window: Window, reach: int) -> Window:
    """The part of the source under a window of the target, widened by ``reach`` pixels."""
    edges = edge_points(window.row_off, window.col_off, window.height, window.width)
    across, down = _places_in_source(source, target, *edges)
    left, right = _clipped(across, reach, source.width)
    top, bottom = _clipped(down, reach, source.height)
    return Window(left, top, right - left, bottom - top)


def _clipped(values: NDArray[np.float64], reach: int, length: int) -> tuple[int, int]:
    """First and past-the-end pixels, at least one, inside an axis."""
    first = min(max(floor(float(values.min())) - reach, 0), length - 1)
    last = min(max(ceil(float(values.max())) + reach, first + 1), length)
    return first, last


def _scale(source: PixelGrid, target: PixelGrid) -> tuple[float, float]:
    """About how many source pixels a target pixel at the centre spans along each axis."""
    cols, rows = target.width / 2 + np.array([0, 1, 0]), target.height / 2 + np.array([0, 0, 1])
    across, down = _places_in_source(source, target, cols, rows)
    return float(np.ptp(across)), float(np.ptp(down))


def _places_in_source(
    source: PixelGrid,
    target: PixelGrid,
    cols: NDArray[np.float64],
    rows: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns and rows in the source of points of the target."""
    xs, ys = coordinates(target.transform, cols, rows)
    if source.crs is not None and target.crs is not None and source.crs != target.crs:
        own = projection(source.crs.to_wkt())
        xs, ys = transformer(projection(target.crs.to_wkt()), own).transform(xs, ys)
        xs = nearest_turn(xs, own, centre_x(source))
    return coordinates(~source.transform, xs, ys)
