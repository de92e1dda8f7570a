"""Extents of rasters: size of pixels in metres, metric coordinates, outlines, places on the earth.

Longitudes jump by a turn at the antimeridian, and a pole has every longitude. What is compared or
drawn is therefore compared in space (:class:`Ball`), or in coordinates that are continuous around
the scene (:func:`projected`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
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

_EARTH = 6.35e6
"""Metres, less than any radius of the earth."""

_CYLINDRICAL = ("Mercator", "Equidistant Cylindrical", "Plate Carree", "Cylindrical Equal Area")
"""Projections that repeat themselves along x, by words of their names."""

_LONGEST_EDGE = 256
"""Pixels; longer edges are divided, since straight edges are curved in another CRS."""

_WEB_MERCATOR = 3857

_ABOUT_180 = (
    "+proj=merc +a=6378137 +b=6378137 +lat_ts=0 +lon_0=180 +x_0=0 +y_0=0 +k=1 +units=m "
    "+nadgrids=@null +wktext +no_defs"
)
"""Web Mercator whose ends lie at longitude 0."""

_TORN_POINTS = 512
"""Points of the outline of a polygon across the antimeridian or a pole."""

_POLAR = 80
"""Degrees of latitude from which the outlines of polygons get more points."""

Points = NDArray[np.float64]
"""(N, 2), x before y."""


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


def mover(source: pyproj.CRS, target: pyproj.CRS) -> Callable[[Points], Points]:
    """Returns a function that transforms points between two CRSs."""
    change = transformer(source, target)
    return lambda points: np.stack(change.transform(*points.T), axis=1)


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
        The raster's own CRS if its distances are right to 1 % there and it does not end beside the
        raster, else a transverse Mercator projection about the raster's centre; and the number of
        its units in a metre.
    """
    assert grid.crs is not None
    own = projection(grid.crs.to_wkt())
    if own.is_projected and not _is_at_end(grid, own):
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


def _is_at_end(grid: PixelGrid, crs: pyproj.CRS) -> bool:
    """Whether a raster lies where its CRS, which repeats itself along x, begins again."""
    period = turn(crs)
    if period is None:
        return False
    xs, _ = coordinates(grid.transform, *edge_points(0, 0, grid.height, grid.width))
    return bool(np.abs(xs).max() > 0.49 * period)


@lru_cache(maxsize=256)
def turn(crs: pyproj.CRS) -> float | None:
    """Returns the distance along x after which a CRS repeats itself; None if it does not.

    That is 360 in degrees, and the circumference of the earth in Mercator's projection.
    """
    if crs.is_geographic:
        return float(round(2 * np.pi / crs.axis_info[0].unit_conversion_factor, 6))
    operation = crs.coordinate_operation
    method = "" if operation is None else operation.method_name
    if "Transverse" in method or "Oblique" in method or not any(n in method for n in _CYLINDRICAL):
        return None
    x, _ = transformer(WGS84, crs).transform([10.0, 11.0, 12.0], [0.0, 0.0, 0.0])
    step = float(np.abs(np.diff(x)).min())
    return 360 * step if np.isfinite(step) and step > 0 else None


def centre_x(grid: PixelGrid) -> float:
    """Returns the x coordinate of the centre of a raster."""
    return coordinates(grid.transform, grid.width / 2, grid.height / 2)[0]


def nearest_turn(x: NDArray[np.float64], crs: pyproj.CRS, centre: float) -> NDArray[np.float64]:
    """Returns x coordinates within half a turn of a centre: longitude -170 is 190 beside 180.

    Args:
        x: Any shape.
        crs: Their CRS; if it does not repeat itself, they are returned unchanged.
        centre: An x coordinate.
    """
    period = turn(crs)
    return x if period is None else x - period * np.round((x - centre) / period)


def beside(grid: PixelGrid, other: PixelGrid) -> PixelGrid:
    """Returns a raster with x coordinates next to those of another one of the same CRS.

    A CRS that repeats itself has several for each place, such as the longitudes -170 and 190.
    """
    if grid.crs is None or grid.crs != other.crs:
        return grid
    x = np.array([centre_x(grid)])
    shift = float((nearest_turn(x, projection(grid.crs.to_wkt()), centre_x(other)) - x)[0])
    a, b, c, d, e, f = grid.transform[:6]
    return replace(grid, transform=Affine(a, b, c + shift, d, e, f)) if shift else grid


