"""Scenes that are streamed from disk give the same tiles as scenes in memory."""

import pickle
import tracemalloc

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.helpers.several import Several, unchanged
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.pattern_scenes import PatternScenes
from vbp_lightning.data.datasets.scene import SPLITS, DataError
from vbp_lightning.data.imagery.windows import BLOCK
from vbp_lightning.data.tiles.sampling import BalancedBatches
from vbp_lightning.data.tiles.streaming import INVALID_PIXEL, CompressedLabels, pixel_labels

TINY = 1e-4  # GiB: nothing fits
_WORKERS = ((0, "fork"), (2, "fork"), (2, "spawn"))


@given(st.integers(1, 600), st.integers(1, 600), st.integers(1, 3), st.integers(0, 99))
def test_compressed_labels_return_what_was_stored(height, width, strip, seed):
    rng = np.random.default_rng(seed)
    road, valid = (rng.random((2, height, width)) < 0.5).astype(bool)
    road[:, width // 2 :] = False
    valid[:, width // 2 :] = True
    road &= valid
    expected = np.full((height, width), 2)
    expected[valid] = road[valid]
    labels = CompressedLabels(height, width)
    rows = strip * BLOCK
    for top in range(0, height, rows):
        for left in range(0, width, BLOCK):
            part = np.s_[top : top + rows, left : left + BLOCK]
            labels.store(top, left, pixel_labels(road[part], valid[part]))
    top, left = int(rng.integers(0, height)), int(rng.integers(0, width))
    bottom, right = int(rng.integers(top, height)) + 1, int(rng.integers(left, width)) + 1
    for window in (np.s_[0:height, 0:width], np.s_[top:bottom, left:right]):
        assert np.array_equal(labels[window], expected[window])


@pytest.fixture
def scenes(make_scene):
    rng = np.random.default_rng(5)
    made = []
    for number, split in enumerate(("train", "train", "train", "val", "test")):
        image = rng.integers(0, 255, (3, 300, 340), dtype=np.uint8)
        image[:, 100:130, 50:90] = 0
        made.append(
            make_scene(
                f"{split}{number}",
                split,
                image=image,
                nodata=0,
                tiled=True,
                blockxsize=64,
                blockysize=64,
                compress="deflate",
            )
        )
    return tuple(made)


@pytest.fixture
def both(scenes, listed):
    """The same data in memory and streamed."""
    made = []
    for memory in (2.0, TINY):
        module = RoadTileDataModule(
            listed(scenes), tile_size=16, road_share=0.1, batch_size=8, memory=memory
        )
        module.setup()
        made.append(module)
    held, streamed = made
    assert not held._store.is_streamed
    assert streamed._store.is_streamed
    return held, streamed


def test_streamed_scenes_equal_those_in_memory(both):
    held, streamed = both
    assert held.normalisation == streamed.normalisation
    assert held.counts == streamed.counts
    for split in SPLITS:
        tiles = held.tiles_of(split)
        assert list(tiles) == list(streamed.tiles_of(split))
        assert torch.equal(held.read_tiles(tiles), streamed.read_tiles(tiles))
        assert torch.equal(held.read_road_masks(tiles), streamed.read_road_masks(tiles))
        for one, other in zip(
            held.predict_dataloader([split])[0],
            streamed.predict_dataloader([split])[0],
            strict=True,
        ):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])


