"""Scans of whole data sets: blocks, overlaps, resampling, stretching and the report."""

import csv
import logging

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import SPLITS, DataError
from vbp_lightning.data.tiles.augmentation import Augmentation


def scene_at(make_scene, name, x, y=0.0, split=None, size=200, pixel=0.5, **settings):
    return make_scene(
        name,
        split,
        height=size,
        width=size,
        crs="EPSG:32632",
        transform=Affine(pixel, 0, 4e5 + x, 0, -pixel, 5e6 + y),
        **settings,
    )


def extent_of(module, scenes):
    """Half-metre pixels that the tiles of each split show, by brute force."""
    corner = {s.name: (s.x, s.y) for s in scenes}
    shown = {split: set() for split in SPLITS}
    for split in SPLITS:
        for tile in module.tiles_of(split):
            x, y = corner[tile.tile.scene]
            for row in range(tile.tile.row, tile.tile.row + module.tile_size):
                for col in range(tile.tile.col, tile.tile.col + module.tile_size):
                    shown[split].add((round(2 * x) + col, row - round(2 * y)))
    return shown


class Place:
    def __init__(self, name, x, y):
        self.name, self.x, self.y = name, x, y


BLOCKS = {
    "tile_size": 16,
    "road_share": 0.02,
    "split_by": "block",
    "val_fraction": 0.3,
    "test_fraction": 0.3,
    "batch_size": 8,
}


@pytest.mark.parametrize(("size", "unit"), [(40, "px"), (20, "m")])
@pytest.mark.parametrize("seed", range(3))
def test_blocks_share_no_pixel_and_keep_their_margin(make_scene, listed, size, unit, seed):
    scenes = (scene_at(make_scene, "a", 0), scene_at(make_scene, "b", 1000))
    module = RoadTileDataModule(
        listed(scenes),
        block_size=size,
        block_unit=unit,
        block_margin=5,
        split_seed=seed,
        augment=Augmentation(jitter=5),
        **BLOCKS,
    )
    module.setup()
    shown = extent_of(module, [Place("a", 0, 0), Place("b", 1000, 0)])
    assert all(shown.values())
    assert not shown["val"] & shown["test"]
    held_out = shown["val"] | shown["test"]
    near = {(x + i, y + j) for x, y in held_out for i in range(-5, 6) for j in range(-5, 6)}
    assert not shown["train"] & near


def test_no_jittered_tile_shows_held_out_pixels(make_scene, listed):
    # The values of a pixel are its row and column.
    image = np.zeros((3, 200, 200), np.uint16)
    image[0], image[1] = np.mgrid[0:200, 0:200]
    image[2] = np.random.default_rng(0).integers(0, 99, (200, 200))
    scene = scene_at(make_scene, "a", 0, image=image)
    module = RoadTileDataModule(
        listed((scene,)),
        block_size=40,
        block_unit="px",
        augment=Augmentation(jitter=6, brightness=0, contrast=0),
        **BLOCKS,
    )
    module.setup()
    held_out = np.zeros((200, 200), bool)
    for row, col, height, width, split in module.scene_splits["a"]:
        held_out[row : row + height, col : col + width] = split != "train"
    moved = set()
    for epoch in range(4):
        module.epoch = epoch
        for tiles, _ in module.train_dataloader():
            rows, cols = tiles[:, 0].long(), tiles[:, 1].long()
            assert not held_out[rows.numpy(), cols.numpy()].any()
            moved |= set(rows.amin(dim=(1, 2)).tolist())
    assert len(moved) > 40  # the tiles of the grid begin on some 20 rows


def test_blocks_of_overlapping_scenes_share_no_pixel(make_scene, listed):
    places = [Place("a", 0, 0), Place("b", 60, -30), Place("c", 2000, 0)]
    scenes = tuple(scene_at(make_scene, p.name, p.x, p.y) for p in places)
    module = RoadTileDataModule(
        listed(scenes), block_size=40, block_unit="px", augment=False, **BLOCKS
    )
    module.setup()
    shown = extent_of(module, places)
    assert not shown["train"] & (shown["val"] | shown["test"])
    assert all(shown.values())


