"""The values of road masks: what they mean, and which are refused with their numbers."""

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from PIL import Image
from pydantic_core import to_jsonable_python
from rasterio.crs import CRS
from scipy import ndimage

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import DataError, Scene
from vbp_lightning.data.imagery.extent import PixelGrid
from vbp_lightning.data.imagery.mask_values import MaskValues
from vbp_lightning.data.imagery.raster import without_place
from vbp_lightning.data.imagery.road_mask import open_roads
from vbp_lightning.data.settings import DataSettings

HEIGHT, WIDTH = 120, 160


@pytest.fixture(autouse=True)
def quiet():
    with without_place():
        yield


def roads(path, *parts, **values):
    grid = PixelGrid(HEIGHT, WIDTH, Affine.identity(), None)
    with open_roads(Scene("a", Path("a.tif"), path), grid, grid, MaskValues(**values)) as opened:
        road, known = opened.read(grid.window)
        opened.check()
        return road, known


def line_of(path, **values):
    with pytest.raises(DataError) as caught:
        roads(path, **values)
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: ")
    return line


def classes():
    """0, and a stripe of 1, of 2 and of 255."""
    plane = np.zeros((HEIGHT, WIDTH), np.uint8)
    plane[:, 20:32], plane[:, 60:70], plane[:, 130:] = 1, 2, 255
    return plane


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
def test_every_listed_value_has_its_meaning(tmp_path, write, dtype):
    plane = classes().astype(dtype)
    path = write(tmp_path / "m.tif", plane)
    road, known = roads(path, road=(1, 2), ignored=(255,))
    assert np.array_equal(road, (plane == 1) | (plane == 2))
    assert np.array_equal(known, plane != 255)
    road, known = roads(path, road=(2,), non_road=(0, 1, 255))
    assert np.array_equal(road, plane == 2)
    assert known.all()


def test_values_without_a_meaning_are_counted(tmp_path, write):
    path = write(tmp_path / "m.tif", classes())
    line = line_of(path, road=(1,), ignored=(255,))
    assert f"holds 2 ({10 * HEIGHT} px) beside 0 ({108 * HEIGHT} px), 1 ({12 * HEIGHT} px)" in line
    assert "data.non_road_values" in line
    line = line_of(path, road=(1,))
    assert f"255 ({30 * HEIGHT} px), 2 ({10 * HEIGHT} px) beside" in line


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("threshold", [0, 1, 127])
@pytest.mark.parametrize(
    ("values", "unexplained"),
    [((0, 1, 255), {0: (1, 255), 1: (1,), 127: (1,)}), ((0, 1, 2), {0: (1, 2), 1: (1,)})],
)
def test_a_threshold_does_not_explain_classes(
    tmp_path, write, dtype, threshold, values, unexplained
):
    plane = np.zeros((HEIGHT, WIDTH), dtype)
    plane[:, 10:12] = plane[40] = values[1]  # thin roads
    plane[:, 120:] = values[2]
    path = write(tmp_path / "m.tif", plane)
    if threshold in unexplained:
        line = line_of(path, threshold=threshold)
        assert any(f"holds {value} (" in line for value in unexplained[threshold])
        assert "data.road_values" in line
        assert f"data.mask_threshold={threshold}" in line
    else:
        assert not roads(path, threshold=threshold)[0].any()


@pytest.mark.parametrize("count", [17, 200])
def test_a_threshold_does_not_explain_many_classes(tmp_path, write, count):
    plane = np.kron(np.arange(192).reshape(12, 16) % count, np.ones((10, 10))).astype(np.uint8)
    assert line_of(write(tmp_path / "m.tif", plane), threshold=0)


# What is accepted


def drawn(seed=0, scale=1):
    """Roads 0 or 255 at some times the size."""
    rng = np.random.default_rng(seed)
    plane = np.zeros((HEIGHT * scale, WIDTH * scale), np.uint8)
    for _ in range(3):
        row, col = rng.integers(5, HEIGHT - 15), rng.integers(5, WIDTH - 15)
        width = int(rng.integers(3, 9))
        plane[scale * row : scale * (row + width)] = 255
        plane[:, scale * col : scale * (col + width)] = 255
    return ndimage.rotate(plane, 20, reshape=False, order=0)


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_masks_are_read_by_their_threshold(tmp_path, suffix, quality):
    mask = drawn()
    path = tmp_path / f"m.{suffix}"
    Image.fromarray(mask).save(path, quality=quality)
    road, known = roads(path)
    with Image.open(path) as stored:
        values = np.asarray(stored.convert("RGB")).astype(int)
    assert road[values.min(axis=-1) > 127].all()
    assert not road[values.max(axis=-1) <= 127].any()
    assert (road == (mask > 127)).mean() > 0.97
    assert known.all()


