"""Vector files: which layer and which features are roads, and their geometries, one by one."""

import os
import re
import struct
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from vbp_lightning.data.datasets.listing import refuse_special, remedy
from vbp_lightning.data.datasets.scene import DataError, RoadClasses, VectorLabels
from vbp_lightning.data.datasets.virtual_path import VirtualPath, source_path
from vbp_lightning.data.imagery.extent import WGS84, Ball, in_space, transformer
from vbp_lightning.data.imagery.fingerprint import Stamp, vector_stamps
from vbp_lightning.data.imagery.opening import copies
from vbp_lightning.errors import one_line

PARQUET_SUFFIXES = (".parquet", ".geoparquet")

_OTHER_TAGS = "other_tags"
"""The column in which GDAL gives the tags of OpenStreetMap that have no column of their own."""

_TAG = re.compile(r'"((?:[^"\\]|\\.)*)"=>"((?:[^"\\]|\\.)*)"')

_NO = {"", "no", "false", "f", "0", "none", "nan"}
"""Values of a tag that say the same as its absence, in lower case."""

_SHOWN = 20
"""Layers and columns that a message names."""

_POINT, _LINE, _POLYGON = 0, (1, 2), 3
_COLLECTIONS, _ANY = 4, 7
"""Types of shapely: from the first number on they are collections, the second holds any types."""

_WKB_NAMES = {
    **{1: "Point", 2: "LineString", 3: "Polygon", 4: "MultiPoint", 5: "MultiLineString"},
    **{6: "MultiPolygon", 7: "GeometryCollection", 8: "CircularString", 9: "CompoundCurve"},
    **{10: "CurvePolygon", 11: "MultiCurve", 12: "MultiSurface", 15: "PolyhedralSurface"},
    **{16: "TIN", 17: "Triangle"},
}
"""Types of well-known binary (OGC 06-103r4, table 7)."""

_reading = Lock()
"""Scenes are read in threads: those that need the same file wait for the first of them."""

_WKB_COLLECTIONS = (4, 5, 6, 7, 11, 12, 15, 16)


@dataclass(frozen=True)
class VectorSummary:
    """What was read from a vector file.

    Args:
        path: The file.
        layer: The layer that was chosen among several; None for the only one.
        crs: Of its coordinates.
        undrawn: Number of geometries that are no roads, by their type.
        left_out: Number of features that ``classes`` leaves out, by their class or tag.
        is_all_of_osm: Whether all lines of a file of OpenStreetMap are taken for roads.
    """

    path: Path
    layer: str | None
    crs: pyproj.CRS
    undrawn: Mapping[str, int]
    left_out: Mapping[str, int]
    is_all_of_osm: bool = False


@dataclass(frozen=True, eq=False)
class RoadFeatures:
    """The lines and areas of a vector file that are roads.

    Args:
        summary: Of the file.
        shapes: (N,) lines and polygons, in ``summary.crs``.
        is_line: (N,).
        values: (N,) of the column that determines the width.
        balls: (N,) around them.
    """

    summary: VectorSummary
    shapes: NDArray[np.object_]
    is_line: NDArray[np.bool_]
    values: Sequence[Any]
    balls: Ball


def road_features(labels: VectorLabels) -> RoadFeatures:
    """Reads the roads of a vector file; one that was read last is not read again.

    Args:
        labels: With a path.

    Raises:
        DataError: The file cannot be used; one line.
    """
    assert labels.path is not None
    refuse_special(labels.path, "data.source.labels")
    files = vector_stamps(labels.path)
    of_width = labels.widths.columns
    with _reading:
        return _features(labels.path, labels.layer, labels.where, of_width, labels.classes, files)