def test_no_jittered_tile_shows_held_out_pixels_of_another_scene(make_scene, listed):
    # The values of a pixel are its row and column on a common grid of half metres.
    rows, cols = np.mgrid[0:200, 0:200]
    noise = np.random.default_rng(0).integers(0, 99, (200, 200))
    scenes = []
    for name, shift in (("a", 0), ("b", 100)):
        image = np.stack([rows, cols + shift, noise]).astype(np.uint16)
        scenes.append(scene_at(make_scene, name, shift / 2, image=image))
    module = RoadTileDataModule(
        listed(tuple(scenes)),
        block_size=40,
        block_unit="px",
        augment=Augmentation(jitter=6, brightness=0, contrast=0),
        **BLOCKS,
    )
    module.setup()
    held_out = np.zeros((200, 300), bool)
    for name, shift in (("a", 0), ("b", 100)):
        for row, col, height, width, split in module.scene_splits[name]:
            if split != "train":
                held_out[row : row + height, col + shift : col + shift + width] = True
    for epoch in range(3):
        module.epoch = epoch
        for tiles, _ in module.train_dataloader():
            assert not held_out[tiles[:, 0].long().numpy(), tiles[:, 1].long().numpy()].any()


@pytest.mark.parametrize("jitter", [0, 6])
def test_training_tiles_that_overlap_val_or_test_scenes_are_left_out(
    make_scene, listed, caplog, jitter
):
    places = [Place("a", 0, 0), Place("b", 70, -20), Place("c", 90, 40), Place("d", 2000, 0)]
    splits = ("train", "val", "test", "train")
    scenes = tuple(
        scene_at(make_scene, p.name, p.x, p.y, s) for p, s in zip(places, splits, strict=True)
    )
    settings = {"tile_size": 16, "road_share": 0.02, "train_stride": 8}
    augment = Augmentation(jitter=jitter)
    module = RoadTileDataModule(listed(scenes), augment=augment, **settings)
    with caplog.at_level(logging.WARNING):
        module.setup()
    shown = extent_of(module, places)
    assert not shown["train"] & (shown["val"] | shown["test"])
    assert all(shown.values())
    whole = len(range(0, 185, 8)) ** 2
    tiles = [tile.tile for tile in module.tiles_of("train")]
    held_out = [
        {(140 + x, 40 + y) for x in range(200) for y in range(200)},
        {(180 + x, -80 + y) for x in range(200) for y in range(200)},
    ]
    around = [
        {
            (x, y)
            for x in range(col - jitter, col + 16 + jitter)
            for y in range(row - jitter, row + 16 + jitter)
        }
        for row in range(0, 185, 8)
        for col in range(0, 185, 8)
    ]
    left_out = sum(not tile.isdisjoint(held_out[0] | held_out[1]) for tile in around)
    assert len(tiles) == 2 * whole - left_out
    first, second = caplog.messages
    assert first.startswith(f"{left_out} training tiles are left out")
    assert f"as {scenes[0].image} and {scenes[1].image} (data.root)" in first
    assert f"val and test overlap, as {scenes[1].image} and {scenes[2].image}" in second


def test_training_scenes_that_are_covered_by_val_and_test_scenes(make_scene, listed):
    scenes = tuple(scene_at(make_scene, split, 0, split=split) for split in SPLITS)
    with pytest.raises(
        DataError, match="train has no tile left, 576 overlap scenes of other splits"
    ):
        RoadTileDataModule(listed(scenes), tile_size=16, train_stride=8).setup()


def test_overlapping_scenes_are_drawn_together(make_scene, listed, caplog):
    scenes = tuple(
        scene_at(make_scene, f"{place}{part}", 1000 * place + 50 * part)
        for place in range(8)
        for part in range(2)
    )
    module = RoadTileDataModule(listed(scenes), tile_size=16, val_fraction=0.3, test_fraction=0.3)
    with caplog.at_level(logging.WARNING):
        module.setup()
    assert caplog.messages == []
    splits = module.scene_splits
    assert all(splits[f"{place}0"] == splits[f"{place}1"] for place in range(8))