def test_sampled_statistics_equal_those_in_memory(scenes, monkeypatch, request):
    """Three training scenes of 300 × 340 pixels, of which every third row and column counts."""
    monkeypatch.setattr("vbp_lightning.data.imagery.normalisation.SAMPLE_SIZE", 34_000)
    held, streamed = request.getfixturevalue("both")
    assert held.normalisation == streamed.normalisation
    sampled = []
    for scene in scenes[:3]:
        with rasterio.open(scene.image) as raster:
            pixels = raster.read()[:, 1::3, 1::3]
        sampled.append(pixels[:, (pixels > 0).any(axis=0)])
    values = np.concatenate(sampled, axis=1).astype(float)
    np.testing.assert_allclose(held.mean, values.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(held.std, values.std(axis=1), rtol=1e-12)


def test_an_epoch_draws_the_same_tiles_ordered_by_place(both):
    _, streamed = both
    drawn = []
    for module in both:
        loader = module.train_dataloader()
        drawn.append(loader.batch_sampler.epoch_tiles(3))
    assert sorted(drawn[0]) == sorted(drawn[1])
    labels = streamed.tiles_of("train").labels
    assert (labels[drawn[1][0::2]] == 1).all()
    assert (labels[drawn[1][1::2]] == 0).all()


def test_each_batch_covers_few_places():
    labels = np.arange(4000) % 2
    cells = np.arange(4000) // 40  # a hundred places
    sampler = BalancedBatches(labels, 50, 64, 0, lambda: 0, cells=cells)
    first, second = sampler.epoch_tiles(0), sampler.epoch_tiles(1)
    for tiles in (first, second):
        for start in range(0, 3200, 64):
            assert len(set(cells[tiles[start : start + 64]])) <= 16
    assert cells[first[:64]].tolist() != cells[second[:64]].tolist()


def test_workers_forked_and_spawned_give_the_same_tiles(scenes, listed):
    before = torch.multiprocessing.get_start_method()
    reference = None
    try:
        for workers, method in _WORKERS:
            torch.multiprocessing.set_start_method(method, force=True)
            datasets = []
            for memory in (2.0, TINY):
                module = RoadTileDataModule(
                    listed(scenes),
                    tile_size=16,
                    road_share=0.1,
                    batch_size=32,
                    tiles_per_epoch=160,
                    memory=memory,
                    num_workers=workers,
                )
                module.setup()
                module.read_tiles(
                    module.tiles_of("val")[:2]
                )  # opens files before the workers start
                loader = module.train_dataloader()
                datasets.append(loader.dataset)
            keys = loader.batch_sampler  # for both: the order of reading does not change a tile
            found = list(
                DataLoader(
                    Several(datasets),
                    batch_sampler=keys,
                    collate_fn=unchanged,
                    num_workers=workers,
                )
            )
            reference = reference or found
            assert len(found) == 5
            for one, other in zip(reference, found, strict=True):
                held, streamed = other
                for expected in one:
                    for batch in (held, streamed):
                        assert torch.equal(expected[0], batch[0])
                        assert torch.equal(expected[1], batch[1])
    finally:
        torch.multiprocessing.set_start_method(before, force=True)


def test_open_files_are_not_pickled(both):
    _, streamed = both
    streamed.read_tiles(streamed.tiles_of("val")[:1])
    bands = streamed._store.bands[0]
    assert bands.pool._images
    assert not pickle.loads(pickle.dumps(bands)).pool._images


def test_white_areas_that_cross_chunks_of_a_streamed_scene(tmp_path, write):
    for number, folder in enumerate(("train", "val", "test")):
        rng = np.random.default_rng(number)
        image = rng.integers(0, 200, (3, 700, 600), np.uint16)
        image[:, 200:640, 500:560] = 65535  # a white area across two borders of chunks
        image[:, 250:253, 10:14] = 65535  # twelve pixels, across one
        mask = np.zeros((700, 600), np.uint8)
        mask[:, :80] = mask[:, 520:540] = 255
        write(tmp_path / folder / "i" / "a.tif", image, tiled=True, blockxsize=64, blockysize=64)
        write(tmp_path / folder / "m" / "a.tif", mask)
    source = PatternScenes(tmp_path, "{split}/i/{name}.tif", "{split}/m/{name}.tif", white_area=13)
    held, streamed = (
        RoadTileDataModule(source, tile_size=16, memory=memory) for memory in (2.0, TINY)
    )
    held.setup()
    streamed.setup()
    assert streamed._store.is_streamed
    valid = streamed._store.labels[0][0:700, 0:600] != INVALID_PIXEL
    expected = np.ones((700, 600), bool)
    expected[200:640, 500:560] = False
    assert np.array_equal(valid, expected)
    assert held.counts == streamed.counts
    assert held.normalisation == streamed.normalisation
    assert list(held.tiles_of("train")) == list(streamed.tiles_of("train"))


def test_a_file_that_is_deleted_while_it_is_streamed(both, scenes):
    _, streamed = both
    for scene in scenes:
        scene.image.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        streamed.read_tiles(streamed.tiles_of("val"))


def test_streaming_allocates_a_fraction_of_the_pixels(tmp_path, write):
    # NumPy reports its arrays to tracemalloc, so that the peak does not depend on the machine.
    pixels = np.zeros((3, 2048, 2048), np.uint8)
    mask = np.zeros((2048, 2048), np.uint8)
    pixels[:, :512, :512] = np.random.default_rng(0).integers(1, 255, (3, 512, 512), np.uint8)
    mask[:256, :256] = 255
    for number, split in enumerate(SPLITS):
        pixels[0, 0, 0] = number  # no two scenes are the same
        for folder, raster in (("i", pixels), ("m", mask)):
            write(
                tmp_path / split / folder / "a.tif",
                raster,
                tiled=True,
                blockxsize=512,
                blockysize=512,
                compress="deflate",
            )
    peaks = []
    for memory in (2.0, 0.02):
        tracemalloc.start()
        module = RoadTileDataModule(
            PatternScenes(tmp_path, "{split}/i/{name}.tif", "{split}/m/{name}.tif"),
            tile_size=128,
            train_stride=128,
            batch_size=8,
            tiles_per_epoch=64,
            memory=memory,
        )
        module.setup()
        assert len(list(module.train_dataloader())) == 8
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert module._store.is_streamed == (memory < 1)
    held, streamed = peaks
    assert held > 3 * 4 * mask.size  # three scenes of three bands and labels
    assert streamed < held / 4
