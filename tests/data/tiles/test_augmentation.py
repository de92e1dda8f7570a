"""Training tiles: symmetries, brightness, contrast and jitter, keyed by (seed, epoch, index)."""

import numpy as np
import pytest
import torch

from vbp_lightning.data.tiles.augmentation import Augmentation, oriented
from vbp_lightning.data.tiles.dataset import TileDataset, TrainingTiles
from vbp_lightning.data.tiles.store import SceneStore
from vbp_lightning.data.tiles.streaming import pixel_labels

SIZE = 6
NOTHING = Augmentation(flips=False, rotations=False, brightness=0, contrast=0, jitter=0)


def training_tiles(augment, *, seed=0, road=None, valid=None, positions=((0, 8, 8),)):
    scene = np.random.default_rng(1).integers(0, 255, (2, 30, 30), dtype=np.uint8)
    road = np.zeros((30, 30), bool) if road is None else road
    valid = np.ones((30, 30), bool) if valid is None else valid
    places = np.array(positions)
    size = SIZE
    labels = [
        int(road[row : row + size, col : col + size].mean() >= 0.25) for _, row, col in places
    ]
    store = SceneStore([scene], [pixel_labels(road & valid, valid)], np.zeros(2), False)
    return TrainingTiles(
        TileDataset(store, places, np.array(labels), tile_size=SIZE, context=0),
        road_share=0.25,
        max_invalid=0.1,
        mean=[100.0, 50.0],
        std=[20.0, 10.0],
        augment=augment,
        seed=seed,
    )


def keys(count, epoch=0, first=0):
    return np.array([(epoch, first + i, 0) for i in range(count)])


def tile_at(dataset, row, col):
    return torch.from_numpy(
        dataset.tiles.store.bands[0][:, row : row + SIZE, col : col + SIZE]
    ).float()


def places_of(dataset, tiles):
    """The places in the scene that unchanged tiles were cut from."""
    place_of = {
        tile_at(dataset, row, col).numpy().tobytes(): (row, col)
        for row in range(30 - SIZE + 1)
        for col in range(30 - SIZE + 1)
    }
    return {place_of[tile.numpy().tobytes()] for tile in tiles}


@pytest.mark.parametrize("augment", [None, NOTHING], ids=["none", "all off"])
def test_without_augmentation_tiles_are_unchanged(augment):
    dataset = training_tiles(augment)
    tiles, labels = dataset.__getitems__(keys(3))
    assert torch.equal(tiles, tile_at(dataset, 8, 8).expand(3, 2, SIZE, SIZE))
    assert tiles.dtype == torch.float32
    assert labels.tolist() == [0, 0, 0]
    assert labels.dtype == torch.int64


def test_orientation_by_hand():
    window = np.array([[[1, 2], [3, 4]]])
    assert oriented(window, True, False, False).tolist() == [[[3, 4], [1, 2]]]
    assert oriented(window, False, True, False).tolist() == [[[2, 1], [4, 3]]]
    assert oriented(window, False, False, True).tolist() == [[[2, 4], [1, 3]]]
    turned = np.rot90(oriented(window, True, False, False), axes=(1, 2))
    assert np.array_equal(oriented(window, True, False, True), turned)


@pytest.mark.parametrize(
    ("flips", "rotations", "count"), [(True, True, 8), (True, False, 4), (False, True, 2)]
)
def test_all_symmetries_are_equally_frequent(flips, rotations, count):
    dataset = training_tiles(Augmentation(flips, rotations, brightness=0, contrast=0))
    tiles, _ = dataset.__getitems__(keys(4000))
    plain = tile_at(dataset, 8, 8)
    squares = {
        torch.rot90(each, k, (1, 2)).numpy().tobytes()
        for each in (plain, plain.flip(1))
        for k in range(4)
    }
    found = {}
    for tile in tiles:
        found[tile.numpy().tobytes()] = found.get(tile.numpy().tobytes(), 0) + 1
    assert found.keys() <= squares
    assert len(found) == count
    assert min(found.values()) > 0.8 * 4000 / count


def test_brightness_and_contrast_are_affine_in_the_training_statistics():
    dataset = training_tiles(
        Augmentation(flips=False, rotations=False, brightness=0.5, contrast=0.3)
    )
    tiles, _ = dataset.__getitems__(keys(300))
    plain = tile_at(dataset, 8, 8)
    mean = torch.tensor([100.0, 50.0])[:, None, None]
    std = torch.tensor([20.0, 10.0])[:, None, None]
    gains, shifts = [], []
    for tile in tiles:
        gain = (tile[0].std() / plain[0].std()).item()
        shift = ((tile - mean) - gain * (plain - mean)) / std
        assert shift.std() < 1e-4  # the same for all pixels and bands
        gains.append(gain)
        shifts.append(shift.mean().item())
    assert 0.7 <= min(gains) < 0.72
    assert 1.28 < max(gains) <= 1.3
    assert -0.5 <= min(shifts) < -0.47
    assert 0.47 < max(shifts) <= 0.5
    assert abs(np.corrcoef(gains, shifts)[0, 1]) < 0.2


def test_augmentation_depends_on_seed_epoch_and_index_alone():
    dataset = training_tiles(Augmentation(jitter=3))
    tiles, _ = dataset.__getitems__(keys(20))
    parts = [dataset.__getitems__(keys(5, first=first))[0] for first in (0, 5, 10, 15)]
    assert torch.equal(torch.cat(parts), tiles)
    again, _ = training_tiles(Augmentation(jitter=3)).__getitems__(keys(20)[::-1])
    assert torch.equal(again.flip(0), tiles)
    assert not torch.equal(dataset.__getitems__(keys(20, epoch=1))[0], tiles)
    other = training_tiles(Augmentation(jitter=3), seed=1)
    assert not torch.equal(other.__getitems__(keys(20))[0], tiles)


def test_jitter_reaches_every_place_around():
    dataset = training_tiles(
        Augmentation(flips=False, rotations=False, brightness=0, contrast=0, jitter=2)
    )
    tiles, _ = dataset.__getitems__(keys(600))
    assert places_of(dataset, tiles) == {(row, col) for row in range(6, 11) for col in range(6, 11)}


def test_jitter_keeps_the_label_the_scene_and_the_imagery():
    road = np.zeros((30, 30), bool)
    road[:, 12:15] = True
    valid = np.ones((30, 30), bool)
    valid[20:, :] = False
    augment = Augmentation(flips=False, rotations=False, brightness=0, contrast=0, jitter=9)
    starts = [(0, 8, 2), (0, 8, 10), (0, 0, 0)]
    dataset = training_tiles(augment, road=road, valid=valid, positions=starts)
    for number, label in enumerate((0, 1, 0)):
        batch = keys(300)
        batch[:, 2] = number
        tiles, labels = dataset.__getitems__(batch)
        assert set(labels.tolist()) == {label}
        places = places_of(dataset, tiles)
        assert len(places) > 20
        for row, col in places:
            window = np.s_[row : row + SIZE, col : col + SIZE]
            share = (road & valid)[window].sum() / valid[window].sum()
            assert (share == 0) if label == 0 else (share >= 0.25)
            assert valid[window].mean() >= 0.9
            assert abs(row - starts[number][1]) <= 9
            assert abs(col - starts[number][2]) <= 9
