"""Extents of rasters: size of pixels in metres, metric coordinates, outlines."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.windows import Window

from vbp_lightning.data.imagery.windows import coordinates

_SMALL_DISTORTION = 0.01
"""Up to this relative error, the units of a projection are taken for ground distances."""

_EDGE_POINTS = 16
"""Points per side of an outline, since straight edges bend in another CRS."""


@dataclass(frozen=True)
class PixelGrid:
    """Where the pixels of a raster lie.

    Args:
        height: Rows.
        width: Columns.
        transform: From (column, row) to the coordinates of ``crs``; the identity if the raster is
            not georeferenced.
        crs: The CRS of the raster, or None.
    """

    height: int
    width: int
    transform: Affine
    crs: CRS | None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def window(self) -> Window:
        """The window that is the whole raster."""
        return Window(0, 0, self.width, self.height)

    @property
    def is_georeferenced(self) -> bool:
        """Whether the pixels have a place on the earth; a local or engineering CRS gives none."""
        if self.crs is None or self.transform.is_identity:
            return False
        return bool(self.crs.is_geographic or self.crs.is_projected)


@lru_cache(maxsize=256)
def projection(wkt: str) -> pyproj.CRS:
    """Returns the pyproj CRS of a WKT string; cached, since parsing takes milliseconds."""
    return pyproj.CRS.from_wkt(wkt)


@lru_cache(maxsize=256)
def transformer(source: pyproj.CRS, target: pyproj.CRS) -> pyproj.Transformer:
    """Returns the transformer between two CRSs, x before y in both."""
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


WGS84 = pyproj.CRS.from_epsg(4326)


def longitude_latitude(
    grid: PixelGrid, cols: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns longitudes and latitudes (WGS 84, degrees) of points of a georeferenced raster.

    Args:
        grid: The raster.
        cols: Any shape, pixels from the left edge.
        rows: The same shape, pixels from the upper edge.
    """
    assert grid.crs is not None
    to_degrees = transformer(projection(grid.crs.to_wkt()), WGS84)
    lon, lat = to_degrees.transform(*coordinates(grid.transform, cols, rows))
    return np.asarray(lon), np.asarray(lat)


def ground_sampling_distance(grid: PixelGrid) -> tuple[float, float] | None:
    """Returns width and height of the central pixel on the ground, in metres.

    They are measured on the ellipsoid, so that degrees, feet and projections that stretch
    distances, such as Web Mercator, are handled.

    Args:
        grid: The raster.

    Returns:
        None if the raster is not georeferenced, or lies outside the area of its CRS.
    """
    if not grid.is_georeferenced:
        return None
    col, row = grid.width / 2, grid.height / 2
    lon, lat = longitude_latitude(
        grid, np.array([col, col + 1, col]), np.array([row, row, row + 1])
    )
    geod = pyproj.Geod(ellps="WGS84")
    _, _, distances = geod.inv([lon[0]] * 2, [lat[0]] * 2, lon[1:], lat[1:])
    if not (np.isfinite(distances).all() and min(distances) > 0):
        return None
    return float(distances[0]), float(distances[1])


def metric_projection(grid: PixelGrid) -> tuple[pyproj.CRS, float]:
    """Returns a CRS in which distances around a raster are distances on the ground.

    Args:
        grid: A georeferenced raster.

    Returns:
        The raster's own CRS if its distances are right to 1 % there, else a transverse Mercator
        projection about the raster's centre; and the number of its units in a metre.
    """
    assert grid.crs is not None
    own = projection(grid.crs.to_wkt())
    if own.is_projected:
        unit = own.axis_info[0].unit_conversion_factor
        size = ground_sampling_distance(grid)
        a, b, _, d, e, _ = grid.transform[:6]
        assert size is not None
        pixel = (float(np.hypot(a, d)) * unit, float(np.hypot(b, e)) * unit)
        if all(
            abs(units / metres - 1) < _SMALL_DISTORTION
            for units, metres in zip(pixel, size, strict=True)
        ):
            return own, 1 / unit
    lon, lat = longitude_latitude(grid, np.array([grid.width / 2]), np.array([grid.height / 2]))
    local = f"+proj=tmerc +lat_0={lat[0]:.9f} +lon_0={lon[0]:.9f} +k=1 +datum=WGS84 +units=m"
    return pyproj.CRS.from_proj4(f"{local} +type=crs"), 1.0


def edge_points(
    row: float, col: float, height: float, width: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns columns and rows of points along the edges of a window, clockwise.

    Args:
        row: First row of the window.
        col: First column of the window.
        height: Rows of the window.
        width: Columns of the window.
    """
    steps = np.linspace(0, 1, _EDGE_POINTS, endpoint=False)
    low, high = np.zeros(_EDGE_POINTS), np.ones(_EDGE_POINTS)
    cols = col + width * np.concatenate([steps, high, 1 - steps, low])
    rows = row + height * np.concatenate([low, steps, high, 1 - steps])
    return cols, rows


def footprint(grid: PixelGrid, inset: float = 0) -> shapely.Polygon:
    """Returns the outline of a raster in degrees (WGS 84).

    Args:
        grid: A georeferenced raster.
        inset: Pixels that each side is moved inwards.
    """
    points = edge_points(inset, inset, grid.height - 2 * inset, grid.width - 2 * inset)
    return shapely.Polygon(np.stack(longitude_latitude(grid, *points), axis=1))


def largest_shift(first: PixelGrid, second: PixelGrid) -> float:
    """Returns the largest distance between corners of two rasters, in pixels of the first.

    Args:
        first: A raster.
        second: Another one of the same CRS and size.
    """
    cols = np.array([0.0, first.width, 0, first.width])
    rows = np.array([0.0, 0, first.height, first.height])
    moved = coordinates(~first.transform, *coordinates(second.transform, cols, rows))
    return float(np.abs(np.stack(moved) - np.stack([cols, rows])).max())
