"""Vector files of all kinds: geometries, layers, classes of OpenStreetMap."""

import json
import struct
import sys

import numpy as np
import pyogrio.raw
import pytest
import shapely
from affine import Affine
from omegaconf import OmegaConf
from rasterio.crs import CRS

from tests.helpers.composed import composed
from tests.helpers.osm import write_osm
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.pattern_scenes import PatternScenes
from vbp_lightning.data.datasets.scene import DataError, RoadClasses, RoadWidths, VectorLabels
from vbp_lightning.data.imagery.extent import PixelGrid
from vbp_lightning.data.imagery.vector_files import class_lines, road_features, vector_notes
from vbp_lightning.data.imagery.vectors import draw_roads, road_shapes

GRID = PixelGrid(40, 40, Affine(1, 0, 4e5, 0, -1, 5.4e6), CRS.from_epsg(32632))


def wkb(code, *parts):
    return struct.pack("<BI", 1, code) + b"".join(parts)


def points(*places):
    flat = [float(value) for place in places for value in place]
    return struct.pack("<I", len(places)) + struct.pack(f"<{len(flat)}d", *flat)


def collection(code, *parts):
    return wkb(code, struct.pack("<I", len(parts)), *parts)


def at(x, y):
    """Metres to the right of and below the corner of the scene."""
    return 4e5 + x, 5.4e6 - y


SQUARE = (at(10, 10), at(30, 10), at(30, 30), at(10, 30), at(10, 10))
CORNER = (at(10, 10), at(30, 10), at(10, 30), at(10, 10))
ARC = points(at(10, 20), at(20, 10), at(30, 20))
LINE = wkb(2, points(at(5, 20), at(35, 20)))
POLYGON = wkb(3, struct.pack("<I", 1), points(*SQUARE))
TRIANGLE = wkb(17, struct.pack("<I", 1), points(*CORNER))
PATCH = wkb(3, struct.pack("<I", 1), points(*CORNER))

DRAWN = {
    "line": (LINE, 64),
    "line_z": (wkb(1002, points((*at(5, 20), 7), (*at(35, 20), 7))), 64),
    "line_zm": (wkb(3002, points((*at(5, 20), 7, 1), (*at(35, 20), 7, 2))), 64),
    "nested": (collection(7, collection(7, collection(5, LINE)), collection(7)), 64),
    "polygon": (POLYGON, 400),
    "unclosed": (wkb(3, struct.pack("<I", 1), points(*SQUARE[:-1])), 400),
    "arc": (wkb(8, ARC), np.pi * 10 * 2 + 4),
    "compound": (collection(9, wkb(8, ARC), wkb(2, points(at(30, 20), at(40, 20)))), 85),
    "curved_area": (collection(10, wkb(8, points(at(10, 20), at(30, 20), at(10, 20)))), 314),
    "curves": (collection(11, wkb(8, ARC)), np.pi * 10 * 2 + 4),
    "surfaces": (collection(12, POLYGON), 400),
    "triangle": (TRIANGLE, 200),
    "tin": (collection(16, TRIANGLE), 200),
    "polyhedral": (collection(15, PATCH), 200),
    "triangle_in_collection": (collection(7, collection(16, TRIANGLE), LINE), 200 + 46),
    "bow_tie": (
        wkb(3, struct.pack("<I", 1), points(at(0, 0), at(40, 40), at(40, 0), at(0, 40), at(0, 0))),
        800,
    ),
}

UNDRAWN = {
    "null": (None, "1 × feature without a geometry"),
    "point": (wkb(1, struct.pack("<2d", *at(3, 3))), "1 × Point"),
    "points": (collection(4, *[wkb(1, struct.pack("<2d", *at(3, 3)))] * 3), "3 × Point"),
    "empty": (wkb(2, struct.pack("<I", 0)), "1 × empty LineString"),
    "empty_collection": (collection(7, collection(7)), "1 × empty GeometryCollection"),
    "one_point": (wkb(2, points(at(1, 1))), "1 × broken LineString"),
    "flat": (
        wkb(3, struct.pack("<I", 1), points(at(1, 1), at(9, 9), at(1, 1), at(1, 1))),
        "1 × Polygon without an area",
    ),
    "nan": (
        wkb(2, points(at(1, 1), (np.nan, 5))),
        "1 × LineString with coordinates that are not on the earth",
    ),
    "arc_in_collection": (
        collection(7, wkb(8, ARC)),
        "1 × CircularString in a collection",
    ),
}


