"""From pixels to the ground: sizes in metres, metric coordinates, footprints."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from vbp_lightning.data.imagery.windows import coordinates

_SMALL_DISTORTION = 0.01
"""Up to here a projection's own units are taken for ground distances."""

_EDGE_POINTS = 8
"""Points a side of a footprint, since straight edges bend in another CRS."""


@dataclass(frozen=True)
class PixelGrid:
    """Where the pixels of a raster lie.

    Args:
        height: Rows.
        width: Columns.
        transform: From (column, row) to the coordinates of ``crs``; the identity where the raster
            is not georeferenced.
        crs: Of the raster, or None.
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
    def is_georeferenced(self) -> bool:
        """Whether pixels have a place on the earth: a local or engineering CRS gives none."""
        if self.crs is None or self.transform.is_identity:
            return False
        return bool(self.crs.is_geographic or self.crs.is_projected)


@lru_cache(maxsize=256)
def projection(wkt: str) -> pyproj.CRS:
    """A CRS for pyproj; parsing takes milliseconds, and a data set has few of them."""
    return pyproj.CRS.from_wkt(wkt)


@lru_cache(maxsize=256)
def transformer(source: pyproj.CRS, target: pyproj.CRS) -> pyproj.Transformer:
    """Between two CRSs, x before y in both."""
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


_LONGITUDE_LATITUDE = pyproj.CRS.from_epsg(4326)


def longitude_latitude(
    grid: PixelGrid, cols: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Degrees (WGS 84) of points of a georeferenced raster.

    Args:
        grid: The raster's.
        cols: Any shape, pixels from the left edge.
        rows: The same shape, pixels from the upper edge.
    """
    assert grid.crs is not None
    a, b, c, d, e, f = grid.transform[:6]
    to_degrees = transformer(projection(grid.crs.to_wkt()), _LONGITUDE_LATITUDE)
    lon, lat = to_degrees.transform(a * cols + b * rows + c, d * cols + e * rows + f)
    return np.asarray(lon), np.asarray(lat)


def ground_sampling_distance(grid: PixelGrid) -> tuple[float, float] | None:
    """Width and height of the central pixel on the ground, in metres.

    Measured along the ellipsoid, so that degrees, feet and stretched projections such as Web
    Mercator come out right.

    Args:
        grid: The raster's.

    Returns:
        None where the raster is not georeferenced, or lies beyond what its CRS describes.
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
    """A CRS in which distances around a raster are ground distances.

    Args:
        grid: Of a georeferenced raster.

    Returns:
        The raster's own CRS where its units stretch the ground by less than 1 % there, else a
        transverse Mercator projection about the raster's centre; and the units of it in a metre.
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
    local = f"+proj=tmerc +lat_0={lat[0]:.9f} +lon_0={lon[0]:.9f} +k=1 +ellps=WGS84 +units=m"
    return pyproj.CRS.from_proj4(f"{local} +type=crs"), 1.0


def footprint(
    grid: PixelGrid,
    row: float = 0,
    col: float = 0,
    height: float | None = None,
    width: float | None = None,
) -> shapely.Polygon:
    """The outline of a raster, or of a window of it, in degrees (WGS 84).

    Args:
        grid: Of a georeferenced raster.
        row: First row of the window.
        col: First column of the window.
        height: Of the window, pixels; None for all.
        width: Of the window, pixels; None for all.
    """
    bottom = grid.height if height is None else row + height
    right = grid.width if width is None else col + width
    steps = np.linspace(0, 1, _EDGE_POINTS, endpoint=False)
    across, down = col + steps * (right - col), row + steps * (bottom - row)
    cols = np.concatenate(
        [across, np.full(_EDGE_POINTS, right), (right + col) - across, np.full(_EDGE_POINTS, col)]
    )
    rows = np.concatenate(
        [np.full(_EDGE_POINTS, row), down, np.full(_EDGE_POINTS, bottom), (bottom + row) - down]
    )
    return shapely.Polygon(np.stack(longitude_latitude(grid, cols, rows), axis=1))


def largest_shift(first: PixelGrid, second: PixelGrid) -> float:
    """How far the corners of two rasters of one CRS and size lie apart, in pixels of the first."""
    shift = 0.0
    for corner in ((0, 0), (first.width, 0), (0, first.height), (first.width, first.height)):
        col, row = coordinates(~first.transform, *coordinates(second.transform, *corner))
        shift = max(shift, abs(col - corner[0]), abs(row - corner[1]))
    return shift
