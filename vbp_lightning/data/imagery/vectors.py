"""Roads that come as lines and areas: read, widened on the ground, drawn onto a scene's pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyogrio.raw
import pyproj
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.features import rasterize
from rasterio.windows import Window

from vbp_lightning.data.datasets.scene import DataError, VectorLabels
from vbp_lightning.data.imagery.extent import (
    PixelGrid,
    longitude_latitude,
    metric_projection,
    projection,
    transformer,
)
from vbp_lightning.data.imagery.windows import rescaled
from vbp_lightning.errors import one_line

_LINES = (shapely.GeometryType.LINESTRING, shapely.GeometryType.LINEARRING)

_QUADRANT_SEGMENTS = 4
"""Of a round line end: off the circle by 2 % of the half width, far less than a pixel."""


def road_shapes(labels: VectorLabels, grid: PixelGrid) -> NDArray[np.object_]:
    """The road areas of a scene, in the coordinates of its CRS.

    Lines are widened in a metric projection, whatever the CRS of file and scene.

    Args:
        labels: The vectors.
        grid: The scene's, georeferenced.

    Returns:
        (N,) polygons that may reach beyond the scene.

    Raises:
        DataError: The file cannot be used.
    """
    if labels.path is None:
        return np.zeros(0, dtype=object)
    file = _read(
        labels.path,
        labels.layer,
        labels.where,
        labels.widths.attribute,
        labels.path.stat().st_mtime_ns,
    )
    metric, units = metric_projection(grid)
    lon, lat = _outline(grid)
    kinds = shapely.get_type_id(file.geometries)
    lines, areas = np.isin(kinds, _LINES), kinds == shapely.GeometryType.POLYGON
    widths = np.array([labels.widths.of(value) for value in file.values])
    widths = np.where(lines, widths, 0.0) * units
    to_metric = transformer(file.crs, metric)
    # Only what lies near the scene: one file may cover a country.
    reach = float(widths.max(initial=0.0))
    xs, ys = transformer(pyproj.CRS.from_epsg(4326), metric).transform(lon, lat)
    near = shapely.box(
        np.min(xs) - reach, np.min(ys) - reach, np.max(xs) + reach, np.max(ys) + reach
    )
    around = shapely.get_coordinates(shapely.segmentize(near, near.length / 64))
    xs, ys = to_metric.transform(around[:, 0], around[:, 1], direction="INVERSE")
    if not np.isfinite([*xs, *ys]).all():
        candidates = np.arange(len(file.geometries))
    else:
        box = shapely.box(np.min(xs), np.min(ys), np.max(xs), np.max(ys))
        candidates = np.sort(file.tree.query(box))
    candidates = candidates[(lines | areas)[candidates]]
    metric_shapes = _transformed(file.geometries[candidates], to_metric)
    half = widths[candidates] / 2
    wide = half > 0
    metric_shapes[wide] = shapely.buffer(
        metric_shapes[wide], half[wide], quad_segs=_QUADRANT_SEGMENTS
    )
    assert grid.crs is not None
    own = projection(grid.crs.to_wkt())
    return _transformed(metric_shapes, transformer(metric, own))


def draw_roads(
    shapes: NDArray[np.object_], grid: PixelGrid, window: Window | None = None
) -> NDArray[np.bool_]:
    """Pixels whose centres lie on a road.

    Args:
        shapes: (N,) polygons in the coordinates of the grid's CRS.
        grid: The scene's.
        window: Part of the scene; None for all of it.

    Returns:
        (h, w).
    """
    row, col, shape = 0, 0, grid.shape
    if window is not None:
        row, col, shape = window.row_off, window.col_off, (window.height, window.width)
    if len(shapes) == 0:
        return np.zeros(shape, dtype=bool)
    transform = rescaled(grid.transform, col, row)
    drawn: NDArray[np.uint8] = rasterize(shapes, shape, transform=transform, dtype=np.uint8)
    road: NDArray[np.bool_] = drawn.view(np.bool_)
    return road


@dataclass(frozen=True, eq=False)
class _VectorFile:
    geometries: NDArray[np.object_]
    values: Sequence[object]
    crs: pyproj.CRS
    tree: shapely.STRtree


@lru_cache(maxsize=4)
def _read(
    path: Path, layer: str | None, where: str | None, attribute: str | None, changed: int
) -> _VectorFile:
    """All features of a file; ``changed`` is its time, so that a new version is read anew."""
    try:
        meta, _, geometries, columns = pyogrio.raw.read(
            path,
            layer=layer,
            columns=[attribute] if attribute else [],
            where=where,
            force_2d=True,
        )
        geometries = np.zeros(0, dtype=object) if geometries is None else geometries
    except (DataSourceError, DataLayerError, ValueError, IndexError, OSError) as error:
        hint = ", data.source.layer" if isinstance(error, DataLayerError) else ""
        hint += ", data.source.where" if where else ""
        raise DataError(
            f"{path}: its roads cannot be read ({one_line(error)}): give a vector file that GDAL "
            f"opens (data.source.labels{hint})"
        ) from error
    if path.suffix.lower() == ".shp" and _is_cut_off(path):
        raise DataError(
            f"{path}: is shorter than it says: it is damaged; replace it (data.source.labels)"
        )
    names = list(meta["fields"])
    if attribute and attribute not in names and len(geometries):
        columns_there = ", ".join(pyogrio.read_info(path, layer=layer)["fields"]) or "none"
        raise DataError(
            f"{path}: has no column {attribute}: data.source.widths.attribute may name "
            f"{columns_there}"
        )
    try:
        shapes = shapely.from_wkb(geometries)
    except shapely.errors.ShapelyError as error:
        raise DataError(
            f"{path}: holds a broken geometry ({error}): repair it (data.source.labels)"
        ) from error
    present = np.array([shape is not None and not shape.is_empty for shape in shapes], dtype=bool)
    if meta["crs"] is None and present.any():
        raise DataError(
            f"{path}: does not say its CRS: add a .prj file or convert it with one "
            "(data.source.labels)"
        )
    values: list[object] = columns[0].tolist() if attribute and columns else [None] * len(shapes)
    kept, features = shapely.get_parts(np.asarray(shapes, dtype=object)[present], return_index=True)
    own = [value for value, here in zip(values, present, strict=True) if here]
    return _VectorFile(
        geometries=kept,
        values=[own[feature] for feature in features],
        crs=_crs_of(path, meta["crs"] or "EPSG:4326"),
        tree=shapely.STRtree(kept),
    )


def _is_cut_off(path: Path) -> bool:
    """Whether a Shapefile ends before the length that its header states (ESRI 1998, page 3).

    GDAL reads records that are not there as features without a geometry.
    """
    with path.open("rb") as file:
        header = file.read(28)
    return 2 * int.from_bytes(header[24:28], "big") > path.stat().st_size


def _crs_of(path: Path, text: str) -> pyproj.CRS:
    """The CRS of a vector file.

    Raises:
        DataError: It is none that places anything on the earth.
    """
    try:
        crs = pyproj.CRS.from_user_input(text)
    except pyproj.exceptions.CRSError:
        crs = None
    if crs is None or not (crs.is_geographic or crs.is_projected):
        raise DataError(
            f"{path}: its CRS does not place it on the earth (data.source.labels): give its roads "
            "in a geographic or projected CRS"
        )
    return crs


def _transformed(shapes: NDArray[np.object_], change: pyproj.Transformer) -> NDArray[np.object_]:
    """Shapes in another CRS; the same array where nothing changes."""
    if len(shapes) == 0 or change.source_crs == change.target_crs:
        return shapes.copy()

    def moved(points: NDArray[np.float64]) -> NDArray[np.float64]:
        xs, ys = change.transform(points[:, 0], points[:, 1])
        return np.stack([xs, ys], axis=1)

    result: NDArray[np.object_] = shapely.transform(shapes, moved)
    return result


def _outline(grid: PixelGrid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Degrees of points along the scene's border."""
    steps = np.linspace(0, 1, 17)
    low, high = np.zeros(17), np.ones(17)
    cols = np.concatenate([steps, steps, low, high]) * grid.width
    rows = np.concatenate([low, high, steps, steps]) * grid.height
    return longitude_latitude(grid, cols, rows)
