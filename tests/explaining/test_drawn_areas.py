import json

import numpy as np
import pytest
import rasterio
from PIL import Image

from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.drawn_areas import areas_of
from vbp_lightning.explaining.image_inputs import CutImages
from vbp_lightning.explaining.tile_sources import ImageTiles

SIDE = 64


def scene(path, west=500_000, crs="EPSG:32632"):
    profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "dtype": "uint8", "count": 3}
    transform = rasterio.transform.from_origin(west, 5_400_000, 1, 1)
    with rasterio.open(path, "w", **profile, crs=crs, transform=transform) as raster:
        raster.write(np.full((3, SIDE, SIDE), 9, np.uint8))
    return path


def rectangle(path, west, south, east, north):
    ring = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    crs = {"type": "name", "properties": {"name": "EPSG:32632"}}
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon"}}
    feature["geometry"]["coordinates"] = [ring]
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    return str(path)


def mask(path, pixels, side=SIDE, value=1):
    values = np.zeros((side, side), np.uint8)
    values[pixels] = value
    Image.fromarray(values).save(path)
    return str(path)


def found(area, *files, context=0):
    reader = CutImages(Reading(), (0.0, 0.0, 0.0), 32, context)
    source = ImageTiles(reader, files)
    return source, areas_of(area, source, reader)


@pytest.mark.parametrize("value", [1, 255])
def test_a_mask_is_cut_into_the_tiles_that_it_touches(tmp_path, value):
    image = scene(tmp_path / "a.tif")
    source, areas = found(mask(tmp_path / "m.png", np.s_[10:40, 5:8], value=value), image)
    places = {(source.places[i].row, source.places[i].col): area for i, area in areas.items()}
    assert set(places) == {(0, 0), (32, 0)}
    expected = np.zeros((32, 32), bool)
    expected[10:, 5:8] = True
    assert np.array_equal(places[0, 0], expected)
    assert places[32, 0].sum() == 8 * 3


def test_the_context_of_a_tile_is_part_of_it(tmp_path):
    area = mask(tmp_path / "m.png", np.s_[:4, :4])
    source, areas = found(area, scene(tmp_path / "a.tif"), context=8)
    (number,) = areas
    assert (source.places[number].row, source.places[number].col) == (0, 0)
    assert areas[number].shape == (48, 48)
    assert areas[number][8:12, 8:12].all()
    assert areas[number].sum() == 16


def test_vectors_lie_on_every_image_and_masks_on_that_of_their_name(tmp_path):
    files = scene(tmp_path / "a.tif"), scene(tmp_path / "b.tif", 500_064)
    drawn = rectangle(tmp_path / "x.geojson", 500_054, 5_399_990, 500_074, 5_400_000)
    source, areas = found(drawn, *files)
    counts = {source.places[i].scene: int(area.sum()) for i, area in areas.items()}
    assert counts == {"a": 100, "b": 100}
    source, areas = found(mask(tmp_path / "b.png", np.s_[:4, :4]), *files)
    assert [source.places[i].scene for i in areas] == ["b"]
    with pytest.raises(UserError, match=r"c\.png: a mask belongs to one image, and there are 2"):
        found(mask(tmp_path / "c.png", np.s_[:4, :4]), *files)


@pytest.mark.parametrize(
    ("area", "words"),
    [
        ("none.png", "none.png: no such file (area)"),
        (".", "no such file (area)"),
        ("text.geojson", "text.geojson"),
        ("small.png", "small.png: is 10 × 10 px"),
        ("empty.png", "empty.png: covers no pixel of the 4 tiles (area)"),
        ("far.geojson", "far.geojson: covers no pixel of the 4 tiles (area)"),
        (
            "points.geojson",
            "points.geojson: covers no pixel of the 4 tiles (area): give polygons",
        ),
        ("colours.png", "colours.png: a road mask has one band"),
        ("mask.JPG", "mask.JPG: .JPG files change the pixels around an area (area): save the mask"),
    ],
)
def test_areas_that_cannot_be_used_are_one_line(tmp_path, monkeypatch, area, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.geojson").write_text("roads")
    mask(tmp_path / "small.png", np.s_[:4], side=10)
    mask(tmp_path / "empty.png", np.s_[:0])
    mask(tmp_path / "mask.JPG", np.s_[:4])
    point = {"type": "Point", "coordinates": [9.0, 48.74]}
    (tmp_path / "points.geojson").write_text(json.dumps(point))
    rectangle(tmp_path / "far.geojson", 600_000, 5_300_000, 600_010, 5_300_010)
    colours = np.zeros((SIDE, SIDE, 3), np.uint8)
    colours[:4, :, 0] = 200
    Image.fromarray(colours).save("colours.png")
    with pytest.raises(UserError) as error:
        found(area, scene(tmp_path / "a.tif"))
    (line,) = error.value.lines
    assert words in line
    assert "(area)" in line
    assert "data." not in line


def test_vectors_need_an_image_on_the_earth(tmp_path):
    drawn = rectangle(tmp_path / "x.geojson", 500_054, 5_399_990, 500_074, 5_400_000)
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"has no CRS and transform") as error:
        found(drawn, tmp_path / "a.png")
    assert "(area)" in error.value.lines[0]
