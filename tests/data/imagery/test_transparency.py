"""A band that its file calls alpha: transparency or imagery."""

import numpy as np
import pytest
from affine import Affine
from rasterio.windows import Window

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.imagery.raster import OpenImage, Reading, without_place
from vbp_lightning.explaining.image_inputs import CutImages, ResizedImages

PLACE = {"crs": "EPSG:32632", "transform": Affine(1, 0, 5e5, 0, -1, 5e6)}


@pytest.fixture(autouse=True)
def quiet():
    with without_place():
        yield


def infrared(height=64, width=80):
    """Infrared of meadows, a road and water."""
    band = np.full((height, width), 120)
    band[:, 20:30], band[:, 60:] = 60, 0
    return band


def transparent(height=64, width=80, top=255):
    """A hole with a soft border."""
    band = np.full((height, width), top)
    band[:20], band[20:22] = 0, top // 2
    return band


def image_of(fourth, dtype="uint8", bands=3):
    rng = np.random.default_rng(0)
    colours = rng.integers(1, 255, (bands, *fourth.shape))
    return np.concatenate([colours, fourth[None]]).astype(dtype)


def profile(bands):
    return {"photometric": "RGB"} if bands == 3 else {"photometric": "MINISBLACK"}


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_an_alpha_band_of_many_values_is_asked_about(tmp_path, write, dtype, bands):
    image = image_of(infrared(), dtype, bands)
    path = write(tmp_path / "a.tif", image, alpha="YES", **profile(bands))
    with OpenImage(path, Reading()) as opened:
        for window in (Window(0, 0, 80, 32), Window(0, 32, 80, 32)):
            opened.read(window)
        with pytest.raises(DataError) as caught:
            opened.check_alpha()
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: its band {bands + 1} is called alpha, but 75% of its values")
    listed = ",".join(str(number + 1) for number in range(bands + 1))
    assert f"data.bands=[{listed}]" in line
    assert "data.alpha=true" in line
    assert "data.alpha=false" in line


@pytest.mark.parametrize(
    ("reading", "count", "valid"),
    [
        ({"bands": (1, 2, 3, 4)}, 4, 1.0),
        ({"bands": (4,)}, 1, 1.0),
        ({"alpha": True}, 3, 0.75),
        ({"alpha": False}, 3, 1.0),
        ({"alpha": False, "bands": (2, 1)}, 2, 1.0),
    ],
)
def test_the_answers(tmp_path, write, reading, count, valid):
    path = write(tmp_path / "a.tif", image_of(infrared()), alpha="YES", **profile(3))
    with OpenImage(path, Reading(**reading)) as opened:
        bands, shown = opened.read()
        opened.check_alpha()
        opened.sample_alpha()
    assert len(bands) == count
    assert shown.mean() == valid


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("top", [1, 255, 65535])
def test_transparency_with_soft_borders_is_accepted(tmp_path, write, dtype, top):
    alpha = transparent(top=min(top, np.iinfo(dtype).max))
    path = write(tmp_path / "a.tif", image_of(alpha, dtype), alpha="YES", **profile(3))
    with OpenImage(path, Reading()) as opened:
        _, valid = opened.read()
        opened.check_alpha()
    assert np.array_equal(valid, alpha > 0)


def test_all_images_with_such_a_band_are_reported_with_their_masks(listed, make_scene, write):
    scenes = [
        make_scene(split, split, image=image_of(infrared()), alpha="YES", photometric="RGB")
        for split in ("train", "val", "test")
    ]
    write(scenes[1].labels, np.random.default_rng(0).integers(0, 255, (64, 80), np.uint8))
    with pytest.raises(DataError) as caught:
        RoadTileDataModule(listed(tuple(scenes)), tile_size=16, road_share=0.1).setup()
    lines = caught.value.lines
    assert len(lines) == 4
    assert sum("is called alpha" in line for line in lines) == 3
    made = RoadTileDataModule(listed(tuple(scenes[::2])), tile_size=16, bands=[1, 2, 3, 4])
    assert not any("alpha" in line for line in made.scan().errors)


@pytest.mark.parametrize("size", [64, 700])
@pytest.mark.parametrize("kind", ["tiles", "photos"])
def test_explain_refuses_it_too(tmp_path, write, kind, size):
    path = write(tmp_path / "a.tif", image_of(infrared(size, 80)), alpha="YES", **profile(3))
    reader = (
        CutImages(Reading(), (0.0, 0.0, 0.0), 16)
        if kind == "tiles"
        else ResizedImages((1, 2, 3), (0.0, 0.0, 0.0), None, None)
    )
    with pytest.raises(DataError) as caught:
        reader.places(path)
    (line,) = caught.value.lines
    assert "is called alpha" in line
    assert "gdal_translate -b 1 -b 2 -b 3" in line
    assert CutImages(Reading(alpha=False), (0.0, 0.0, 0.0), 16).places(path)
    good = write(tmp_path / "b.tif", image_of(transparent(size, 80)), alpha="YES", **profile(3))
    assert reader.places(good)
