"""Roads and scenes of different datums: where roads are drawn, and how accurately."""

import json
import logging
import re
from math import inf

import numpy as np
import pyproj
import pytest
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import Scene, VectorLabels
from vbp_lightning.data.imagery.datum import accuracy
from vbp_lightning.data.imagery.extent import PixelGrid, ground_sampling_distance
from vbp_lightning.data.imagery.vectors import draw_roads, road_shapes

OXFORD = (451_000.0, 206_000.0)
"""Coordinates of the British National Grid, EPSG:27700."""

OSTN15 = "uk_os_OSTN15_NTv2_OSGBtoETRS.tif"


def grid_around(crs, metres, side=64, centre=OXFORD, source=27700):
    """A scene whose centre is a point, with pixels of about some metres."""
    x, y = Transformer.from_crs(source, crs, always_xy=True).transform(*centre)
    step = metres / 111_000 if pyproj.CRS(crs).is_geographic else metres
    place = Affine(step, 0, x - side / 2 * step, 0, -step, y + side / 2 * step)
    return PixelGrid(side, side, place, CRS.from_user_input(crs))


def write_roads(path, crs, centre):
    """A line to the north and the south of a point."""
    x, y = centre
    length = 0.01 if pyproj.CRS(crs).is_geographic else 1000
    line = {"type": "LineString", "coordinates": [[x, y - length], [x, y + length]]}
    name = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{crs}"}}
    features = [{"type": "Feature", "properties": {}, "geometry": line}]
    collection = {"type": "FeatureCollection", "crs": {"type": "name", **name}}
    path.write_text(json.dumps(collection | {"features": features}))
    return VectorLabels(path)


@pytest.mark.parametrize("crs", [32630, 4326, 3857, 4277, 4258, 27700])
def test_roads_of_another_datum_lie_in_their_place(tmp_path, crs):
    grid = grid_around(crs, 2)
    road = draw_roads(road_shapes(write_roads(tmp_path / "r.json", 27700, OXFORD), grid), grid)
    rows, cols = np.nonzero(road)
    assert len(rows)
    assert abs(cols.mean() + 0.5 - 32) < 2.5
    assert 1 <= road[32].sum() <= 6


CASES = [
    (27700, 32630, 0.5, OXFORD, f"by up to 2 m .* install its grid {OSTN15}"),
    (27700, 4326, 0.5, OXFORD, f"by up to 2 m .* install its grid {OSTN15}"),
    (27700, 32630, 10, OXFORD, None),
    (27700, 27700, 0.5, OXFORD, None),
    (4277, 27700, 0.5, (-1.26, 51.75), None),
    (4326, 32630, 0.1, (-1.26, 51.75), None),
    (4326, 25832, 0.5, (9.5, 50.5), r"by up to 1 m .*\(data\.source\.labels\)$"),
    (4326, 25832, 2, (9.5, 50.5), None),
    (4267, 26915, 1, (-94.5, 40.5), "by an unknown distance .* install its grid us_noaa_"),
]


@pytest.mark.parametrize(("of_roads", "of_scene", "metres", "centre", "said"), CASES)
def test_a_shift_of_more_than_a_pixel_is_one_warning(
    listed, write, tmp_path, caplog, of_roads, of_scene, metres, centre, said
):
    labels = write_roads(tmp_path / "roads.json", of_roads, centre)
    scenes = []
    for number, split in enumerate(("train", "train", "val", "test")):
        grid = grid_around(of_scene, metres, 64, centre, of_roads)
        place = grid.transform @ Affine.translation(0, 70 * number)
        pixels = np.random.default_rng(number).integers(1, 255, (3, 64, 64), dtype=np.uint8)
        image = write(tmp_path / f"{number}.tif", pixels, crs=grid.crs, transform=place)
        scenes.append(Scene(str(number), image, labels, split))
    module = RoadTileDataModule(listed(tuple(scenes)), tile_size=16, road_share=0.001)
    warnings = [line for line in module.scan().warnings if "may be shifted" in line]
    assert len(warnings) == (said is not None)
    if said:
        (line,) = warnings
        line = line.removesuffix("; likewise 3 more scenes")
        assert line.startswith(f"{tmp_path / 'roads.json'}: its roads may be shifted ")
        assert f"whose pixels are {min(ground_sampling_distance(grid)):.3g} m" in line
        assert re.search(said, line), line
        with caplog.at_level(logging.WARNING):
            RoadTileDataModule(listed(tuple(scenes)), tile_size=16, road_share=0.001).setup()
        assert line in "\n".join(caplog.messages)


def test_accuracies_of_proj():
    uk = (-2, 51, -1, 52)
    osgb, utm, degrees = (pyproj.CRS(code) for code in (27700, 32630, 4326))
    assert accuracy(osgb, utm, uk) == (2, OSTN15)
    assert accuracy(degrees, utm, uk) == (0, "")
    assert accuracy(degrees, degrees, (-180, -91, 181, 90)) == (0, "")
    unknown = pyproj.CRS("+proj=tmerc +ellps=WGS84 +lat_0=51 +lon_0=-1 +units=m +type=crs")
    assert accuracy(osgb, unknown, uk) == (inf, "")