@pytest.mark.parametrize("soften", ["antialiased", "blurred", "resized"])
@pytest.mark.parametrize("threshold", [0, 100, 127])
def test_soft_borders_are_read_by_their_threshold(tmp_path, write, soften, threshold):
    if soften == "antialiased":
        mask = drawn(scale=2).reshape(HEIGHT, 2, WIDTH, 2).mean(axis=(1, 3)).astype(np.uint8)
        assert 3 <= len(np.unique(mask)) <= 16
    elif soften == "blurred":
        mask = ndimage.gaussian_filter(drawn().astype(np.float32), 0.8).astype(np.uint8)
    else:
        small = Image.fromarray(drawn()[::2, ::2])
        mask = np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    road, _ = roads(write(tmp_path / "m.tif", mask), threshold=threshold)
    assert np.array_equal(road, mask > threshold)


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_grey_masks_of_colours_and_transparency(tmp_path, bands):
    mask = drawn()
    alpha = np.full_like(mask, 255)
    alpha[:20] = 0
    planes = [mask] * (bands if bands < 3 else 3)
    planes = [mask, alpha] if bands == 2 else planes + [alpha] * (bands == 4)
    stacked = planes[0] if bands == 1 else np.stack(planes, axis=-1)
    path = tmp_path / "m.png"
    Image.fromarray(stacked).save(path)
    road, known = roads(path)
    shown = alpha > 0 if bands in (2, 4) else np.ones(mask.shape, bool)
    assert np.array_equal(road, (mask > 127) & shown)
    assert np.array_equal(known, shown)


def test_a_mask_that_is_transparent_off_the_road_is_refused(tmp_path):
    mask = drawn()
    path = tmp_path / "m.png"
    Image.fromarray(np.stack([mask, mask, mask, mask], axis=-1)).save(path)
    assert "makes all pixels transparent but roads" in line_of(path)


def test_colours_that_differ_are_refused(tmp_path):
    mask = drawn()
    path = tmp_path / "m.png"
    zero, full = np.zeros_like(mask), np.full_like(mask, 255)
    Image.fromarray(np.stack([mask, zero, zero, full], axis=-1)).save(path)
    assert "this file has 4 that differ" in line_of(path)


@pytest.mark.parametrize(
    ("colours", "value"),
    [([0, 0, 0, 255, 255, 255], 255), ([0, 0, 0, 255, 0, 0], 1), ([0, 9, 0, 0, 0, 0], 1)],
)
def test_palettes_of_greys_are_read_as_grey_and_others_by_index(tmp_path, colours, value):
    mask = drawn() > 127
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette(colours)
    path = tmp_path / "m.png"
    picture.save(path)
    for values in ({"road": (value,)}, {"threshold": value - 1}):
        road, known = roads(path, **values)
        assert np.array_equal(road, mask)
        assert known.all()


def test_a_warped_mask_with_transparency(tmp_path, write):
    mask = drawn()
    place = {"crs": "EPSG:32632", "transform": Affine(1, 0, 4e5 + 10, 0, -1, 5e6)}
    alpha = np.full_like(mask, 255)
    alpha[:, :30] = 0
    pixels = np.stack([mask, mask, mask, alpha])
    path = write(tmp_path / "m.tif", pixels, photometric="RGB", alpha="YES", **place)
    grid = PixelGrid(HEIGHT, WIDTH, Affine(1, 0, 4e5, 0, -1, 5e6), CRS.from_epsg(32632))
    scene = Scene("a", Path("a.tif"), path)
    with open_roads(scene, grid, grid, MaskValues()) as opened:
        road, known = opened.read(grid.window)
    expected = np.zeros(mask.shape, bool)
    expected[:, 40:] = True
    assert np.array_equal(known, expected)
    assert np.array_equal(road[:, 40:], mask[:, 30:-10] > 127)


# Whole data sets


def test_all_masks_with_unexplained_values_are_reported_together(listed, make_scene):
    def mask(number):
        plane = np.zeros((64, 80), np.uint8)
        plane[:, :20], plane[:, 60 + number :] = 1, 255
        return plane

    scenes = tuple(
        make_scene(split, split, mask=mask(number))
        for number, split in enumerate(("train", "val", "test"))
    )
    settings = {"tile_size": 16, "max_invalid": 1.0}
    with pytest.raises(DataError) as caught:
        RoadTileDataModule(listed(scenes), mask_threshold=0, **settings).setup()
    assert len(caught.value.lines) == 3
    made = RoadTileDataModule(listed(scenes), road_values=[1], ignore_values=[255], **settings)
    scan = made.scan()
    assert not scan.errors
    for number, item in enumerate(scan.scanned):
        assert (item.road_pixels, item.valid_pixels) == (64 * 20, 64 * (60 + number))
    assert DataSettings(**to_jsonable_python(made.settings)) == made.settings


def test_masks_on_another_scale_than_the_others_are_named(listed, make_scene):
    mask = np.zeros((64, 80), np.uint8)
    mask[:, :20] = 255
    scenes = [make_scene(split, split, mask=mask) for split in ("train", "val", "test")]
    other = make_scene("other", "train", mask=mask // 255)
    empty = make_scene("empty", "train", mask=mask * 0)

    def warnings_of(*added, **settings):
        made = RoadTileDataModule(listed((*scenes, *added)), tile_size=16, **settings)
        return [line for line in made.scan().warnings if "have no road" in line]

    (line,) = warnings_of(other, empty)
    assert line.startswith(f"1 of 5 road masks have no road, but values up to 1, as {other.labels}")
    assert not warnings_of(empty)
    assert not warnings_of(other, mask_threshold=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"road_values": []},
        {"road_values": [0]},
        {"road_values": [1], "ignore_values": [1, 2]},
        {"road_values": ["a"]},
        {"ignore_values": 255},
    ],
)
def test_settings_that_contradict_each_other(listed, settings):
    with pytest.raises(DataError) as caught:
        RoadTileDataModule(listed(()), **settings)
    (line,) = caught.value.lines
    assert line.startswith("data.")