@lru_cache(maxsize=16)
def _features(
    path: Path,
    layer: str | None,
    where: str | None,
    of_width: tuple[str, ...],
    classes: RoadClasses | None,
    files: tuple[Stamp, ...],
) -> RoadFeatures:
    """Reads the roads of a file; ``files`` are its files, so that a new version is read again."""
    source = _Source(path, files, layer, where)
    if path.suffix.lower() == ".shp" and _is_cut_off(source.file):
        raise DataError(
            f"{path}: is shorter than it says: it is damaged; replace it (data.source.labels)"
        )
    width = source.first_column(of_width, "data.source.widths.attribute")
    of_class = None
    wanted = [] if width is None else [width]
    if classes is not None:
        of_class = source.first_column(classes.columns, "data.source.classes.attribute")
        wanted += [
            *classes.columns,
            _OTHER_TAGS,
            *(tag.partition("=")[0] for tag in classes.hidden),
        ]
    columns = [name for name in dict.fromkeys(wanted) if name in source.columns]
    geometries, table = source.read(columns, of_class)
    left_out: Counter[str] = Counter()
    if classes is not None and of_class is not None:
        kept, left_out = _selected(table, of_class, classes)
        geometries, table = geometries[kept], {name: table[name][kept] for name in table}
    shapes, owners, undrawn = _single_shapes(geometries)
    crs = _crs(path, source.crs, len(shapes))
    balls = _balls(shapes, crs)
    on_earth = np.isfinite(balls.radius)
    if len(shapes) and not on_earth.any():
        raise DataError(
            f"{path}: none of its coordinates lies on the earth in its CRS, {crs.name}: give it "
            "the right one, and x before y (data.source.labels)"
        )
    for name, count in _counted(shapes[~on_earth]).items():
        undrawn[f"{name} with coordinates that are not on the earth"] += count
    shapes, owners = shapes[on_earth], owners[on_earth]
    values = [None] * len(owners) if width is None else table[width][owners].tolist()
    return RoadFeatures(
        VectorSummary(
            path,
            source.chosen,
            crs,
            dict(undrawn),
            dict(left_out),
            source.driver == "OSM" and where is None and classes is None,
        ),
        shapes,
        np.isin(shapely.get_type_id(shapes), _LINE),
        values,
        Ball(balls.centre[on_earth], balls.radius[on_earth]),
    )


def _crs(path: Path, crs: str | None, count: int) -> pyproj.CRS:
    """The CRS of a file that holds some shapes."""
    if crs is None and count:
        raise DataError(
            f"{path}: does not say its CRS: add a .prj file or convert it with one "
            "(data.source.labels)"
        )
    try:
        found = WGS84 if crs is None else pyproj.CRS(crs)
    except pyproj.exceptions.CRSError as error:
        raise _not_on_earth(path) from error
    if not (found.is_geographic or found.is_projected):
        raise _not_on_earth(path)
    return found


def _not_on_earth(path: Path) -> DataError:
    return DataError(
        f"{path}: its CRS does not place it on the earth (data.source.labels): give its roads in a "
        "geographic or projected CRS"
    )


def _local_file(path: Path, files: tuple[Stamp, ...]) -> Path:
    """The file, or a copy of one in an archive or on a server.

    GDAL reads what arrives of a vector file without reporting the rest.
    """
    if not (isinstance(path, VirtualPath) and files):
        return path
    return _copies(files).folder / path.name


class _Copies:
    """Copies of a vector file and of those that belong to it, deleted with this record."""

    def __init__(self, files: tuple[Stamp, ...]) -> None:
        made = copies(source_path(name) for name, *_ in files)
        self.folder = Path(made.name)
        weakref.finalize(self, made.cleanup)


_copies = lru_cache(maxsize=1)(_Copies)


def _is_cut_off(path: Path) -> bool:
    """Whether a Shapefile is shorter than its header states (ESRI 1998, page 3).

    GDAL reads the missing records as features without a geometry.
    """
    with path.open("rb") as file:
        header = file.read(28)
        return 2 * int.from_bytes(header[24:28], "big") > file.seek(0, os.SEEK_END)


