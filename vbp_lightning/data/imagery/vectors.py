"""Roads as lines and areas: read, widened on the ground, drawn onto a scene's pixels."""

import os
import shutil
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.windows import Window

from vbp_lightning.data.datasets.listing import is_file
from vbp_lightning.data.datasets.scene import DataError, VectorLabels
from vbp_lightning.data.datasets.virtual_path import VirtualPath, source_path
from vbp_lightning.data.imagery.extent import (
    WGS84,
    PixelGrid,
    footprint,
    metric_projection,
    projection,
)
from vbp_lightning.data.imagery.fingerprint import Stamp, vector_stamps
from vbp_lightning.data.imagery.windows import rescaled
from vbp_lightning.errors import one_line

_QUADRANT_SEGMENTS = 4
"""Of a round line end: off the circle by 2 % of the half width, far less than a pixel."""


def road_shapes(labels: VectorLabels, grid: PixelGrid) -> NDArray[np.object_]:
    """Returns the road areas of a scene, in the coordinates of its CRS.

    Lines are widened in a metric projection, independent of the CRSs of file and scene.

    Args:
        labels: The vectors.
        grid: The scene, georeferenced.

    Returns:
        (N,) polygons that may reach beyond the scene.

    Raises:
        DataError: The file cannot be used.
    """
    if labels.path is None:
        return np.zeros(0, dtype=object)
    is_file(labels.path, "data.source.labels")
    files = vector_stamps(labels.path)
    roads = _read(labels.path, labels.layer, labels.where, labels.widths.attribute, files)
    metric, units = metric_projection(grid)
    types = roads.geom_type.to_numpy()
    lines, areas = np.isin(types, ("LineString", "LinearRing")), types == "Polygon"
    widths = np.array([labels.widths.of(value) for value in roads["value"].tolist()])
    widths = np.where(lines, widths, 0.0) * units
    candidates = _near(roads, grid, metric, float(widths.max(initial=0.0)))
    candidates = candidates[(lines | areas)[candidates]]
    shapes = roads.geometry.iloc[candidates].to_crs(metric)
    half = widths[candidates] / 2
    wide = half > 0
    shapes[wide] = shapes[wide].buffer(half[wide], _QUADRANT_SEGMENTS)
    assert grid.crs is not None
    own: NDArray[np.object_] = shapes.to_crs(projection(grid.crs.to_wkt())).to_numpy()
    return own


def _near(
    roads: Any,  # noqa: ANN401
    grid: PixelGrid,
    metric: pyproj.CRS,
    reach: float,
) -> NDArray[np.int64]:
    """Numbers of the roads around a scene: a file may cover a country.

    Args:
        roads: A GeoDataFrame.
        grid: The scene.
        metric: A metric projection.
        reach: Distance from the scene up to which roads are returned, in units of ``metric``.
    """
    import geopandas

    box = geopandas.GeoSeries([footprint(grid)], crs=WGS84).to_crs(metric).envelope
    box = box.buffer(reach, join_style="mitre")
    bounds = box.segmentize(box.length / 64).to_crs(roads.crs).total_bounds
    if not np.isfinite(bounds).all():  # the CRS of the file does not reach so far
        return np.arange(len(roads))
    return np.sort(roads.sindex.query(shapely.box(*bounds)))


def draw_roads(
    shapes: NDArray[np.object_], grid: PixelGrid, window: Window | None = None
) -> NDArray[np.bool_]:
    """Returns the pixels whose centres lie on a road.

    Args:
        shapes: (N,) polygons in the coordinates of the grid's CRS.
        grid: The scene.
        window: Part of the scene; None for all of it.

    Returns:
        (h, w).
    """
    window = window or grid.window
    shape = window.height, window.width
    if len(shapes) == 0:
        return np.zeros(shape, dtype=bool)
    transform = rescaled(grid.transform, window.col_off, window.row_off)
    drawn: NDArray[np.uint8] = rasterize(shapes, shape, transform=transform, dtype=np.uint8)
    road: NDArray[np.bool_] = drawn.view(np.bool_)
    return road


@lru_cache(maxsize=4)
def _read(
    path: Path,
    layer: str | None,
    where: str | None,
    attribute: str | None,
    files: tuple[Stamp, ...],
) -> Any:  # noqa: ANN401
    """Reads the features of a file as a GeoDataFrame of single geometries.

    Its column ``value`` is the attribute's. ``files`` are its files, so that a new version is read
    again.
    """
    import geopandas
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        local = _local_file(path, files)
        table = pyogrio.read_dataframe(
            local, layer=layer, columns=[attribute] if attribute else [], where=where, force_2d=True
        )
    except pyproj.exceptions.CRSError as error:
        raise _not_on_earth(path) from error
    except shapely.errors.ShapelyError as error:
        raise DataError(
            f"{path}: holds a broken geometry ({error}): repair it (data.source.labels)"
        ) from error
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
    if attribute and attribute not in table and len(table):
        columns = ", ".join(pyogrio.read_info(local, layer=layer)["fields"]) or "none"
        raise DataError(
            f"{path}: has no column {attribute}: data.source.widths.attribute may name {columns}"
        )
    shapes = table.geometry if isinstance(table, geopandas.GeoDataFrame) else None
    values = table.get(attribute)
    roads = geopandas.GeoDataFrame({"value": values}, geometry=shapes, index=table.index)
    roads = roads[~(roads.geometry.isna() | roads.geometry.is_empty)]
    if roads.crs is None and len(roads):
        raise DataError(
            f"{path}: does not say its CRS: add a .prj file or convert it with one "
            "(data.source.labels)"
        )
    if roads.crs is None:
        roads = roads.set_crs(WGS84)
    if not (roads.crs.is_geographic or roads.crs.is_projected):
        raise _not_on_earth(path)
    return roads.explode(ignore_index=True)


def _local_file(path: Path, files: tuple[Stamp, ...]) -> Path:
    """The file, or a copy of one in an archive or on a server.

    GDAL reads what arrives of a vector file without reporting the rest.
    """
    if not (isinstance(path, VirtualPath) and files):
        return path
    return Path(_copies(files).name) / path.name


@lru_cache(maxsize=1)
def _copies(files: tuple[Stamp, ...]) -> TemporaryDirectory[str]:
    """Copies of a vector file and of those that belong to it, deleted with the folder's record."""
    folder = TemporaryDirectory(prefix="vbp_lightning_")
    for name, *_ in files:
        file = source_path(name)
        with file.open("rb") as source, (Path(folder.name) / file.name).open("wb") as target:
            shutil.copyfileobj(source, target)
    return folder


def _not_on_earth(path: Path) -> DataError:
    return DataError(
        f"{path}: its CRS does not place it on the earth (data.source.labels): give its roads in a "
        "geographic or projected CRS"
    )


def _is_cut_off(path: Path) -> bool:
    """Whether a Shapefile is shorter than its header states (ESRI 1998, page 3).

    GDAL reads the missing records as features without a geometry.
    """
    with path.open("rb") as file:
        header = file.read(28)
        return 2 * int.from_bytes(header[24:28], "big") > file.seek(0, os.SEEK_END)
