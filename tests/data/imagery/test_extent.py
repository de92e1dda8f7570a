"""Scenes across the antimeridian and at the poles: labels, overlaps, outlines."""

import json

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.windows import Window

from vbp_lightning.data.datasets.scene import RoadWidths, Scene, VectorLabels
from vbp_lightning.data.imagery.extent import (
    WGS84,
    PixelGrid,
    ball,
    degrees_around,
    ground_sampling_distance,
    longitude_latitude,
    overlap_on_ground,
    projected,
    turn,
)
from vbp_lightning.data.imagery.mask_values import MaskValues
from vbp_lightning.data.imagery.raster import without_place
from vbp_lightning.data.imagery.resampling import read_resampled
from vbp_lightning.data.imagery.road_mask import open_roads
from vbp_lightning.data.imagery.vectors import draw_roads, road_shapes
from vbp_lightning.scene_maps.areas import road_areas

PLACES = {
    "UTM 60S": ("EPSG:32760", 180, -17),
    "UTM 1S": ("EPSG:32701", 180, -17),
    "degrees at 180": ("EPSG:4326", 180, -17),
    "degrees at -180": ("EPSG:4326", -180, -17),
    "degrees at 190": ("EPSG:4326", 190, -17),
    "Mercator": ("EPSG:3857", 180, -17),
    "Mercator at the equator": ("EPSG:3857", -180, 0.3),
    "north pole": ("EPSG:3413", 0, 90),
    "south pole": ("EPSG:3031", 0, -90),
    "beside a pole": ("EPSG:3413", 30, 89.995),
}


def grid_at(crs, lon, lat, metres=10, side=100):
    """A scene whose centre is a place; pixels are about some metres wide."""
    crs = CRS.from_string(crs)
    to_crs = pyproj.Transformer.from_crs(4326, crs.to_wkt(), always_xy=True)
    x, y = (lon, lat) if crs.is_geographic else to_crs.transform(lon, lat)
    step = metres / 111_000 if crs.is_geographic else metres
    half = step * side / 2
    return PixelGrid(side, side, Affine(step, 0, x - half, 0, -step, y + half), crs)


def plane_of(grid):
    """Metres on a plane about the centre of a scene, for longitudes and latitudes."""
    lon, lat = longitude_latitude(grid, np.array([grid.width / 2]), np.array([grid.height / 2]))
    about = f"+proj=aeqd +lat_0={lat[0]} +lon_0={lon[0]} +datum=WGS84"
    change = pyproj.Transformer.from_crs(4326, about, always_xy=True)
    return lambda lon, lat: np.stack(change.transform(lon, lat), axis=-1)


def pixel_places(grid):
    rows, cols = np.mgrid[0 : grid.height, 0 : grid.width] + 0.5
    return longitude_latitude(grid, cols, rows)


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("longitudes", ["as they are", "0 to 360", "cut"])
def test_roads_lie_in_their_place(tmp_path, name, longitudes):
    grid = grid_at(*PLACES[name])
    lon, lat = longitude_latitude(grid, np.array([10.0, 52, 90]), np.array([15.0, 53, 75]))
    lines = [np.stack([lon, lat], axis=1)]
    if longitudes == "0 to 360":
        lines[0][:, 0] %= 360
    elif longitudes == "cut":
        lines = [lines[0][:2], lines[0][1:] - [360, 0]]
    geometry = {"type": "MultiLineString", "coordinates": [line.tolist() for line in lines]}
    feature = {"type": "Feature", "properties": {}, "geometry": geometry}
    path = tmp_path / "r.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    road = draw_roads(road_shapes(VectorLabels(path, widths=RoadWidths(61.0)), grid), grid)
    plane = plane_of(grid)
    line = shapely.LineString(plane(lon, lat))
    distance = shapely.distance(shapely.points(plane(*pixel_places(grid))), line)
    assert road[distance < 29.5].all()
    assert not road[distance > 30.6].any()


def test_a_short_road_between_the_places_of_an_outline_is_found(tmp_path):
    """None of its coordinates lies between those of the scene's outline."""
    grid = grid_at("EPSG:32760", 180, -17)
    path = tmp_path / "r.geojson"
    for lon, lat, scene in ((179.9999, -17, grid), (77.0, 90.0, grid_at("EPSG:3413", 0, 90))):
        line = {"type": "LineString", "coordinates": [[lon, lat], [lon, lat - 1e-5]]}
        feature = {"type": "Feature", "properties": {}, "geometry": line}
        path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
        assert draw_roads(
            road_shapes(VectorLabels(path, widths=RoadWidths(40.0)), scene), scene
        ).any()