class _Source:
    """A vector file and its layer that holds roads.

    Attributes:
        file: The file on this machine.
        columns: Names of its columns.
        crs: Its CRS; None if it does not say one.
        chosen: The layer, if there are several.
        driver: GDAL's name of the format.
    """

    def __init__(
        self, path: Path, files: tuple[Stamp, ...], layer: str | None, where: str | None
    ) -> None:
        self.path = path
        try:
            self.file = _local_file(path, files)
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({one_line(error)}): {remedy(path)} (data.source.labels)"
            ) from error
        self.where = where
        self.chosen: str | None = None
        self.driver = ""
        self._frame: Any = None
        if path.suffix.lower() in PARQUET_SUFFIXES:
            self._frame = _parquet(path, self.file)
            self.columns = [name for name in self._frame if name != self._frame.geometry.name]
            crs = self._frame.crs
            self.crs: str | None = None if crs is None else crs.to_wkt()
            return
        import pyogrio

        # GDAL prints each value that it drops; the geometries that are lost by it are counted.
        pyogrio.set_gdal_config_options({"CPL_LOG": os.devnull})
        layers = self._asked(pyogrio.list_layers)
        self.layer = layer
        if layer is None and len(layers) > 1:
            self.layer = self.chosen = self._only_layer(layers.tolist())
        elif layer is not None and layer not in layers[:, 0]:
            names = _listed(layers[:, 0])
            raise DataError(f"{path}: has no layer {layer}: data.source.layer may name {names}")
        info = self._asked(pyogrio.read_info, layer=self.layer)
        self.driver = info["driver"]
        self.columns = info["fields"].tolist()
        self.crs = info["crs"]

    def _asked(self, ask: Any, **options: Any) -> Any:  # noqa: ANN401
        """The answer of pyogrio about the file.

        Raises:
            DataError: GDAL cannot read it.
        """
        from pyogrio.errors import DataLayerError, DataSourceError

        try:
            return ask(self.file, **options)
        except pyproj.exceptions.CRSError as error:
            raise _not_on_earth(self.path) from error
        except (DataSourceError, DataLayerError, ValueError, IndexError, OSError) as error:
            hint = ", data.source.layer" if isinstance(error, DataLayerError) else ""
            hint += ", data.source.where" if self.where else ""
            raise DataError(
                f"{self.path}: its roads cannot be read ({one_line(error)}): give a vector file "
                f"that GDAL opens (data.source.labels{hint})"
            ) from error

    def _only_layer(self, layers: list[tuple[str, str | None]]) -> str:
        """The only layer that can hold roads.

        Raises:
            DataError: Several can.
        """
        import pyogrio

        able = [name for name, type in layers if type and "Point" not in type]
        driver = self._asked(pyogrio.read_info, layer=layers[0][0])["driver"]
        if driver == "OSM":  # its layers are the same in all files
            return "lines"
        if driver == "GPX":  # likewise; a file has tracks, routes or both
            used = [
                name
                for name in able
                if self._asked(pyogrio.read_info, layer=name, force_feature_count=True)["features"]
            ]
            able = used or able[-1:]
        if len(able) == 1:
            return able[0]
        names = _listed([f"{name} ({type or 'no geometries'})" for name, type in layers])
        raise DataError(
            f"{self.path}: has {len(layers)} layers; name that of the roads with "
            f"data.source.layer: {names}"
        )

    def first_column(self, names: Sequence[str], key: str) -> str | None:
        """The first of some columns that the file has; None for no columns, or of an empty file.

        Raises:
            DataError: The file has none of them.
        """
        found = next((name for name in names if name in self.columns), None)
        if found is None and names and len(self.read([])[0]):
            raise DataError(
                f"{self.path}: has no column {' or '.join(names)}: {key} may name "
                f"{_listed(self.columns) or 'none'}"
            )
        return found

    def read(
        self, columns: list[str], needed: str | None = None
    ) -> tuple[NDArray[np.object_], dict[str, NDArray[Any]]]:
        """The geometries (N,), as well-known binary or as shapes, and columns (N,) of the features.

        Args:
            columns: Their names.
            needed: A column; features without a value of it may be left out.

        Raises:
            DataError: They cannot be read.
        """
        if self._frame is not None:
            frame = (
                self._frame if self.where is None else _where(self.path, self._frame, self.where)
            )
            return frame.geometry.to_numpy(), {name: frame[name].to_numpy() for name in columns}
        import pyogrio.raw

        conditions = [f"({self.where})"] if self.where is not None else []
        conditions += [f'"{needed}" IS NOT NULL'] if needed is not None else []
        meta, _, geometries, values = self._asked(
            pyogrio.raw.read,
            layer=self.layer,
            columns=columns,
            where=" AND ".join(conditions) or None,
            force_2d=True,
        )
        if geometries is None:
            raise DataError(
                f"{self.path}: holds no geometries: give a vector file, or another layer of it "
                "(data.source.labels, data.source.layer)"
            )
        return geometries, dict(zip(meta["fields"].tolist(), values, strict=True))