def for_warp(grid: PixelGrid, is_target: bool = False) -> PixelGrid:
    """Returns a raster as GDAL can warp it.

    GDAL gives longitudes from -180 to 180. For a raster beyond them the CRS says, in an extension
    of GDAL, which longitude they are to be next to.

    Args:
        grid: The raster.
        is_target: Whether it is warped to, and not from.

    Raises:
        ValueError: The raster to warp lies across the end of its projection.
    """
    if grid.crs is None or not grid.is_georeferenced:
        return grid
    period = turn(projection(grid.crs.to_wkt()))
    xs, _ = coordinates(grid.transform, *edge_points(0, 0, grid.height, grid.width))
    if period is None or np.abs(xs).max() <= 0.5000001 * period:
        return grid
    a, b, c, d, e, f = grid.transform[:6]
    if not grid.crs.is_geographic:
        if is_target:
            return grid
        if grid.crs.to_epsg() != _WEB_MERCATOR:
            raise ValueError("it lies across the end of its projection: convert it with gdalwarp")
        half = float(np.copysign(period / 2, centre_x(grid)))
        moved = Affine(a, b, c - half, d, e, f)
        return replace(grid, transform=moved, crs=CRS.from_proj4(_ABOUT_180))
    shift = -period * np.floor(centre_x(grid) / period)  # the extension takes no negative number
    centre = (centre_x(grid) + shift) * 360 / period
    text = grid.crs.to_wkt(version="WKT1_GDAL")
    crs = CRS.from_wkt(f'{text[:-1]},EXTENSION["CENTER_LONG","{centre:.9f}"]]')
    return replace(grid, transform=Affine(a, b, float(c + shift), d, e, f), crs=crs)


def projected(
    shapes: NDArray[np.object_],
    move: Callable[[Points], Points],
    target: pyproj.CRS,
    centre: float = 0.0,
) -> NDArray[np.object_]:
    """Returns polygons in another CRS; where that repeats itself, they are cut at its ends.

    A polygon across the antimeridian is cut there, one that holds a pole is continued to the pole,
    as RFC 7946 (section 3.1.9) demands of GeoJSON.

    Args:
        shapes: (N,) polygons.
        move: Transforms points to the target.
        target: A CRS; polygons are at most half a turn of it wide, unless they hold a pole.
        centre: An x coordinate of the target, from which all x are within half a turn; 0 cuts
            degrees at the antimeridian.

    Returns:
        (N,) polygons or multipolygons.
    """
    period = turn(target)

    def wrapped(points: Points) -> Points:
        x, y = move(points).T
        return np.stack([nearest_turn(x, target, centre), y], axis=1)

    moved: NDArray[np.object_] = shapely.transform(shapes, wrapped)
    if period is None or not len(moved):
        return moved
    west, south, east, north = shapely.bounds(moved).T
    torn = east - west > period / 2
    if target.is_geographic:  # straight edges are far from straight beside a pole
        torn |= np.maximum(north, -south) > _POLAR * period / 360
    for number in np.flatnonzero(torn).tolist():
        moved[number] = _cut_at_ends(shapes[number], wrapped, period, centre, target)
    return moved


def _cut_at_ends(
    shape: shapely.Geometry,
    move: Callable[[Points], Points],
    period: float,
    centre: float,
    target: pyproj.CRS,
) -> shapely.Geometry:
    """A polygon that is torn by ``move``, in parts within half a turn of the centre."""
    # Longitudes would be undefined where an edge leads through a pole: move it by next to nothing.
    offset = np.array([1e-7, 3e-8]) * shape.length
    shape = shapely.transform(
        shapely.segmentize(shape, shape.length / _TORN_POINTS), lambda xy: xy + offset
    )
    pole = period / 4 if target.is_geographic else 4 * period
    band = (centre - period / 2, -2 * pole, centre + period / 2, 2 * pole)

    def whole(ring: shapely.LinearRing) -> shapely.Geometry:
        x, y = move(shapely.get_coordinates(ring)).T
        x = np.unwrap(x, period=period)
        lead = x[-1] - x[0]
        if abs(lead) > period / 2:  # the ring leads around a pole, and three times across the map
            top = np.copysign(pole, y.mean())
            x = np.concatenate([x - lead, x, x + lead])
            x, y = np.append(x, [x[-1], x[0]]), np.append(np.tile(y, 3), [top, top])
            turns = [0.0]
        else:
            turns = [-period, 0.0, period]
        polygon = shapely.make_valid(shapely.Polygon(np.stack([x, y], axis=1)))
        parts = [shapely.transform(polygon, lambda xy, n=n: xy + np.array([n, 0])) for n in turns]
        return shapely.union_all(shapely.clip_by_rect(parts, *band))

    parts = []
    for part in shapely.get_parts(shape):
        holes = shapely.union_all([whole(ring) for ring in part.interiors])
        parts.append(shapely.difference(whole(part.exterior), holes))
    areas = [part for part in shapely.get_parts(shapely.union_all(parts)) if part.area > 0]
    return shapely.union_all(areas)