@pytest.mark.parametrize("mask_name", ["degrees at 180", "degrees at -180", "UTM 1S", "Mercator"])
@pytest.mark.parametrize("name", ["UTM 60S", "degrees at 180", "degrees at -180", "Mercator"])
def test_road_masks_across_the_antimeridian(tmp_path, write, name, mask_name):
    """The mask is road west of 180 degrees."""
    grid = grid_at(*PLACES[name])
    own = grid_at(*PLACES[mask_name], metres=9, side=160)
    west = pixel_places(own)[0] % 360 < 180
    path = write(tmp_path / "m.tif", west * np.uint8(255), crs=own.crs, transform=own.transform)
    with (
        without_place(),
        open_roads(Scene("a", tmp_path / "a.tif", path), grid, grid, MaskValues()) as opened,
    ):
        road, known = opened.read(grid.window)
    assert known.all()
    lon = pixel_places(grid)[0] % 360
    border = np.abs(lon - 180) < 1e-4  # 10 m
    assert np.array_equal(road | border, (lon < 180) | border)


@pytest.mark.parametrize("name", [name for name in PLACES if name[0] in "dM"])
def test_an_image_is_resampled_across_the_antimeridian(name):
    source = grid_at(*PLACES[name])
    target = grid_at("EPSG:32702" if "190" in name else "EPSG:32760", *PLACES[name][1:], 20, 40)

    def read(window):
        lon = pixel_places(source)[0] % 360
        return lon[None][(slice(None), *window.toslices())], np.ones(
            (window.height, window.width), bool
        )

    window = Window(3, 5, 30, 20)
    pixels, valid = read_resampled(read, source, target, window, Resampling.bilinear)
    assert valid.all()
    expected = pixel_places(target)[0][window.toslices()] % 360
    assert np.abs(pixels[0] - expected).max() < 5e-6  # a twentieth of a pixel


@pytest.mark.parametrize("name", PLACES)
def test_overlaps_are_those_on_the_ground(name):
    first = grid_at(*PLACES[name])
    plane = plane_of(first)
    for place in PLACES.values():
        second = grid_at(*place, metres=7)
        distance = np.linalg.norm(plane(*pixel_places(second)), axis=-1).min()
        expected = distance < 400  # the scenes are 1 km wide
        assert overlap_on_ground(first, second) == overlap_on_ground(second, first) == expected


def test_scenes_that_touch_do_not_overlap():
    first = grid_at("EPSG:3413", 0, 90)
    for shift, expected in ((1000, False), (990, True), (-1000, False)):
        moved = Affine(10, 0, first.transform.c + shift, 0, -10, first.transform.f)
        second = PixelGrid(100, 100, moved, first.crs)
        assert overlap_on_ground(first, second, 0.5) == expected


@pytest.mark.parametrize("name", PLACES)
def test_a_ball_holds_every_pixel(name):
    grid = grid_at(*PLACES[name])
    lon, lat = np.radians(pixel_places(grid))
    places = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    distance = np.linalg.norm(places - ball(grid).centre, axis=-1)
    assert distance.max() <= ball(grid).radius <= 1.1 * distance.max()


@pytest.mark.parametrize("name", PLACES)
def test_areas_are_cut_at_the_antimeridian(name):
    """As RFC 7946 demands; the area on the ellipsoid stays."""
    grid = grid_at(*PLACES[name])
    probability = np.zeros(grid.shape, np.float32)
    probability[40:60, 20:80] = 0.9
    probability[45:50, 45:48] = 0.1
    (area,) = road_areas(probability, grid.transform, grid.crs, 0.5)
    shape = shapely.geometry.shape(area.geometry)
    assert shape.is_valid
    west, south, east, north = shape.bounds
    assert -180 <= west < east <= 180
    assert -90 <= south < north <= 90
    metres = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shapely.orient_polygons(shape))[0]
    assert metres == pytest.approx(area.cells * np.prod(ground_sampling_distance(grid)), rel=2e-3)
    lon, lat = pixel_places(grid)
    inside = shapely.intersects_xy(shape, (lon + 180) % 360 - 180, lat)
    assert np.array_equal(inside, probability > 0.5)


def test_the_degrees_around_a_scene():
    west, south, east, north = degrees_around(grid_at("EPSG:32760", 180, -17))
    assert 179.99 < west < 180
    assert -180 < east < -179.99
    assert south < -17 < north
    assert degrees_around(grid_at("EPSG:3413", 0, 90))[::2] == (-180, 180)
    assert degrees_around(grid_at("EPSG:4326", 190, -17))[0] == pytest.approx(-170.0045, abs=1e-3)


@pytest.mark.parametrize(
    ("crs", "expected"),
    [
        (4326, 360),
        (4807, 400),
        (3857, 40075016.68557849),
        (32633, None),
        (3413, None),
        (2154, None),
    ],
)
def test_the_turn_of_a_crs(crs, expected):
    assert turn(pyproj.CRS.from_epsg(crs)) == pytest.approx(expected)


def test_an_area_around_a_pole_with_a_hole_around_it():
    ring = shapely.Point(0, 0).buffer(2e6).difference(shapely.Point(0, 0).buffer(1e6))
    to_degrees = pyproj.Transformer.from_crs(3413, 4326, always_xy=True)
    (shape,) = projected(
        np.array([ring]), lambda xy: np.stack(to_degrees.transform(*xy.T), axis=1), WGS84
    )
    assert shape.is_valid
    assert shape.bounds == pytest.approx((-180, 71.5, 180, 80.8), abs=0.3)
    assert shape.area == pytest.approx(360 * 9.1, rel=0.05)
