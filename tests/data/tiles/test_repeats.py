"""Equal pictures, and equal tiles, in several splits."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from affine import Affine

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.tiles.signatures import Signatures
from vbp_lightning.data.tiles.splits import KnownSplits

SETTINGS = {"tile_size": 16, "batch_size": 4, "road_share": 0.1}


def placed(x):
    return {"crs": "EPSG:32632", "transform": Affine(0.5, 0, 4e5 + x, 0, -0.5, 5e6)}


@pytest.fixture
def scan(make_scene, listed):
    """Scans a scene of each split and some more scenes."""

    def run(*more, **settings):
        scenes = [make_scene(name, name) for name in ("train", "val", "test")]
        module = RoadTileDataModule(listed((*scenes, *more)), **(SETTINGS | settings))
        return module.scan()

    return run


def lines_about(lines):
    return [line for line in lines if "same pixels" in line]


@pytest.mark.parametrize("memory", [2.0, 1e-4])
@pytest.mark.parametrize(
    "profile",
    [
        {"compress": "deflate", "predictor": 2},
        {"tiled": True, "blockxsize": 16, "blockysize": 32, "interleave": "pixel"},
        {"driver": "PNG"},
        placed(0),
    ],
)
def test_a_scene_in_two_splits_is_an_error_in_any_format(make_scene, scan, profile, memory):
    image = np.random.default_rng(3).integers(0, 255, (3, 64, 80), dtype=np.uint8)
    one = make_scene("one", "train", image=image)
    other = make_scene("other", "test", image=image, **profile)
    errors = lines_about(scan(one, other, memory=memory).errors)
    assert len(errors) == 1
    assert str(one.image) in errors[0]
    assert str(other.image) in errors[0]
    assert "belongs to test, that to train (data.root)" in errors[0]
    assert "data.split_file" in errors[0]


def test_a_scene_twice_in_one_split_is_a_warning(make_scene, scan, tmp_path):
    one = make_scene("one", "val")
    shutil.copy(one.image, tmp_path / "copy.tif")
    found = scan(one, replace(one, name="copy", image=tmp_path / "copy.tif"))
    assert not found.errors
    assert len(lines_about(found.warnings)) == 1
    assert "1 scenes show the same pixels as another one of their split" in found.warnings[0]


def test_a_pixel_makes_another_scene_but_equal_tiles_are_counted(make_scene, scan):
    image = np.random.default_rng(3).integers(0, 255, (3, 64, 80), dtype=np.uint8)
    one = make_scene("one", "train", image=image)
    changed = image.copy()
    changed[1, 5, 7] ^= 1  # no sampled pixel
    found = scan(one, make_scene("other", "test", image=changed))
    assert not found.errors
    (line,) = lines_about(found.warnings)
    assert line.startswith("19 tiles of val or test show the same pixels")  # of 4 × 5
    assert "other.tif at row 0, column 16 (test)" in line
    assert "one.tif at row 0, column 16 (train)" in line


@pytest.mark.parametrize("value", [0, 7, 255])
def test_areas_of_one_value_are_no_finding(make_scene, scan, value):
    image = np.random.default_rng(3).integers(1, 250, (3, 64, 80), dtype=np.uint8)
    image[:, :32] = value
    other = np.random.default_rng(4).integers(1, 250, (3, 64, 80), dtype=np.uint8)
    other[:, :32] = value
    uniform = np.full((3, 64, 80), value, np.uint8)
    found = scan(
        *(make_scene("one", "train", image=image), make_scene("other", "test", image=other)),
        *(make_scene("flat", "train", image=uniform), make_scene("plain", "test", image=uniform)),
        nodata=0,
        max_invalid=1,
    )
    assert not lines_about(found.errors + found.warnings)


def test_nodata_pixels_do_not_make_scenes_differ(make_scene, scan):
    image = np.random.default_rng(3).integers(1, 250, (3, 64, 80), dtype=np.uint8)
    one, other = image.copy(), image.copy()
    one[:, :, 40:], other[:, :, 40:] = 0, 255
    found = scan(
        make_scene("one", "train", image=one, nodata=0),
        make_scene("other", "test", image=other, nodata=255),
    )
    assert len(lines_about(found.errors)) == 1


def test_overlapping_scenes_are_not_named_twice(make_scene, scan):
    image = np.random.default_rng(3).integers(1, 250, (3, 64, 160), dtype=np.uint8)
    west = make_scene("west", "val", image=image[:, :, :96], **placed(0))
    east = make_scene("east", "test", image=image[:, :, 64:], **placed(32))
    found = scan(west, east)
    assert not lines_about(found.errors + found.warnings)
    assert any("Scenes of val and test overlap" in line for line in found.warnings)
    # without a georeference, only their pixels show it
    plain = [make_scene("a", "val", image=image[:, :, :96])]
    plain.append(make_scene("b", "test", image=image[:, :, 64:]))
    (line,) = lines_about(scan(*plain).warnings)
    assert line.startswith("8 tiles of val or test show")


def test_a_run_that_exists_goes_on_with_its_splits(make_scene, listed):
    image = np.random.default_rng(3).integers(0, 255, (3, 64, 80), dtype=np.uint8)
    scenes = [make_scene(n, n) for n in ("train", "val", "test")]
    scenes.append(make_scene("copy", "train", image=image))
    scenes.append(make_scene("other", "val", image=image))
    module = RoadTileDataModule(listed(tuple(scenes)), **SETTINGS)
    with pytest.raises(DataError, match="same pixels"):
        module.setup()
    module.known_splits = KnownSplits.of_checkpoint({s.name: s.split for s in scenes}, {})
    module.setup()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_signatures_are_the_sums_that_the_class_documents(dtype):
    rng = np.random.default_rng(1)
    bands = rng.normal(100, 30, (2, 50, 60)).astype(dtype)
    valid = rng.random((50, 60)) < 0.9
    corners = np.array([[0, 0], [3, 7], [18, 28], [20, 20]])
    bands[:, 20:50, 20:52] = 5
    found = []
    for windows in ([(0, 50, 0, 60)], [(20, 50, 0, 60), (0, 20, 30, 60), (0, 20, 0, 30)]):
        signatures = Signatures(corners, (30, 32), 4)
        for top, bottom, left, right in windows:
            part = np.s_[top:bottom, left:right]
            signatures.add(bands[:, *part], valid[part], top, left)
        found.append(signatures.values.tolist())
    assert found[0] == found[1]
    weights = np.random.default_rng(0).integers(0, 1 << 63, (2, 1, 4, 4), np.uint64).tolist()
    bits = bands.view(f"u{bands.dtype.itemsize}")
    expected = []
    for row, col in corners.tolist():
        total = 0
        for i in range(4):
            for j in range(4):
                y, x = row + (2 * i + 1) * 30 // 8, col + (2 * j + 1) * 32 // 8
                for band in range(2):
                    if valid[y, x]:
                        total += int(bits[band, y, x]) * (2 * weights[band][0][i][j] + 1)
        expected.append(total % (1 << 64))
    assert found[0] == [*expected[:3], 0]  # the last one is uniform