@dataclass(frozen=True, eq=False)
class Ball:
    """Balls around things on the earth, in units of its radius from its centre.

    Args:
        centre: (..., 3).
        radius: (...).
    """

    centre: NDArray[np.float64]
    radius: NDArray[np.float64]

    def touches(self, other: "Ball", metres: float = 0) -> NDArray[np.bool_]:
        """Whether balls touch, or come closer than some metres on the ground."""
        distance = np.linalg.norm(self.centre - other.centre, axis=-1)
        near: NDArray[np.bool_] = distance <= self.radius + other.radius + metres / _EARTH
        return near


def in_space(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns places (N, 3) on a sphere of radius 1 of longitudes and latitudes (N,) in degrees."""
    lon, lat = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


@lru_cache(maxsize=1 << 14)
def ball(grid: PixelGrid) -> Ball:
    """Returns a ball that holds all pixels of a georeferenced raster."""
    cols, rows = edge_points(0, 0, grid.height, grid.width)
    cols, rows = np.append(cols, grid.width / 2), np.append(rows, grid.height / 2)
    *edges, middle = in_space(*longitude_latitude(grid, cols, rows))
    # Straight edges bulge between the points.
    return Ball(middle, 1.01 * np.linalg.norm(edges - middle, axis=1).max())


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


def pixels_of(
    other: PixelGrid, shapes: NDArray[np.object_], grid: PixelGrid
) -> NDArray[np.object_]:
    """Returns shapes in the pixel coordinates of another raster.

    Args:
        other: The other raster, georeferenced.
        shapes: (N,) polygons in the pixels of ``grid``; x is the column and y the row.
        grid: The raster of the shapes, georeferenced.

    Returns:
        (N,) polygons in the pixels of ``other``.
    """
    assert grid.crs is not None
    assert other.crs is not None
    target = projection(other.crs.to_wkt())
    change = transformer(projection(grid.crs.to_wkt()), target)

    def move(points: Points) -> Points:
        x, y = change.transform(*coordinates(grid.transform, *points.T))
        # Infinite outside the domain of the other CRS: far away from all its pixels.
        found: Points = np.nan_to_num(np.stack([x, y], axis=1), posinf=1e12, neginf=-1e12)
        return found

    moved = projected(shapely.segmentize(shapes, _LONGEST_EDGE), move, target, centre_x(other))
    in_pixels: NDArray[np.object_] = shapely.transform(
        moved, lambda points: np.stack(coordinates(~other.transform, *points.T), axis=1)
    )
    return in_pixels


def overlap_on_ground(first: PixelGrid, second: PixelGrid, inset: float = 0) -> bool:
    """Returns whether two georeferenced rasters show a place in common.

    Args:
        first: A raster.
        second: Another one.
        inset: Pixels that the sides of both are moved inwards, so that rasters that only touch do
            not overlap.
    """
    balls = ball(first), ball(second)
    if not balls[0].touches(balls[1]):
        return False
    small, large = (first, second) if balls[0].radius <= balls[1].radius else (second, first)
    inner, outer = (
        shapely.box(inset, inset, grid.width - inset, grid.height - inset)
        for grid in (small, large)
    )
    if small.crs == large.crs:  # fast: mosaics have many pairs of neighbours
        moved = shapely.transform(inner, lambda points: _same_crs(large, points, small))
    else:
        inner = shapely.segmentize(inner, inner.length / (4 * _EDGE_POINTS))
        moved = pixels_of(large, np.array([inner]), small)[0]
    return bool(shapely.intersects(moved, outer))


def _same_crs(other: PixelGrid, points: Points, grid: PixelGrid) -> Points:
    """Points in the pixels of another raster of the same CRS."""
    assert grid.crs is not None
    x, y = coordinates(grid.transform, *points.T)
    period = turn(projection(grid.crs.to_wkt()))
    if period is not None:  # the whole raster at once, so that none is torn
        x = x - period * round((centre_x(grid) - centre_x(other)) / period)
    return np.stack(coordinates(~other.transform, x, y), axis=1)


def degrees_around(grid: PixelGrid) -> tuple[float, float, float, float]:
    """Returns the west, south, east and north of a georeferenced raster in degrees (WGS 84).

    West is larger than east where the raster lies across the antimeridian.
    """
    cols, rows = edge_points(0, 0, grid.height, grid.width)
    cols, rows = np.append(cols, grid.width / 2), np.append(rows, grid.height / 2)
    lon, lat = longitude_latitude(grid, cols, rows)
    around = nearest_turn(lon, WGS84, lon[-1])
    west, east = float(around.min()), float(around.max())
    if east - west > 180:  # around a pole, or half of the earth
        west, east = -180.0, 180.0
    turns = [x if -180 <= x <= 180 else (x + 180) % 360 - 180 for x in (west, east)]
    return turns[0], float(lat.min()), turns[1], float(lat.max())


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