def write_gpkg(path, geometries, layer="roads", **columns):
    columns = columns or {"number": range(len(geometries))}
    with np.errstate(invalid="ignore"):  # NaN
        pyogrio.raw.write(
            path,
            geometry=np.array([*geometries, None], dtype=object)[:-1],
            field_data=[np.array(values) for values in columns.values()],
            fields=list(columns),
            crs="EPSG:32632",
            layer=layer,
            geometry_type="Unknown",
            driver="GPKG",
            append=path.exists(),
        )
    return path


def drawn(labels):
    return draw_roads(road_shapes(labels, GRID), GRID)


@pytest.mark.filterwarnings("ignore:Registering non-standard")
@pytest.mark.parametrize("name", DRAWN)
def test_a_geometry_is_drawn(tmp_path, name):
    geometry, area = DRAWN[name]
    labels = VectorLabels(write_gpkg(tmp_path / "r.gpkg", [geometry]), widths=RoadWidths(2.0))
    assert drawn(labels).sum() == pytest.approx(area, rel=0.06)
    assert not road_features(labels).summary.undrawn.keys() - {"empty GeometryCollection"}


@pytest.mark.parametrize("name", UNDRAWN)
def test_a_geometry_is_counted(tmp_path, name):
    geometry, line = UNDRAWN[name]
    labels = VectorLabels(write_gpkg(tmp_path / "r.gpkg", [LINE, geometry]), widths=RoadWidths(2.0))
    assert drawn(labels).sum() == 64
    (note,) = vector_notes([road_features(labels).summary])
    assert note == f"{labels.path}: {line} not drawn as roads (data.source.labels)"


def test_an_area_that_covers_itself_twice_is_filled():
    """A loop that is digitised as one outline, with a crossing at its end."""
    ring = [(0, 0), (30, 0), (30, 30), (10, 30), (10, -10), (20, -10), (20, 20), (25, 20)]
    shape = shapely.Polygon([*ring, (25, 5), (0, 5)])
    winding = shapely.make_valid(shape, method="structure", keep_collapsed=False)
    assert winding.contains(shapely.Point(15, 2))  # covered twice: even-odd would leave it out


def test_notes_of_many_files_are_one_line(tmp_path):
    point = UNDRAWN["point"][0]
    files = [write_gpkg(tmp_path / f"{n}.gpkg", [LINE, point, point]) for n in range(3)]
    summaries = [road_features(VectorLabels(path)).summary for path in [*files, files[0]]]
    (note,) = vector_notes(summaries)
    assert note.startswith(f"{files[0]} and 2 more files: 6 × Point not drawn")


def test_the_scan_of_a_data_set_counts_what_is_not_drawn(tmp_path, write):
    image = np.arange(3 * 40 * 40).reshape(3, 40, 40) % 251
    place = {"crs": GRID.crs, "transform": GRID.transform}
    write(tmp_path / "images/a.tif", image.astype(np.uint8), **place)
    path = write_gpkg(tmp_path / "roads.gpkg", [LINE, UNDRAWN["point"][0]])
    options = {"tile_size": 8, "val_fraction": 0, "test_fraction": 0}
    scan = RoadTileDataModule(PatternScenes(tmp_path, labels=path.name), **options).scan()
    assert not scan.errors
    assert scan.warnings == [f"{path}: 1 × Point not drawn as roads (data.source.labels)"]


def error_of(labels):
    with pytest.raises(DataError) as caught:
        road_shapes(labels, GRID)
    (line,) = caught.value.lines
    return line


# Layers


def test_of_several_layers_that_can_hold_roads_one_is_asked_for(tmp_path):
    path = write_gpkg(tmp_path / "r.gpkg", [LINE])
    write_gpkg(path, [POLYGON], layer="buildings")
    line = error_of(VectorLabels(path))
    assert line == (
        f"{path}: has 2 layers; name that of the roads with data.source.layer: roads (Unknown), "
        "buildings (Unknown)"
    )
    assert drawn(VectorLabels(path, layer="buildings")).sum() == 400
    line = error_of(VectorLabels(path, layer="streets"))
    assert line.endswith("has no layer streets: data.source.layer may name roads, buildings")