def vector_notes(summaries: Iterable[VectorSummary]) -> list[str]:
    """Returns a line for each layer that was chosen, and for geometries that are no roads.

    Args:
        summaries: Of all scenes; scenes may share a file.
    """
    files = list({each.path: each for each in summaries}.values())
    lines = []
    for layer in dict.fromkeys(each.layer for each in files if each.layer is not None):
        own = [each for each in files if each.layer == layer]
        lines.append(
            f"{_and_more(own)}: of several layers {layer} is read, which holds lines or areas "
            "(data.source.layer)"
        )
    if own := [each for each in files if each.is_all_of_osm]:
        lines.append(
            f"{_and_more(own)}: all lines of OpenStreetMap are drawn as roads, also rivers and "
            "fences: data=osm takes the roads (data.source.where)"
        )
    if own := [each for each in files if each.undrawn]:
        lines.append(
            f"{_and_more(own)}: {_total(each.undrawn for each in own)} not drawn as roads "
            "(data.source.labels)"
        )
    return lines


def class_lines(summaries: Iterable[VectorSummary], classes: RoadClasses) -> list[str]:
    """Returns what classes are roads, and how many features of others are left out."""
    files = {each.path: each for each in summaries}.values()
    others = _total(each.left_out for each in files)
    lines = [
        f"Roads are features whose {' or '.join(classes.columns)} is {', '.join(classes.values)} "
        "(data.source.classes.values)"
    ]
    if classes.hidden:
        hidden = ", ".join(classes.hidden)
        lines[0] += f", except those with {hidden} (data.source.classes.hidden)"
    return lines + [f"Left out for their class or tag: {others}"] * bool(others)


def _and_more(files: Sequence[VectorSummary]) -> str:
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    return f"{files[0].path}{more}"


def _total(counts: Iterable[Mapping[str, int]]) -> str:
    """The sums of counts, the largest first."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return _listed([f"{count} × {name}" for name, count in total.most_common()])


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + f" and {more} more" * (more > 0)


def _parquet(path: Path, file: Path) -> Any:  # noqa: ANN401
    """A GeoParquet file as a GeoDataFrame; GDAL's wheels cannot read it."""
    import geopandas

    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"{path}: GeoParquet needs the extra parquet: pip install 'vbp_lightning[parquet]', or "
            "convert the file to GeoPackage (data.source.labels)"
        ) from error
    try:
        return geopandas.read_parquet(file)
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise DataError(
            f"{path}: its roads cannot be read ({one_line(error)}): give a GeoParquet file "
            "(data.source.labels)"
        ) from error


def _where(path: Path, frame: Any, where: str) -> Any:  # noqa: ANN401
    """The rows of a data frame for which an SQL condition holds, found by SQLite."""
    import sqlite3

    import pandas as pd

    plain = pd.DataFrame(frame.drop(columns=frame.geometry.name))
    simple = [name for name in plain if pd.api.types.is_scalar(next(iter(plain[name]), None))]
    with sqlite3.connect(":memory:") as database:
        plain[simple].reset_index(drop=True).to_sql("features", database, index_label="row number")
        try:
            rows = database.execute(f'SELECT "row number" FROM features WHERE {where}').fetchall()
        except sqlite3.Error as error:
            raise DataError(
                f"{path}: its roads cannot be read ({one_line(error)}): correct the condition "
                "(data.source.where)"
            ) from error
    return frame.iloc[sorted(row for (row,) in rows)]


