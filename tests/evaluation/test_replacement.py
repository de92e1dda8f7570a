import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vbp_lightning.evaluation.replacement import (
    brightest,
    elsewhere,
    feathered,
    flip_test,
    replaced,
)


def bar(size=24, width=4):
    area = np.zeros((size, size), dtype=bool)
    area[:, 3 : 3 + width] = True
    return area


def test_a_feathered_area_is_replaced_whole_and_far_pixels_are_kept():
    area = bar()
    weights = feathered(area, margin=2, feather=1.0)
    assert (weights[area] == 1).all()
    distance = np.abs(np.arange(24) - 4.5) - 1.5  # px from the bar
    assert (weights[:, distance > 7] < 1e-3).all()
    edge = weights[0, 6:14]
    assert (np.diff(edge) <= 0).all()
    assert np.unique(feathered(area, 2, 0.0)).tolist() == [0, 1]
    assert feathered(area, 2, 0.0)[0].sum() == 4 + 1 + 2 + 1  # 3 px to the left border
    assert feathered(~area & area).sum() == 0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.02, 0.4))
def test_equal_areas_elsewhere_have_the_size_and_the_least_overlap(seed, share):
    size = 6
    area = np.random.default_rng(seed).random((size, size)) < share
    if not area.any():
        return
    views = [view for k in range(4) for view in (np.rot90(area, k), np.rot90(area.T, k))]
    for other in elsewhere(area, 3, seed):
        assert other.sum() == area.sum()
        overlap = (other & area).sum()
        moved = [
            [np.roll(view, (down, right), (0, 1)) for down in range(size) for right in range(size)]
            for view in views
        ]
        # the least overlap of one of the views that this area is a move of
        own = [moves for moves in moved if any((move == other).all() for move in moves)]
        assert own
        assert overlap in [min((move & area).sum() for move in moves) for moves in own]


def test_an_area_that_can_be_avoided_is_avoided():
    places = elsewhere(bar(), 6)
    assert not (places & bar()).any(axis=(1, 2))[places[:, 0].sum(axis=1) == 4].any()
    assert (elsewhere(np.ones((4, 4), bool), 2)).all()


def test_replaced_pixels_are_those_of_the_other_tile():
    torch.manual_seed(0)
    tile, others = torch.rand(3, 8, 8), torch.rand(2, 3, 8, 8)
    weights = np.zeros((8, 8), np.float32)
    weights[:4], weights[4] = 1, 0.25
    found = replaced(tile, others, weights)
    assert torch.equal(found[:, :, :4], others[:, :, :4])
    assert torch.equal(found[:, :, 5:], tile[:, 5:].expand(2, 3, 3, 8))
    torch.testing.assert_close(found[:, :, 4], 0.25 * others[:, :, 4] + 0.75 * tile[:, 4])
    own = replaced(tile, others, np.stack([weights, 0 * weights]))
    assert torch.equal(own[0], found[0])
    assert torch.equal(own[1], tile)
    assert found.dtype == torch.float32


def test_the_brightest_allowed_pixels():
    saliency = np.arange(16.0).reshape(4, 4)
    allowed = saliency != 15
    found = brightest(saliency, allowed, 3 / 16)
    assert np.flatnonzero(found).tolist() == [12, 13, 14]
    assert brightest(saliency, saliency < 2, 0.5).sum() == 1  # zero is no relevance
    assert not brightest(np.zeros((4, 4)), allowed, 0.5).any()


def test_the_p_values_are_those_of_all_exchanges():
    rng = np.random.default_rng(0)
    groups = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    drops = rng.normal(0.3, 0.5, 8)
    means, found = flip_test(drops, groups, draws=20_000)
    exact = [drops[groups == group].mean() for group in (0, 1)]
    np.testing.assert_allclose(means, exact)
    largest = [
        max((drops * signs)[groups == group].mean() for group in (0, 1))
        for signs in itertools.product((-1, 1), repeat=8)
    ]
    expected = [np.mean(np.array(largest) >= mean - 1e-12) for mean in exact]
    np.testing.assert_allclose(found, expected, atol=0.015)


def test_no_group_stands_out_of_noise_too_often():
    rng = np.random.default_rng(1)
    groups = np.arange(60) % 4
    smallest = [flip_test(rng.normal(0, 1, 60), groups, 199, seed)[1].min() for seed in range(200)]
    assert 0.01 < np.mean(np.array(smallest) <= 0.05) < 0.10
