"""Labels of all types on the pixels of an image."""

import json
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.windows import Window

from vbp_lightning.data.datasets.scene import DataError, ImageLabel, RoadWidths, Scene, VectorLabels
from vbp_lightning.data.imagery.extent import (
    PixelGrid,
    ground_sampling_distance,
    longitude_latitude,
)
from vbp_lightning.data.imagery.mask_values import MaskValues
from vbp_lightning.data.imagery.raster import without_place
from vbp_lightning.data.imagery.road_mask import open_roads
from vbp_lightning.data.imagery.vectors import draw_roads, road_shapes

AT = Affine(0.5, 0, 4e5, 0, -0.5, 5.4e6)


@pytest.fixture(autouse=True)
def quiet():
    with without_place():
        yield


def grid_of(crs="EPSG:32632", transform=AT, height=120, width=160):
    return PixelGrid(height, width, transform, CRS.from_string(crs) if crs else None)


def roads(labels, grid, threshold=127, window=None, stored=None):
    scene = Scene("a", Path("a.tif"), labels)
    with open_roads(scene, grid, stored or grid, MaskValues(threshold)) as opened:
        result = opened.read(window or grid.window)
        opened.check()
        return result


def write_vectors(path, shapes, crs="EPSG:32632", driver=None, **columns):
    pyogrio.raw.write(
        path,
        geometry=shapely.to_wkb(np.array(shapes, dtype=object)),
        field_data=[np.array(values, dtype=object) for values in columns.values()],
        fields=list(columns),
        crs=crs,
        geometry_type="Unknown" if driver != "ESRI Shapefile" else shapes[0].geom_type,
        driver=driver,
    )
    return path


def line_in(grid, *points):
    """A line through (column, row) places, in degrees."""
    cols, rows = np.array(points, float).T
    return shapely.LineString(np.stack(longitude_latitude(grid, cols, rows), axis=1))


# Rasters


def mask_of(rng, height=120, width=160):
    return np.where(rng.random((height, width)) < 0.3, 255, 0).astype(np.uint8)


def test_a_mask_of_the_same_grid_is_not_resampled(tmp_path, write):
    mask = mask_of(np.random.default_rng(0))
    path = write(tmp_path / "m.tif", mask, crs="EPSG:32632", transform=AT)
    road, known = roads(path, grid_of())
    assert np.array_equal(road, mask == 255)
    assert known.all()
    part, _ = roads(path, grid_of(), window=Window(7, 9, 20, 30))
    assert np.array_equal(part, road[9:39, 7:27])


def test_a_shifted_mask_is_moved_onto_the_image(tmp_path, write):
    mask = mask_of(np.random.default_rng(0))
    shifted = Affine(0.5, 0, 4e5 + 5, 0, -0.5, 5.4e6 - 3)  # 10 columns, 6 rows
    path = write(tmp_path / "m.tif", mask, crs="EPSG:32632", transform=shifted)
    road, known = roads(path, grid_of())
    assert np.array_equal(road[6:, 10:], mask[:-6, :-10] == 255)
    expected = np.zeros((120, 160), bool)
    expected[6:, 10:] = True
    assert np.array_equal(known, expected)
    assert not road[~known].any()


def test_a_coarse_mask_is_repeated(tmp_path, write):
    mask = mask_of(np.random.default_rng(0), 30, 40)
    coarse = Affine(2.0, 0, 4e5, 0, -2.0, 5.4e6)
    path = write(tmp_path / "m.tif", mask, crs="EPSG:32632", transform=coarse)
    road, known = roads(path, grid_of())
    assert np.array_equal(road, np.kron(mask, np.ones((4, 4))) > 127)
    assert known.all()


def test_a_mask_in_another_crs_is_warped_to_the_image(tmp_path, write):
    grid = grid_of()
    lon, lat = longitude_latitude(grid, np.array([80.0]), np.array([60.0]))
    step = 2e-6
    degrees = Affine(step, 0, lon[0] - 400 * step, 0, -step, lat[0] + 400 * step)
    mask = np.zeros((800, 800), np.uint8)
    mask[390:410, :] = 255  # along the parallel through the centre of the image
    path = write(tmp_path / "m.tif", mask, crs="EPSG:4326", transform=degrees)
    road, known = roads(path, grid)
    assert known.all()
    rows, cols = np.nonzero(road)
    _, lats = longitude_latitude(grid, cols + 0.5, rows + 0.5)
    assert np.abs(lats - lat[0]).max() <= 10.5 * step
    back = (
        np.abs(longitude_latitude(grid, *np.mgrid[0:160, 0:120] + 0.5)[1] - lat[0]) < 9.5 * step
    ).T
    assert road[back].all()