@pytest.mark.parametrize("by", ["scene", "block"])
def test_a_run_can_be_repeated_from_its_written_split(make_scene, listed, tmp_path, by):
    scenes = tuple(scene_at(make_scene, f"s{i}", 1000 * i) for i in range(4))
    settings = BLOCKS | {"split_by": by, "block_size": 50, "block_unit": "px"}
    first = RoadTileDataModule(listed(scenes), split_seed=3, **settings)
    first.setup()
    first.write_splits(tmp_path / "splits.csv")
    settings |= {"split_by": "scene", "split_file": tmp_path / "splits.csv"}
    again = RoadTileDataModule(listed(scenes[::-1]), **settings)
    again.setup()
    for split in SPLITS:
        assert {tile.tile for tile in again.tiles_of(split)} == {
            tile.tile for tile in first.tiles_of(split)
        }
    with (tmp_path / "splits.csv").open() as file:
        assert {row["scene"] for row in csv.DictReader(file)} == {f"s{i}" for i in range(4)}


def test_errors_of_a_split_file_are_reported_with_the_others(make_scene, listed, tmp_path):
    scenes = tuple(scene_at(make_scene, f"s{i}", 1000 * i) for i in range(3))
    scenes[0].image.write_bytes(b"broken")
    with pytest.raises(DataError) as caught:
        RoadTileDataModule(listed(scenes), tile_size=16, split_file=tmp_path / "none.csv").setup()
    broken, missing = caught.value.lines
    assert str(scenes[0].image) in broken
    assert "data.split_file" in missing


def test_one_resolution_for_all_scenes(make_scene, listed):
    scenes = (
        scene_at(make_scene, "a", 0, split="train", pixel=0.25, size=400),
        scene_at(make_scene, "b", 1000, split="val", pixel=0.5, size=200),
        scene_at(make_scene, "c", 2000, split="test", pixel=1.0, size=100),
    )
    module = RoadTileDataModule(listed(scenes), tile_size=16, resolution=0.5, road_share=0.01)
    module.setup()
    for split in SPLITS:
        left, bottom, right, top = module.tiles_of(split)[0].bounds
        assert (right - left, top - bottom) == (pytest.approx(8), pytest.approx(8))
        assert {tile.tile.row for tile in module.tiles_of(split)} <= set(range(0, 185, 8))


def test_a_stretch_clips_at_percentiles_of_the_training_split(make_scene, listed):
    rng = np.random.default_rng(0)
    scenes = []
    for split, scale in (("train", 1), ("val", 5), ("test", 5)):
        image = (rng.gamma(2.0, 200.0, (2, 64, 80)) * scale).astype(np.uint16)
        scenes.append(make_scene(split, split, image=image))
    module = RoadTileDataModule(listed(tuple(scenes)), tile_size=16, stretch=[2, 98])
    module.setup()
    with rasterio.open(scenes[0].image) as raster:
        pixels = raster.read()
    low = np.percentile(pixels.reshape(2, -1), 2, axis=1, method="inverted_cdf")
    high = np.percentile(pixels.reshape(2, -1), 98, axis=1, method="inverted_cdf")
    made = module.normalisation
    assert (made.low, made.high) == (low.tolist(), high.tolist())
    assert made.mean == ((low + high) / 2).tolist()
    assert made.std == ((high - low) / 2).tolist()


def test_a_scan_reports_what_training_would_refuse(make_scene, listed):
    scenes = [scene_at(make_scene, f"s{i}", 1000 * i) for i in range(6)]
    scenes[2].image.write_bytes(b"broken")
    module = RoadTileDataModule(listed(tuple(scenes)), tile_size=16)
    scan = module.scan()
    assert (scan.found, len(scan.infos)) == (6, 5)
    (line,) = scan.errors
    assert str(scenes[2].image) in line
    assert sum(sum(counts.values()) for counts in module.counts.values()) > 0
    assert torch.isfinite(module.read_tiles(list(module.tiles_of("train"))[:3])).all()


def test_blocks_must_hold_a_tile_and_margins_the_jitter(listed):
    with pytest.raises(DataError, match=r"data\.block_size=150: must be at least .* = 191 px"):
        RoadTileDataModule(listed(()), split_by="block", block_size=150, block_unit="px")
    with pytest.raises(DataError, match=r"data\.block_margin=3: must be at least .*jitter=9"):
        RoadTileDataModule(listed(()), block_margin=3, augment=Augmentation(jitter=9))