def test_the_only_layer_that_can_hold_roads_is_named(tmp_path):
    path = tmp_path / "r.gpkg"
    for layer, type, geometry in (
        ("stops", "Point", shapely.Point(at(1, 1))),
        ("streets", "LineString", shapely.LineString([at(5, 20), at(35, 20)])),
    ):
        pyogrio.raw.write(
            path,
            geometry=np.array([shapely.to_wkb(geometry)], dtype=object),
            field_data=[],
            fields=[],
            crs="EPSG:32632",
            layer=layer,
            geometry_type=type,
            driver="GPKG",
            append=path.exists(),
        )
    labels = VectorLabels(path, widths=RoadWidths(2.0))
    assert drawn(labels).sum() == 64
    (note,) = vector_notes([road_features(labels).summary])
    assert note.startswith(f"{path}: of several layers streets is read")


def test_a_changed_geodatabase_is_read_again(tmp_path):
    path = tmp_path / "r.gdb"
    for x, expected in ((5, 64), (20, 34)):
        line = shapely.LineString([at(x, 20), at(35, 20)])
        pyogrio.raw.write(
            path,
            geometry=np.array([shapely.to_wkb(line)], dtype=object),
            field_data=[],
            fields=[],
            crs="EPSG:32632",
            geometry_type="LineString",
            driver="OpenFileGDB",
        )
        assert drawn(VectorLabels(path, widths=RoadWidths(2.0))).sum() == expected


GPX = (
    '<gpx version="1.1" creator="a" xmlns="http://www.topografix.com/GPX/1/1">'
    '<wpt lat="1" lon="2"/>{}</gpx>'
)
ROUTE = '<rte><rtept lat="48.7" lon="7.6"/><rtept lat="48.8" lon="7.7"/></rte>'
TRACK = f"<trk><trkseg>{ROUTE[5:-6].replace('rtept', 'trkpt')}</trkseg></trk>"


@pytest.mark.parametrize(("layer", "inner"), [("tracks", TRACK), ("routes", ROUTE)])
def test_a_gpx_file_has_tracks_or_routes(tmp_path, layer, inner):
    path = tmp_path / "r.gpx"
    path.write_text(GPX.format(inner))
    features = road_features(VectorLabels(path))
    assert features.summary.layer == layer
    assert len(features.shapes) == 1


def test_a_gpx_file_with_both_is_asked_about(tmp_path):
    path = tmp_path / "r.gpx"
    path.write_text(GPX.format(ROUTE + TRACK))
    assert "data.source.layer: waypoints (Point), routes (LineString), tracks" in error_of(
        VectorLabels(path)
    )


def test_a_long_name_in_a_file_is_shortened(tmp_path):
    path = write_gpkg(tmp_path / "r.gpkg", [LINE], **{"a" * 5000: [1]})
    line = error_of(VectorLabels(path, widths=RoadWidths(5.0, "lanes")))
    assert len(line) < 1100
    assert line.startswith(f"{path}: has no column lanes: data.source.widths.attribute may name aa")


