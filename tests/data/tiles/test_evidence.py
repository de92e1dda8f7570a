"""Composites of training tiles, against the definition on the plain tiles of the epoch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vbp_lightning.data.tiles.augmentation import Augmentation
from vbp_lightning.data.tiles.dataset import TileDataset, TrainingTiles
from vbp_lightning.data.tiles.evidence import Evidence, feathered
from vbp_lightning.data.tiles.sampling import BalancedBatches
from vbp_lightning.data.tiles.store import SceneStore

SIZE = 12
AUGMENT = Augmentation(brightness=0.1, contrast=0.1, jitter=2)
REACH = (1.0, 2.5)
KINDS = ("pasted", "seam", "removed")


def training_tiles(evidence, *, augment=AUGMENT, context=0):
    """Tiles of two scenes whose last band shows the road: 200 on it, 0 elsewhere."""
    rng = np.random.default_rng(0)
    roads = np.zeros((2, 60, 60), np.uint8)
    roads[0, 8:12, :30] = 1
    roads[1, :30, 20:23] = 1
    bands = [
        np.concatenate([rng.integers(0, 255, (2, 60, 60), np.uint8), 200 * road[None]])
        for road in roads
    ]
    places = np.array([(s, row, col) for s in (0, 1) for row in (4, 40) for col in (3, 14, 44)])
    shares = [roads[scene, row : row + SIZE, col : col + SIZE].mean() for scene, row, col in places]
    labels = np.array([int(share > 0) for share in shares])
    store = SceneStore(bands, list(roads), np.zeros(3), False)
    tiles = TileDataset(store, places, labels, SIZE, context)
    return TrainingTiles(
        tiles,
        0.1,
        0.1,
        [100.0, 50.0, 100.0],
        [20.0, 10.0, 30.0],
        augment,
        7,
        None,
        evidence,
        REACH,
    )


def epoch_of(dataset, *, size=8, batches=6, world=1, epoch=3):
    """Tiles and labels of an epoch, and the scene of each tile."""
    labels = dataset.tiles.labels
    parts = [
        [
            *BalancedBatches(
                labels,
                batches,
                size,
                5,
                lambda: epoch,
                rank,
                world,
                partners=dataset.evidence is not None,
            )
        ]
        for rank in range(world)
    ]
    keys = [part[batch] for batch in range(batches) for part in parts]
    found = [dataset.__getitems__(each) for each in keys]
    numbers = np.concatenate([each.reshape(-1, *each.shape[-2:])[0, :, 2] for each in keys])
    tiles, labels = (torch.cat(each) for each in zip(*found, strict=True))
    return tiles, labels, dataset.tiles.positions[numbers, 0]


def blurred(plane, sigma):
    """The Gaussian of SciPy's definition: cut off at four deviations, mirrored at the border."""
    if sigma == 0:
        return plane
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    padded = np.pad(plane, radius, mode="symmetric")
    for axis in (0, 1):
        padded = np.apply_along_axis(np.convolve, axis, padded, weights / weights.sum(), "valid")
    return padded


def weight_of(road, reach, sigma):
    """The weight of the road, pixel by pixel."""
    places = np.argwhere(road)
    near = np.zeros(road.shape)
    for pixel in np.ndindex(road.shape):
        near[pixel] = (np.linalg.norm(places - pixel, axis=1) <= reach).any()
    return blurred(near, sigma)


@pytest.mark.parametrize("reach", [0, 1, 1.5, 3])
@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_the_weight_is_the_blurred_dilation(reach, sigma):
    road = np.zeros((13, 17), bool)
    road[4:6, :9] = road[11, 16] = True
    found = feathered(road, reach, sigma)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, weight_of(road, reach, sigma), atol=1e-6)
    assert not feathered(np.zeros((5, 5), bool), reach, sigma).any()
    assert (feathered(np.ones((5, 5), bool), reach, sigma) > 1 - 1e-6).all()


@pytest.mark.parametrize(
    ("kinds", "share", "expected"),
    [
        (("pasted", "seam", "removed"), 0.5, {"pasted": [2, 6], "seam": [3], "removed": [7]}),
        (("pasted", "seam", "removed"), 0.25, {"pasted": [6], "seam": [7], "removed": []}),
        (("pasted",), 0.25, {"pasted": [6]}),
        (("removed",), 0.5, {"removed": [3, 7]}),
        (("removed", "seam"), 1.0, {"removed": [1, 5], "seam": [3, 7]}),
        (("seam", "removed", "removed"), 1.0, {"seam": [1, 7], "removed": [3, 5]}),
    ],
)
def test_the_share_of_each_type(kinds, share, expected):
    found = Evidence(share=share, kinds=kinds).places(np.arange(8))
    assert {kind: places.tolist() for kind, places in found.items()} == expected


@pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
def test_the_share_holds_in_every_part_of_an_epoch(share):
    places = Evidence(share=share, kinds=KINDS).places(np.arange(2000))
    assert len(places["pasted"]) == len(places["seam"]) + len(places["removed"]) == 1000 * share
    assert len(places["seam"]) == len(places["removed"])
    late = Evidence(share=share, kinds=KINDS).places(np.arange(1000, 1020))
    assert abs(len(late["pasted"]) - 10 * share) < 1


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(("augment", "context"), [(AUGMENT, 0), (None, 0), (AUGMENT, 8)])
def test_composites_are_those_of_the_definition(shuffled, augment, context):
    evidence = Evidence(share=0.75, kinds=KINDS, shuffled=shuffled)
    plain, labels, scenes = epoch_of(training_tiles(None, augment=augment, context=context))
    tiles, found, _ = epoch_of(training_tiles(evidence, augment=augment, context=context))
    assert torch.equal(found, labels)
    assert labels.tolist() == [1, 0] * 24
    expected = plain.numpy().copy()
    count = 0
    for pair in range(24):
        if (pair + 1) * 3 // 4 == pair * 3 // 4:
            continue
        road, other = plain[2 * pair].numpy(), plain[2 * pair + 1].numpy()
        after = 2 * (pair + 1) % 48
        cut = after if shuffled else 2 * pair
        weight = weight_of(plain[cut, 2].numpy() > 100, REACH[scenes[cut]], 1.0)
        expected[2 * pair] = weight * road + (1 - weight) * other
        inside, outside = (plain[after + 1].numpy(), other) if count % 2 == 0 else (other, road)
        expected[2 * pair + 1] = weight * inside + (1 - weight) * outside
        count += 1
    assert count == 18
    np.testing.assert_allclose(tiles, expected, atol=1e-3)


def test_composites_depend_on_seed_epoch_and_index_alone():
    dataset = training_tiles(Evidence(share=0.75))
    tiles, _, _ = epoch_of(dataset)
    assert torch.equal(epoch_of(dataset, world=2)[0], tiles)
    assert torch.equal(epoch_of(dataset, size=16, batches=3)[0], tiles)
    assert not torch.equal(epoch_of(dataset, epoch=4)[0], tiles)
    assert not torch.equal(epoch_of(replace(dataset, seed=8))[0], tiles)


def test_the_last_epochs_have_no_composites():
    dataset = replace(training_tiles(Evidence(share=1)), until=3.5)
    for epoch, is_plain in ((3, False), (4, True)):
        plain, labels, _ = epoch_of(training_tiles(None), epoch=epoch)
        tiles, found, _ = epoch_of(dataset, epoch=epoch)
        assert torch.equal(found, labels)
        assert torch.equal(tiles, plain) == is_plain


def test_partners_of_an_odd_number_of_tiles_have_their_labels():
    labels = np.array([1, 0, 0, 1, 0])
    for batch in BalancedBatches(labels, 3, 3, 0, lambda: 0, partners=True):
        assert batch.shape == (5, 3, 3)
        assert np.array_equal(batch[0, :, 1] % 2, 1 - labels[batch[0, :, 2]])
        assert labels[batch[1:, :, 2]].tolist() == [[1] * 3, [0] * 3] * 2
        assert batch[..., 1].max() < 9


def test_corrected_tiles_take_no_part():
    """Their road pixels are not those of their label: of a road that is missing in the mask."""
    corrected = np.array([[0, 4, 3], [1, 40, 44]])  # a road and a non-road tile
    numbers = [0, 11]
    changed = [{"augment": None, "fixed": corrected}, {"augment": None}]
    some, all_pairs = (replace(training_tiles(Evidence(share=1)), **each) for each in changed)
    assert [some.tiles.positions[number].tolist() for number in numbers] == corrected.tolist()
    left = replaced = 0
    for batch in BalancedBatches(some.tiles.labels, 6, 8, 5, lambda: 0, partners=True):
        plain = some.tiles.__getitems__(batch[0, :, 2])[0]
        tiles, whole = some.__getitems__(batch)[0], all_pairs.__getitems__(batch)[0]
        for place in range(8):
            if np.isin(batch[1:, place, 2], numbers).any():
                assert torch.equal(tiles[place], plain[place])
                left += 1
            else:
                assert torch.equal(tiles[place], whole[place])
                assert not torch.equal(tiles[place], plain[place])
                replaced += 1
    assert min(left, replaced) > 8