def _selected(
    table: dict[str, NDArray[Any]], of_class: str, classes: RoadClasses
) -> tuple[NDArray[np.bool_], Counter[str]]:
    """Which features (N,) are roads on an image, and the number of the others by class or tag.

    The classes in the table are replaced by those that ``classes`` lists.
    """
    names = table[of_class].astype(object)
    kept = np.zeros(len(names), dtype=bool)
    left_out: Counter[str] = Counter()
    others = table.get(_OTHER_TAGS)
    keys = [tag.partition("=")[0] for tag in classes.hidden]
    columns = {key: table[key] for key in keys if key in table}
    for number, value in enumerate(names.tolist()):
        if not isinstance(value, str) or not value:
            continue
        # OSM writes several values as "a;b", osmnx as "['a', 'b']".
        own = [each for each in re.split(r"[\s;,\[\]'\"]+", value) if each in classes.values]
        if not own:
            left_out[value] += 1
            continue
        tags = {key: column[number] for key, column in columns.items()}
        other = others[number] if others is not None else None
        if isinstance(other, str) and any(key in other for key in keys):
            tags |= dict(_TAG.findall(other))
        if hidden := next((tag for tag in classes.hidden if _has_tag(tags, tag)), None):
            left_out[hidden] += 1
            continue
        kept[number] = True
        names[number] = own[0]
    table[of_class] = names
    return kept, left_out


def _has_tag(tags: Mapping[str, Any], tag: str) -> bool:
    """Whether tags hold ``key=value``, or ``key`` with any value but no."""
    key, _, wanted = tag.partition("=")
    value = tags.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).lower()
    return text == wanted.lower() if wanted else text not in _NO


def _single_shapes(
    geometries: NDArray[np.object_],
) -> tuple[NDArray[np.object_], NDArray[np.int64], Counter[str]]:
    """The lines and polygons in geometries, however deep in collections.

    Args:
        geometries: (N,) well-known binary, or shapes.

    Returns:
        (M,) shapes, (M,) the index of the geometry of each, and the number of other geometries by
        type.
    """
    undrawn: Counter[str] = Counter()
    owners = np.arange(len(geometries))
    shapes = geometries
    if len(geometries) and isinstance(next((g for g in geometries if g is not None), None), bytes):
        shapes = _from_wkb(geometries)
        unknown = shapely.is_missing(shapes) & (geometries != None)  # noqa: E711
        # shapely cannot open a collection that holds a curve.
        unknown |= (shapely.get_type_id(shapes) == _ANY) & ~shapely.is_empty(shapes)
        unknown = np.flatnonzero(unknown)
        found = [(shape, n) for n in unknown for shape in _mended(geometries[n], undrawn)]
        shapes = np.concatenate([shapes, np.array([s for s, _ in found], object)])
        owners = np.concatenate([owners, np.array([n for _, n in found], owners.dtype)])
        keep = np.ones(len(shapes), dtype=bool)
        keep[unknown] = False
        shapes, owners = shapes[keep], owners[keep]
    while True:
        missing = shapely.is_missing(shapes)
        empty = shapely.is_empty(shapes)
        undrawn["feature without a geometry"] += int(missing.sum())
        for name, count in _counted(shapes[empty]).items():
            undrawn[f"empty {name}"] += count
        used = ~(missing | empty)
        shapes, owners = shapes[used], owners[used]
        if not (shapely.get_type_id(shapes) >= _COLLECTIONS).any():
            break
        shapes, index = shapely.get_parts(shapes, return_index=True)
        owners = owners[index]
    types = shapely.get_type_id(shapes)
    points = types == _POINT
    flat = (types == _POLYGON) & (shapely.area(shapes) == 0)  # also of a symmetric figure of eight
    flat[flat] = shapely.is_empty(
        shapely.make_valid(shapes[flat], method="structure", keep_collapsed=False)
    )
    undrawn["Point"] += int(points.sum())
    undrawn["Polygon without an area"] += int(flat.sum())
    used = ~(points | flat)
    return shapes[used], owners[used], +undrawn


