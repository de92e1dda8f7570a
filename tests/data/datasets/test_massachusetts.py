"""The layout of the Massachusetts Roads dataset."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.pattern_scenes import PatternScenes
from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.tiles.streaming import INVALID_PIXEL
from vbp_lightning.data.tiles.tile import Label

MassachusettsScenes = partial(
    PatternScenes,
    images="{split}/sat/{name}.tif*",
    masks="{split}/map/{name}.tif*",
    white_area=256,
)

REAL = Path(__file__).parents[4] / "shared" / "data" / "massachusetts"


@pytest.fixture
def root(tmp_path, write):
    """Two training scenes and one of each other split, 64 × 64 px."""
    for number, (folder, name) in enumerate(
        [("train", "a"), ("train", "b"), ("valid", "c"), ("test", "d")]
    ):
        rng = np.random.default_rng(number)
        mask = np.zeros((64, 64), np.uint8)
        mask[:, :8] = 255
        image = rng.integers(0, 200, (3, 64, 64), np.uint8)
        write(tmp_path / folder / "sat" / f"{name}.tiff", image)
        write(tmp_path / folder / "map" / f"{name}.tif", mask)
    return tmp_path


def test_finds_scenes_by_folder(root):
    scenes = MassachusettsScenes(root)()
    assert [(scene.name, scene.split) for scene in scenes] == [
        ("a", "train"),
        ("b", "train"),
        ("c", "val"),
        ("d", "test"),
    ]
    assert scenes[2].image == root / "valid" / "sat" / "c.tiff"
    assert scenes[2].labels == root / "valid" / "map" / "c.tif"


def test_both_suffixes_are_read_and_other_files_ignored(root):
    (root / "train" / "sat" / "a.tiff").rename(root / "train" / "sat" / "a.TIF")
    (root / "train" / "map" / "b.tif").rename(root / "train" / "map" / "b.tiff")
    (root / "train" / "sat" / ".a.123.tmp.tiff").write_bytes(b"half-written")
    (root / "train" / "sat" / "readme.txt").write_text("hello")
    scenes = MassachusettsScenes(root)()
    assert [scene.name for scene in scenes] == ["a", "b", "c", "d"]
    assert all(scene.image.is_file() and scene.labels.is_file() for scene in scenes)


def test_lone_files_are_reported_where_their_partners_are_expected(root):
    (root / "train" / "map" / "a.tif").unlink()
    (root / "test" / "sat" / "d.tiff").unlink()
    with pytest.raises(DataError) as caught:
        RoadTileDataModule(MassachusettsScenes(root), tile_size=16).setup()
    first, second = caught.value.lines
    assert first.startswith(f"{root / 'train/sat/a.tiff'}: has no road mask")
    assert str(root / "train/map/a.tif*") in first
    assert second.startswith(f"{root / 'test/map/d.tif'}: is a mask without an image")
    assert str(root / "test/sat/d.tif*") in second


@pytest.mark.parametrize("copy", ["train/sat/a.tif", "train/map/a.tiff"], ids=str)
def test_a_repeated_name_is_reported(root, copy):
    (root / copy).write_bytes((root / "train" / "sat" / "a.tiff").read_bytes())
    with pytest.raises(DataError, match="several scenes are called a"):
        RoadTileDataModule(MassachusettsScenes(root), tile_size=16).setup()


def test_white_areas_are_nodata_also_under_roads(root, write):
    image = np.random.default_rng(9).integers(0, 200, (3, 64, 64), np.uint8)
    image[:, :, :24] = 255
    image[:, 40:44, 40:44] = 255  # a roof
    write(root / "train" / "sat" / "a.tiff", image)
    made = RoadTileDataModule(
        MassachusettsScenes(root), tile_size=16, train_stride=16, max_invalid=0.5
    )
    made.setup()
    tiles = {(t.tile.row, t.tile.col): t for t in made.tiles_of("train") if t.tile.scene == "a"}
    assert {col for _, col in tiles} == {16, 32, 48}
    assert made.counts["train"]["dropped"] == 4
    assert all(tile.label == Label.NON_ROAD for tile in tiles.values())
    assert not made.read_road_masks(list(tiles.values())).any()
    # Filled with the training mean; the roof stays white.
    filled = made.read_tiles([tiles[0, 16]])[0, :, :, :8]
    assert torch.equal(filled, torch.tensor(made.mean).round()[:, None, None].expand(3, 16, 8))
    assert (made.read_tiles([tiles[32, 32]])[0, :, 8:12, 8:12] == 255).all()
    white = RoadTileDataModule(MassachusettsScenes(root, white_area=0), tile_size=16)
    white.setup()
    assert white.counts["train"]["dropped"] == 0


@pytest.mark.skipif(not REAL.is_dir(), reason="the real scenes are not here")
def test_the_real_scenes():
    made = RoadTileDataModule(MassachusettsScenes(REAL), train_stride=96)
    made.setup()
    assert made.counts["test"] == {"road": 202, "non_road": 238, "ignored": 72, "dropped": 0}
    assert made.counts["val"] == {"road": 213, "non_road": 229, "ignored": 70, "dropped": 0}
    assert sum(made.counts["train"].values()) == 180 * 16
    scan = made._scan
    nodata = {
        info.scene.name: int((labels[:, :] == INVALID_PIXEL).sum())
        for info, labels in zip(scan.infos, scan.store.labels, strict=True)
        if (labels[:, :] == INVALID_PIXEL).any()
    }
    assert nodata.keys() == {"img-81", "img-817"}
    assert 5184 <= nodata["img-81"] < 5600
    assert 441 <= nodata["img-817"] < 800