def test_a_file_without_geometries_is_refused(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("a,b\n1,2\n")
    assert error_of(VectorLabels(path)).startswith(f"{path}: holds no geometries")


# OpenStreetMap

OSM = composed("train", "data=osm", "data.root=.").data.source
CLASSES = RoadClasses(**OmegaConf.to_container(OSM.classes))
WIDTHS = RoadWidths(**OmegaConf.to_container(OSM.widths))

LON, LAT = 7.63, 48.74
WAYS = [
    ({"highway": "residential"}, 6.5),
    ({"highway": "primary;secondary"}, 12),
    ({"highway": "primary", "tunnel": "no", "name": "a \\ b"}, 12),
    ({"highway": "track", "layer": "-1"}, 3.5),
    ({"highway": "primary", "tunnel": "yes", "layer": "-1"}, None),
    ({"highway": "service", "tunnel": "building_passage"}, None),
    ({"highway": "residential", "covered": "yes"}, None),
    ({"highway": "service", "location": "underground"}, None),
    ({"highway": "service", "indoor": "yes"}, None),
    ({"highway": "proposed"}, None),
    ({"highway": "construction", "construction": "primary"}, None),
    ({"highway": "corridor"}, None),
    ({"highway": "footway"}, None),
    ({"railway": "rail"}, None),
    ({"route": "ferry"}, None),
]


def places(number):
    return [(LON, LAT + number / 1000), (LON + 0.001, LAT + number / 1000)]


def found_widths(path):
    """The width by the number of the way, which its latitude tells."""
    labels = VectorLabels(path, None, None, WIDTHS, CLASSES)
    features = road_features(labels)
    numbers = np.round((shapely.bounds(features.shapes)[:, 1] - LAT) * 1000).astype(int).tolist()
    return {n: WIDTHS.of(v) for n, v in zip(numbers, features.values, strict=True)}, features


def expected_widths(ways=WAYS):
    return {number: width for number, (_, width) in enumerate(ways) if width is not None}


@pytest.mark.parametrize("name", ["r.osm", "r.osm.pbf"])
def test_ways_of_openstreetmap_that_an_image_shows(tmp_path, name):
    ways = [(tags, places(number)) for number, (tags, _) in enumerate(WAYS)]
    found, features = found_widths(write_osm(tmp_path / name, ways))
    assert found == expected_widths()
    assert features.summary.layer == "lines"
    first, second = class_lines([features.summary], CLASSES)
    assert first.startswith("Roads are features whose highway or fclass is motorway, motorway_link")
    assert "except those with tunnel, covered" in first
    assert second.startswith("Left out for their class or tag: 2 × tunnel, ")
    assert "1 × footway" in second


def test_all_lines_of_openstreetmap_are_no_roads(tmp_path):
    path = write_osm(tmp_path / "r.osm", [({"waterway": "river"}, places(0))])
    _, note = vector_notes([road_features(VectorLabels(path)).summary])
    assert "also rivers and fences: data=osm takes the roads" in note
    filtered = VectorLabels(path, where="highway IS NOT NULL")
    assert len(vector_notes([road_features(filtered).summary])) == 1


def test_tags_as_columns(tmp_path):
    """As Overpass and osmtogeojson write them: a column is missing if no way has the tag."""
    for name, some in (("all", WAYS), ("few", WAYS[:1])):
        features = [
            {
                "type": "Feature",
                "properties": tags,
                "geometry": {"type": "LineString", "coordinates": places(number)},
            }
            for number, (tags, _) in enumerate(some)
        ]
        path = tmp_path / f"{name}.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        assert found_widths(path)[0] == expected_widths(some)


def test_the_columns_of_geofabrik_and_of_osmnx(tmp_path):
    lines = [shapely.to_wkb(shapely.LineString(places(number))) for number in range(4)]
    of_geofabrik = {
        "fclass": ["residential", "track_grade2", "primary", "steps"],
        "tunnel": ["F", "F", "T", "F"],
    }
    of_osmnx = {
        "highway": ["residential", "['track', 'path']", "primary", "steps"],
        "tunnel": np.array([None, None, "yes", None], dtype=object),
    }
    for number, columns in enumerate((of_geofabrik, of_osmnx)):
        path = tmp_path / f"{number}.gpkg"
        pyogrio.raw.write(
            path,
            geometry=np.array(lines, dtype=object),
            field_data=[np.array(values, dtype=object) for values in columns.values()],
            fields=list(columns),
            crs="EPSG:4326",
            geometry_type="LineString",
            driver="GPKG",
        )
        assert found_widths(path)[0] == {0: 6.5, 1: 3.5}


def test_a_file_without_classes_is_refused(tmp_path):
    labels = VectorLabels(write_gpkg(tmp_path / "r.gpkg", [LINE]), None, None, WIDTHS, CLASSES)
    assert error_of(labels) == (
        f"{labels.path}: has no column highway or fclass: data.source.widths.attribute may name "
        "number"
    )


# GeoParquet


def test_geoparquet_needs_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "r.parquet"
    path.write_bytes(b"PAR1")
    assert "pip install 'vbp_lightning[parquet]'" in error_of(VectorLabels(path))


def test_geoparquet_is_read(tmp_path):
    pytest.importorskip("pyarrow")
    geopandas = pytest.importorskip("geopandas")
    shapes = [shapely.LineString([at(5, y), at(35, y)]) for y in (10, 20, 30)] + [None]
    frame = geopandas.GeoDataFrame(
        {"lanes": [2, 4, 6, 1], "kind": ["a", "b", "b", "b"], "more": [[1], [2], [], []]},
        geometry=shapes,
        crs="EPSG:32632",
    )
    path = tmp_path / "r.parquet"
    frame.to_parquet(path)
    widths = RoadWidths(1.0, "lanes", per_unit=1.0)
    assert drawn(VectorLabels(path, widths=widths)).sum() == 64 + 132 + 212
    labels = VectorLabels(path, None, "kind = 'b' AND \"lanes\" > 4", widths)
    assert drawn(labels).sum() == 212
    assert "(data.source.where)" in error_of(VectorLabels(path, None, "nothing = 1"))
    path.write_bytes(path.read_bytes()[:200])
    assert error_of(VectorLabels(path)).startswith(f"{path}: its roads cannot be read")
