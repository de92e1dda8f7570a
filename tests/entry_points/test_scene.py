"""``python explain.py task=scene``, end to end on an untrained network."""

import shutil

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from PIL import Image

from tests.helpers.checkpoints import saved
from vbp_lightning import RoadClassifier

TURNED = Affine.translation(500_000, 5_400_000) @ Affine.rotation(20) @ Affine.scale(0.5, -0.5)


@pytest.fixture
def here(tmp_path):
    """Overrides: an untrained network, two scenes of noise and one that is too small."""
    torch.manual_seed(0)
    model = RoadClassifier("maxpool", mean=[120.0] * 3, std=[60.0] * 3)
    saved(tmp_path / "a.ckpt", model)
    folder = tmp_path / "scenes"
    folder.mkdir()
    chance = np.random.default_rng(0)
    for name, height, width in (("a", 200, 211), ("b", 96, 96), ("small", 95, 200)):
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "crs": "EPSG:32632"}
        size = {"height": height, "width": width, "transform": TURNED}
        with rasterio.open(folder / f"{name}.tif", "w", **profile, **size) as raster:
            raster.write(chance.integers(0, 255, (3, height, width), dtype=np.uint8))
    return (f"ckpt={tmp_path / 'a.ckpt'}", f"input={folder}", "output=maps", "task=scene")


@pytest.mark.parametrize("mode", ["seamless", "tiles"])
def test_maps_of_a_folder(call, here, tmp_path, mode):
    finished = call("explain.py", *here, f"mode={mode}", "block=128")
    assert finished.returncode == 1
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert f"{tmp_path / 'scenes' / 'small.tif'}: is 200 × 95 px" in line
    for name, shape in (("a", (200, 211)), ("b", (96, 96))):
        with rasterio.open(tmp_path / "maps" / f"{name}_visual_backprop.tif") as mask:
            assert mask.shape == shape
            assert mask.crs.to_epsg() == 32632
            assert mask.transform.almost_equals(TURNED)
        with rasterio.open(tmp_path / "maps" / f"{name}_probability.tif") as probability:
            values = probability.read(1, masked=True).compressed()
            assert len(values)
            assert values.min() >= 0
            assert values.max() <= 1
        with Image.open(tmp_path / "maps" / f"{name}_quick_look.png") as picture:
            assert picture.height >= shape[0]
            assert len(picture.convert("RGB").getcolors(2**24)) > 100
    assert len(list((tmp_path / "maps").glob("*.tif"))) == 4


def test_white_areas_are_those_of_the_training_data(call, here, tmp_path):
    """The checkpoint holds the number of saturated pixels from which white is nodata."""
    data = {"source": {"white_area": 256}}
    model = RoadClassifier("strided", mean=[120.0] * 3, std=[60.0] * 3, data=data)
    saved(tmp_path / "a.ckpt", model)
    path = tmp_path / "scenes" / "b.tif"
    with rasterio.open(path, "r+") as raster:
        image = raster.read()
        image[:, 80:, 70:] = 255
        image[:, :10, :10] = 255
        raster.write(image)
    finished = call("explain.py", *here, f"input={path}", "quick_look=false")
    assert finished.returncode == 0, finished.stderr
    missing = np.zeros((96, 96), bool)
    missing[80:, 70:] = True
    with rasterio.open(tmp_path / "maps" / "b_visual_backprop.tif") as mask:
        assert np.array_equal(mask.read_masks(1) == 0, missing)
    with rasterio.open(tmp_path / "maps" / "b_probability.tif") as probability:
        (value,) = probability.read(1, masked=True).compressed()
    filled = np.where(missing, 120, image).astype(np.float32)[None]
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(filled)).sigmoid().item()
    assert value == pytest.approx(expected, abs=1e-6)


def test_maps_with_a_shared_scale_are_computed_again_when_a_scene_is_added(call, here, tmp_path):
    """They stay if no scene is added; maps with another scale are refused."""
    for name in ("a", "small"):
        (tmp_path / "scenes" / f"{name}.tif").rename(tmp_path / f"{name}.tif")
    maps = tmp_path / "maps"

    def written():
        finished = call("explain.py", *here, "quick_look=false", "scale=shared")
        assert finished.returncode == 0, finished.stderr
        return {path.name: path.stat().st_mtime_ns for path in maps.glob("*.tif")}

    def limits(name):
        with rasterio.open(maps / f"{name}_visual_backprop.tif") as raster:
            return raster.tags()["MASK_LOW"], raster.tags()["MASK_HIGH"]

    alone = written()
    before = limits("b")
    assert written() == alone
    (tmp_path / "a.tif").rename(tmp_path / "scenes" / "a.tif")
    together = written()
    assert len(together) == 4
    assert all(together[name] > time for name, time in alone.items())
    assert limits("a") == limits("b") != before
    assert written() == together

    finished = call("explain.py", *here, "quick_look=false", "scale=each")
    assert finished.returncode == 1
    assert "overwrite=true" in finished.stderr


def test_maps_of_another_scene_of_the_same_name_are_refused_by_name(call, here, tmp_path):
    options = [each for each in here if not each.startswith("input=")] + ["quick_look=false"]
    first = tmp_path / "2020" / "a.tif"
    second = tmp_path / "2021" / "a.tif"
    for path in (first, second):
        path.parent.mkdir()
        shutil.copyfile(tmp_path / "scenes" / "a.tif", path)
    with rasterio.open(second, "r+") as raster:
        raster.write(raster.read() // 2)

    def mapped(image, *more):
        return call("explain.py", *options, f"input={image}", *more)

    def written():
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "maps").iterdir()}

    assert mapped(first).returncode == 0
    before = written()
    refused = mapped(second)
    assert refused.returncode == 1
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert f"shows {first}, which is not {second} (output)" in line
    assert "overwrite=true" in line
    assert written() == before
    moved = tmp_path / "moved" / "a.tif"
    shutil.copytree(first.parent, moved.parent)
    shutil.rmtree(first.parent)
    again = mapped(moved)
    assert again.returncode == 0
    assert written() == before

    assert mapped(second, "overwrite=true").returncode == 0
    assert mapped(second, "output=fresh").returncode == 0
    for name in ("a_probability.tif", "a_visual_backprop.tif"):
        one, other = (
            rasterio.open(tmp_path / folder / name).read() for folder in ("maps", "fresh")
        )
        np.testing.assert_array_equal(one, other)


def test_maps_of_an_image_that_changed_are_refused(call, here, tmp_path):
    image = tmp_path / "scenes" / "b.tif"
    options = (*here, f"input={image}", "quick_look=false")
    assert call("explain.py", *options).returncode == 0
    mask = np.full((96, 96), 255, np.uint8)
    mask[:9] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(image, "r+") as raster:
        raster.write_mask(mask)
    refused = call("explain.py", *options)
    assert refused.returncode == 1
    assert f"shows {image} as it was before a change (output)" in refused.stderr


def test_wrong_options_are_one_line_each(call, here):
    wrong = ("mode=quick", "block=100", "scaling=best", "blend=max", "stride=3", "roads=maybe")
    finished = call("explain.py", *here, *wrong)
    assert finished.returncode == 1
    lines = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == len(wrong)
    for option in wrong:
        assert any(line.startswith(f"error: {option}: ") for line in lines)