def test_nodata_of_a_warped_mask_is_unknown(tmp_path, write):
    mask = np.zeros((60, 80), np.uint8)
    mask[:, :40], mask[30:, :] = 1, 9
    path = write(
        tmp_path / "m.tif",
        mask,
        nodata=9,
        crs="EPSG:32632",
        transform=Affine(1, 0, 4e5, 0, -1, 5.4e6),
    )
    road, known = roads(path, grid_of(), threshold=0)
    assert road[:60, :80].all()
    assert (road.sum(), known.sum()) == (60 * 80, 60 * 160)


def test_grey_pictures_of_masks_are_masks(tmp_path, write):
    mask = mask_of(np.random.default_rng(0))
    path = write(tmp_path / "m.png", np.stack([mask] * 3))
    assert np.array_equal(roads(path, grid_of(None, Affine.identity()))[0], mask == 255)


def test_a_mask_that_is_not_georeferenced_needs_the_size_of_its_image(tmp_path, write):
    path = write(tmp_path / "m.tif", np.zeros((10, 10), np.uint8))
    with pytest.raises(DataError, match="not both are georeferenced"):
        roads(path, grid_of())


def test_a_mask_that_is_not_georeferenced_has_the_extent_of_an_image_of_its_size(tmp_path, write):
    rng = np.random.default_rng(4)
    mask = mask_of(rng)
    bare = write(tmp_path / "bare.tif", mask)
    placed = write(tmp_path / "placed.tif", mask, crs="EPSG:32632", transform=AT)
    coarse = grid_of(transform=AT @ Affine.scale(2.5), height=48, width=64)
    result, known = roads(bare, coarse, stored=grid_of())
    assert known.all()
    # centres of coarse pixels lie on the middle one of five half pixels
    rows, cols = np.floor((np.mgrid[0:48, 0:64] + 0.5) * 2.5).astype(int)
    assert np.array_equal(result, mask[rows, cols] > 0)
    assert np.array_equal(result, roads(placed, coarse, stored=grid_of())[0])
    aside = write(tmp_path / "aside.tif", mask, transform=AT @ Affine.translation(7, 0))
    with pytest.raises(DataError, match=r"aside\.tif: is 160 × 120 px, its image a\.tif 160 × 120"):
        roads(aside, coarse, stored=grid_of())


def test_one_label_for_a_whole_image():
    for is_road in (True, False):
        road, known = roads(ImageLabel(is_road), grid_of())
        assert (road == is_road).all()
        assert known.all()
        assert roads(ImageLabel(is_road), grid_of(), window=Window(3, 2, 5, 7))[0].shape == (7, 5)


# Vectors


def brute_distance(shape, grid):
    """Metres from each pixel's centre to a shape in a metric CRS, one pixel at a time."""
    xs = grid.transform.c + grid.transform.a * (np.arange(grid.width) + 0.5)
    ys = grid.transform.f + grid.transform.e * (np.arange(grid.height) + 0.5)
    points = shapely.points(*np.meshgrid(xs, ys))
    return shapely.distance(points, shape)


@pytest.mark.parametrize(
    ("name", "driver"),
    [
        ("r.geojson", "GeoJSON"),
        ("r.gpkg", "GPKG"),
        ("r.shp", "ESRI Shapefile"),
        ("r.fgb", "FlatGeobuf"),
    ],
)
def test_lines_are_widened_in_metres(tmp_path, name, driver):
    grid = grid_of()
    line = shapely.LineString(
        [(4e5 + 5, 5.4e6 - 7), (4e5 + 40, 5.4e6 - 30), (4e5 + 75, 5.4e6 - 12)]
    )
    crs = "EPSG:32632"
    if driver == "GeoJSON":
        crs = "EPSG:4326"
        cols, rows = (np.array(line.coords).T - [[4e5], [5.4e6]]) / [[0.5], [-0.5]]
        drawn = line_in(grid, *zip(cols, rows, strict=True))
    else:
        drawn = line
    path = write_vectors(tmp_path / name, [drawn], crs, driver)
    road, known = roads(VectorLabels(path, widths=RoadWidths(9.0)), grid)
    distance = brute_distance(line, grid)
    assert road[distance < 4.3].all()  # the round ends and joints are polygons, 2 % smaller
    assert not road[distance > 4.55].any()
    assert known.all()


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(5e-6, 0, 25.0, 0, -5e-6, 65.0)),
        ("EPSG:3857", Affine(1.2, 0, 2.7e6, 0, -1.2, 9.6e6)),
        ("EPSG:2263", Affine(1.5, 0, 1e6, 0, -1.5, 2e5)),
        ("EPSG:32632", Affine(0.4, 0.3, 4e5, 0.3, -0.4, 5.4e6)),
    ],
    ids=["degrees", "mercator", "feet", "rotated"],
)
def test_widths_are_ground_metres_in_any_crs(tmp_path, crs, transform):
    grid = grid_of(crs, transform)
    across, down = ground_sampling_distance(grid)
    path = write_vectors(
        tmp_path / "r.geojson",
        [line_in(grid, (-50, 60), (210, 60)), line_in(grid, (80, -50), (80, 170))],
        "EPSG:4326",
        "GeoJSON",
    )
    road, _ = roads(VectorLabels(path, widths=RoadWidths(10.0)), grid)
    assert road[:, 20].sum() == pytest.approx(10 / down, abs=1.01)
    assert road[20, :].sum() == pytest.approx(10 / across, abs=1.01)


