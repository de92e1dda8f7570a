"""Scenes that are read from disk tile by tile give what scenes in memory give."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.helpers.several import Several, as_it_is
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.folder import FolderScenes
from vbp_lightning.data.datasets.scene import SPLITS, DataError
from vbp_lightning.data.imagery.windows import BLOCK
from vbp_lightning.data.tiles.sampling import BalancedBatches
from vbp_lightning.data.tiles.streaming import LabelPlanes, StreamedPlane

TINY = 1e-4  # GiB: nothing fits
_WORKERS = ((0, "fork"), (2, "fork"), (4, "fork"), (2, "spawn"), (4, "spawn"))


@given(st.integers(1, 600), st.integers(1, 600), st.integers(1, 3), st.integers(0, 99))
def test_label_planes_give_back_what_they_were_given(height, width, strip, seed):
    rng = np.random.default_rng(seed)
    road, valid = (rng.random((2, height, width)) < 0.5).astype(bool)
    road[:, width // 2 :] = False
    valid[:, width // 2 :] = True
    road &= valid
    planes = LabelPlanes(height, width)
    rows = strip * BLOCK
    for top in range(0, height, rows):
        for left in range(0, width, BLOCK):
            part = np.s_[top : top + rows, left : left + BLOCK]
            planes.store(top, left, road[part], valid[part])
    top, left = int(rng.integers(0, height)), int(rng.integers(0, width))
    bottom, right = int(rng.integers(top, height)) + 1, int(rng.integers(left, width)) + 1
    for window in (np.s_[0:height, 0:width], np.s_[top:bottom, left:right]):
        assert np.array_equal(StreamedPlane(planes, road=True)[window], road[window])
        assert np.array_equal(StreamedPlane(planes, road=False)[window], valid[window])


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
        assert torch.equal(held.read_masks(tiles), streamed.read_masks(tiles))
        for one, other in zip(
            held.evaluation_dataloader(split), streamed.evaluation_dataloader(split), strict=True
        ):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])


def test_an_epoch_draws_the_same_tiles_in_an_order_of_places(both):
    _, streamed = both
    drawn = []
    for module in both:
        loader = module.train_dataloader()
        drawn.append(loader.batch_sampler.epoch_tiles(3))
    assert sorted(drawn[0]) == sorted(drawn[1])
    labels = streamed.tiles_of("train").labels
    assert (labels[drawn[1][0::2]] == 1).all()
    assert (labels[drawn[1][1::2]] == 0).all()


def test_places_come_one_after_the_other():
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
                module.read_tiles(module.tiles_of("val")[:2])  # opens handles before workers exist
                loader = module.train_dataloader()
                datasets.append(loader.dataset)
            keys = loader.batch_sampler  # of both: the order of reading changes no tile
            found = list(
                DataLoader(
                    Several(datasets),
                    batch_sampler=keys,
                    collate_fn=as_it_is,
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


def test_no_handle_crosses_a_process(both):
    _, streamed = both
    streamed.read_tiles(streamed.tiles_of("val")[:1])
    bands = streamed._store.bands[0]
    assert bands.pool._images
    assert not pickle.loads(pickle.dumps(bands)).pool._images


def test_white_gaps_that_cross_the_parts_of_a_streamed_scene(tmp_path, write):
    for number, folder in enumerate(("train", "val", "test")):
        rng = np.random.default_rng(number)
        image = rng.integers(0, 200, (3, 700, 600), np.uint16)
        image[:, 200:640, 500:560] = 65535  # a gap across two borders of parts
        image[:, 250:253, 10:14] = 65535  # twelve pixels, across one
        mask = np.zeros((700, 600), np.uint8)
        mask[:, :80] = mask[:, 520:540] = 255
        write(tmp_path / folder / "i" / "a.tif", image, tiled=True, blockxsize=64, blockysize=64)
        write(tmp_path / folder / "m" / "a.tif", mask)
    source = FolderScenes(tmp_path, "{split}/i/{name}.tif", "{split}/m/{name}.tif", white_area=13)
    held, streamed = (
        RoadTileDataModule(source, tile_size=16, memory=memory) for memory in (2.0, TINY)
    )
    held.setup()
    streamed.setup()
    assert streamed._store.is_streamed
    valid = streamed._store.valid[0][0:700, 0:600]
    expected = np.ones((700, 600), bool)
    expected[200:640, 500:560] = False
    assert np.array_equal(valid, expected)
    assert held.counts == streamed.counts
    assert held.normalisation == streamed.normalisation
    assert list(held.tiles_of("train")) == list(streamed.tiles_of("train"))


def test_a_file_that_goes_while_it_is_streamed(both, scenes):
    _, streamed = both
    for scene in scenes:
        scene.image.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        streamed.read_tiles(streamed.tiles_of("val"))


PEAK = """
import sys
from vbp_lightning.data import FolderScenes, RoadTileDataModule
module = RoadTileDataModule(FolderScenes(sys.argv[1]), memory=float(sys.argv[2]), train_stride=96,
                            tiles_per_epoch=640, val_fraction=0.3, test_fraction=0.3)
module.setup()
assert module._store.is_streamed
for batch in module.train_dataloader():
    pass
# Not ru_maxrss: that begins with the peak of the process that this one was forked from.
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux")
def test_memory_stays_below_the_budget(tmp_path):
    # Python and PyTorch alone take 0.45 GiB; benchmarks/reading.py has ten times the budget.
    size, budget = 12_000, 0.85
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    profile = {
        "driver": "GTiff",
        "height": size,
        "width": size,
        "dtype": "uint8",
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "compress": "deflate",
        "sparse_ok": True,
        "crs": "EPSG:32632",
    }
    rng = np.random.default_rng(0)
    for number in range(4):
        place = {"transform": Affine(0.5, 0, 1e5 + 2e4 * number, 0, -0.5, 5e6)}
        with rasterio.open(
            tmp_path / "images" / f"{number}.tif", "w", count=3, **profile, **place
        ) as raster:
            noise = rng.integers(0, 255, (3, 512, 512), dtype=np.uint8)
            raster.write(noise, window=rasterio.windows.Window(0, 0, 512, 512))
        with rasterio.open(
            tmp_path / "masks" / f"{number}.tif", "w", count=1, **profile, **place
        ) as raster:
            road = np.full((1, 512, 512), 255, np.uint8)
            raster.write(road, window=rasterio.windows.Window(0, 0, 512, 512))
    assert 4 * size * size * 3 > 1.8 * budget * 2**30
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), str(budget)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < budget * 2**30