def _from_wkb(geometries: NDArray[np.object_], on_invalid: str = "ignore") -> NDArray[np.object_]:
    """Shapes (N,) of well-known binary; None for those that GEOS refuses."""
    with np.errstate(invalid="ignore"):  # NaN
        shapes: NDArray[np.object_] = shapely.from_wkb(geometries, on_invalid=on_invalid)
    return shapes


def _counted(shapes: NDArray[np.object_]) -> Counter[str]:
    return Counter(shape.geom_type for shape in shapes)


def _mended(data: bytes, undrawn: Counter[str]) -> list[shapely.Geometry]:
    """The shapes of a geometry that GEOS refuses; those that are broken are counted.

    Triangles become polygons, and rings that are not closed are closed.
    """
    shapes = []
    try:
        parts = list(_wkb_parts(memoryview(data)))
    except (struct.error, IndexError, ValueError):
        parts = [(0, data)]
    for code, part in parts:
        # GDAL makes lines of curves, except of those inside of a collection.
        is_curve = 8 <= code <= 10
        shape = None if is_curve else _from_wkb(np.array([part], dtype=object), "fix")[0]
        if shape is None:
            name = _WKB_NAMES.get(code, "geometry")
            undrawn[f"{name} in a collection" if is_curve else f"broken {name}"] += 1
        else:
            shapes.append(shape)
    return shapes


def _wkb_parts(data: memoryview) -> Iterator[tuple[int, bytes]]:
    """Type and bytes of the single geometries in a two-dimensional well-known binary."""
    ends: list[int] = []

    def visit(start: int, whole: bool) -> Iterator[tuple[int, bytes]]:
        order = "<" if data[start] else ">"
        code, count = struct.unpack_from(f"{order}II", data, start + 1)
        at = start + 9
        if code in _WKB_COLLECTIONS or code in (9, 10):
            inside = whole and code in _WKB_COLLECTIONS
            for _ in range(count):
                yield from visit(at, inside)
                at = ends.pop()
        elif code in (3, 17):
            for _ in range(count):
                (points,) = struct.unpack_from(f"{order}I", data, at)
                at += 4 + 16 * points
        elif code in (2, 8):
            at += 16 * count
        elif code == 1:
            at = start + 21
        else:
            raise ValueError(f"type {code}")
        if at > len(data):
            raise ValueError("is too short")
        ends.append(at)
        if whole and code not in _WKB_COLLECTIONS:
            plain = struct.pack(f"{order}I", 3 if code == 17 else code)
            yield code, bytes(data[start : start + 1]) + plain + bytes(data[start + 5 : at])

    yield from visit(0, True)


def _balls(shapes: NDArray[np.object_], crs: pyproj.CRS) -> Ball:
    """Balls around shapes (N,); the radius is infinite or NaN where one is not on the earth."""
    points, owners = shapely.get_coordinates(shapes, return_index=True)
    if not len(points):
        return Ball(np.zeros((0, 3)), np.zeros(0))
    to_degrees = transformer(crs, WGS84)
    lon, lat = map(np.asarray, to_degrees.transform(*points.T))
    lat = np.where(np.abs(lat) <= 90 + 1e-9, lat, np.nan)
    with np.errstate(invalid="ignore"):
        places = in_space(lon, lat)
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    low, high = (operation.reduceat(places, starts) for operation in (np.minimum, np.maximum))
    half = np.linalg.norm(high - low, axis=1) / 2
    # Lines bulge between their points, the more the longer they are.
    return Ball((low + high) / 2, 1.05 * half + half**2)