def test_areas_are_not_widened_and_points_are_ignored(tmp_path):
    grid = grid_of()
    area = shapely.box(4e5 + 10, 5.4e6 - 20, 4e5 + 30, 5.4e6 - 10)
    hole = shapely.box(4e5 + 14, 5.4e6 - 18, 4e5 + 18, 5.4e6 - 12)
    shapes = [
        area.difference(hole),
        shapely.Point(4e5 + 50, 5.4e6 - 50),
        shapely.GeometryCollection([shapely.box(4e5 + 60, 5.4e6 - 50, 4e5 + 62, 5.4e6 - 45)]),
    ]
    path = write_vectors(tmp_path / "r.gpkg", shapes)
    road, _ = roads(VectorLabels(path), grid)
    expected = np.zeros(grid.shape, bool)
    expected[20:40, 20:60] = True
    expected[24:36, 28:36] = False
    expected[90:100, 120:124] = True
    assert np.array_equal(road, expected)


def test_windows_of_drawn_roads_are_parts_of_the_whole(tmp_path):
    grid = grid_of()
    rng = np.random.default_rng(0)
    lines = [shapely.LineString([4e5, 5.4e6 - 60] + rng.random((4, 2)) * 80) for _ in range(20)]
    path = write_vectors(tmp_path / "r.gpkg", lines)
    labels = VectorLabels(path, widths=RoadWidths(2.0))
    road, _ = roads(labels, grid)
    for row, col in ((0, 0), (40, 64), (100, 130)):
        part, _ = roads(labels, grid, window=Window(col, row, 30, 20))
        assert np.array_equal(part, road[row : row + 20, col : col + 30])


def test_only_lines_near_the_scene_are_widened(tmp_path):
    grid = grid_of()
    near = shapely.LineString([(4e5 - 100, 5.4e6 - 5), (4e5 + 200, 5.4e6 - 5)])
    beside = shapely.LineString([(4e5 - 2, 5.4e6), (4e5 - 2, 5.4e6 - 60)])  # reaches in by 1 m
    far = [shapely.LineString([(4e5 + 500 * i, 5.5e6), (4e5 + 500 * i, 5.51e6)]) for i in range(50)]
    path = write_vectors(tmp_path / "r.gpkg", [near, *far, beside])
    shapes = road_shapes(VectorLabels(path, widths=RoadWidths(6.0)), grid)
    assert len(shapes) == 2
    assert draw_roads(shapes, grid)[:, 0].all()


def test_no_file_and_no_feature_mean_no_road(tmp_path):
    empty = tmp_path / "r.geojson"
    empty.write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    for labels in (VectorLabels(None), VectorLabels(empty)):
        road, known = roads(labels, grid_of())
        assert not road.any()
        assert known.all()


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "r.gpkg"
    write_vectors(path, [shapely.box(4e5, 5.4e6 - 60, 4e5 + 80, 5.4e6)])
    assert roads(VectorLabels(path), grid_of())[0].all()
    path.unlink()
    write_vectors(path, [shapely.box(4e5, 5.4e6 - 60, 4e5 + 40, 5.4e6)])
    assert roads(VectorLabels(path), grid_of())[0].mean() == 0.5


# Widths


@pytest.mark.parametrize(
    ("value", "width"),
    [
        (None, 5.0),
        (float("nan"), 5.0),
        ("motorway", 20.0),
        ("footway", 5.0),
        ("2", 7.0),
        (3, 10.5),
        (4.0, 30.0),
        (1.5, 5.25),
        (0, 5.0),
        (-2, 5.0),
        ("inf", 5.0),
    ],
)
def test_widths_by_attribute(value, width):
    widths = RoadWidths(5.0, "any", {"motorway": 20.0, "4": 30.0}, per_unit=3.5)
    assert widths.of(value) == width


def test_each_line_has_its_own_width(tmp_path):
    grid = grid_of()
    lines = [shapely.LineString([(4e5, 5.4e6 - y), (4e5 + 80, 5.4e6 - y)]) for y in (10, 30, 50)]
    path = write_vectors(tmp_path / "r.gpkg", lines, lanes=["2", None, "4"])
    road, _ = roads(VectorLabels(path, widths=RoadWidths(3.0, "lanes", None, 2.5)), grid)
    parts = [road[:40, 80].sum(), road[40:80, 80].sum(), road[80:, 80].sum()]
    assert parts == [10, 6, 20]  # 5, 3 and 10 m of 0.5 m


# Errors


def error_of(labels, grid):
    with pytest.raises(DataError) as caught:
        roads(labels, grid)
    (line,) = caught.value.lines
    assert "data.source" in line
    return line


def test_vectors_need_a_georeferenced_image(tmp_path):
    path = write_vectors(tmp_path / "r.gpkg", [shapely.LineString([(0, 0), (1, 1)])])
    line = error_of(VectorLabels(path), grid_of(None, Affine.identity()))
    assert line.startswith("a.tif: has no CRS and transform that place it on the earth, so that")


@pytest.mark.filterwarnings("ignore:'crs' was not provided")  # which is refused
def test_errors_of_vector_files_are_named(tmp_path):
    broken = tmp_path / "r.geojson"
    broken.write_text('{"type": "FeatureColl')
    assert error_of(VectorLabels(broken), grid_of()).startswith(
        f"{broken}: its roads cannot be read"
    )
    path = write_vectors(tmp_path / "r.gpkg", [shapely.LineString([(0, 0), (1, 1)])], lanes=["2"])
    line = error_of(VectorLabels(path, widths=RoadWidths(5.0, "highway")), grid_of())
    assert line.startswith(f"{path}: has no column highway")
    assert "may name lanes" in line
    line = error_of(VectorLabels(path, layer="nowhere"), grid_of())
    assert line.startswith(f"{path}: ")
    assert "data.source.layer" in line
    lost = write_vectors(
        tmp_path / "s.shp", [shapely.LineString([(0, 0), (1, 1)])], None, "ESRI Shapefile"
    )
    assert error_of(VectorLabels(lost), grid_of()).startswith(f"{lost}: does not say its CRS")


def test_drawing_equals_that_of_rasterio(tmp_path):
    grid = grid_of()
    shapes = [shapely.box(4e5 + 3.2, 5.4e6 - 20.7, 4e5 + 30.1, 5.4e6 - 10.3)]
    path = write_vectors(tmp_path / "r.gpkg", shapes)
    expected = rasterize(shapes, grid.shape, transform=grid.transform) > 0
    assert np.array_equal(roads(VectorLabels(path), grid)[0], expected)


def test_a_table_may_have_numbers_for_keys():
    assert RoadWidths(6.0, "lanes", {2: 20.0, 3: 30.0}).of(3) == 30.0


def test_damaged_vector_files_are_refused(tmp_path):
    lines = [shapely.LineString([(4e5 + i, 5.4e6), (4e5 + i, 5.4e6 - 50)]) for i in range(30)]
    shapes = write_vectors(tmp_path / "s.shp", lines, "EPSG:32632", "ESRI Shapefile")
    content = shapes.read_bytes()
    shapes.write_bytes(content[: len(content) // 2])
    assert error_of(VectorLabels(shapes), grid_of()).startswith(f"{shapes}: ")
    flat = write_vectors(tmp_path / "f.fgb", lines, "EPSG:32632", "FlatGeobuf")
    flat.write_bytes(flat.read_bytes()[:60])
    assert error_of(VectorLabels(flat), grid_of()).startswith(f"{flat}: ")


LOCAL = 'LOCAL_CS["site",UNIT["metre",1]]'


def test_a_local_crs_is_refused(tmp_path, write):
    mask = mask_of(np.random.default_rng(0))
    path = write(tmp_path / "m.tif", mask, crs=LOCAL, transform=AT)
    grid = grid_of(LOCAL)
    assert np.array_equal(roads(path, grid)[0], mask == 255)
    assert ground_sampling_distance(grid) is None
    roads_file = write_vectors(tmp_path / "r.gpkg", [shapely.box(0, 0, 1, 1)])
    assert "vector roads cannot be placed" in error_of(VectorLabels(roads_file), grid)


def test_coordinates_outside_a_crs_are_refused(tmp_path):
    grid = grid_of("EPSG:4326", Affine(0.5, 0, 4e5, 0, -0.5, 5.4e6))
    assert ground_sampling_distance(grid) is None
    path = write_vectors(tmp_path / "r.gpkg", [shapely.box(0, 0, 1, 1)])
    assert "vector roads cannot be placed" in error_of(VectorLabels(path), grid)
