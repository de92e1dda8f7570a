import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vbp_lightning.evaluation.replacement import (
    brightest,
    elsewhere,
    flip_test,
    replaced,
    softened,
)


def bar(size=24, width=4):
    area = np.zeros((size, size), dtype=bool)
    area[:, 3 : 3 + width] = True
    return area


def test_a_softened_area_is_replaced_whole_and_far_pixels_are_kept():
    area = bar()
    weights = softened(area, margin=2, feather=1.0)
    assert (weights[area] == 1).all()
    distance = np.abs(np.arange(24) - 4.5) - 1.5  # px from the bar
    assert (weights[:, distance > 7] < 1e-3).all()
    edge = weights[0, 6:14]
    assert (np.diff(edge) <= 0).all()
    assert np.unique(softened(area, 2, 0.0)).tolist() == [0, 1]
    assert softened(area, 2, 0.0)[0].sum() == 4 + 1 + 2 + 1  # 3 px to the left border
    assert softened(~area & area).sum() == 0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.02, 0.4))
def test_equal_areas_elsewhere_have_the_size_and_the_least_overlap(seed, share):
    size = 6
    area = np.random.default_rng(seed).random((size, size)) < share
    if not area.any():
        return
    views = [view for k in range(4) for view in (np.rot90(area, k), np.rot90(area.T, k))]
    weights = np.random.default_rng(seed + 1).random((size, size), np.float32) * area
    for other, moved in zip(*elsewhere(area, weights, 3, seed), strict=True):
        assert other.sum() == area.sum()
        assert ((moved > 0) == other).all()
        assert np.array_equal(np.sort(moved, axis=None), np.sort(weights, axis=None))
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
    places, _ = elsewhere(bar(), softened(bar()), 6)
    assert not (places & bar()).any(axis=(1, 2))[places[:, 0].sum(axis=1) == 4].any()
    whole = np.ones((4, 4), bool)
    assert elsewhere(whole, softened(whole), 2)[0].all()


def test_what_is_to_be_avoided_is_avoided_too():
    area, road = np.zeros((2, 24, 24), dtype=bool)
    area[2:6, 2:6], road[:, 8:20] = True, True
    places, _ = elsewhere(area, softened(area), 20, avoided=area | road)
    assert not (places & (area | road)).any()
    assert (places.any(axis=0) & ~road).sum() > 60  # wherever there is room


def test_areas_elsewhere_weigh_as_much_as_those_at_the_border():
    area = np.zeros((24, 24), dtype=bool)
    area[:, :3] = True
    weights = softened(area)
    _, moved = elsewhere(area, weights, 6)
    np.testing.assert_allclose(moved.sum(axis=(1, 2)), weights.sum(), rtol=1e-6)


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
    means, found, _ = flip_test(drops, groups, draws=20_000)
    np.testing.assert_allclose(means, [drops[groups == group].mean() for group in (0, 1)])

    def statistics(values):
        own = [values[groups == group] for group in (0, 1)]
        return [each.sum() / np.sqrt((each**2).sum()) for each in own]

    largest = [max(statistics(drops * signs)) for signs in itertools.product((-1, 1), repeat=8)]
    expected = [np.mean(np.array(largest) >= each - 1e-12) for each in statistics(drops)]
    np.testing.assert_allclose(found, expected, atol=0.015)


def test_a_small_group_hides_no_large_one():
    drops = np.full(205, 0.6)
    drops[:200] += np.random.default_rng(0).normal(0, 0.2, 200)
    for small in (1, 3, 5):
        groups = (np.arange(200 + small) >= 200).astype(int)
        drops[200:] = 0.95
        result = flip_test(drops[: 200 + small], groups)
        assert result.p_values[0] == 0.001
        assert result.lowest[0] == 0.001
        assert result.lowest[1] >= 0.5**small


def test_the_lowest_p_value_that_a_group_of_equal_drops_can_have():
    for count in range(1, 9):
        result = flip_test(np.full(count, 0.9), np.zeros(count, int), draws=4999)
        assert result.lowest[0] >= 0.5**count
        assert abs(result.lowest[0] - 0.5**count) < 0.03
        assert abs(result.p_values[0] - 0.5**count) < 0.03
    assert flip_test(np.zeros(3), np.zeros(3, int)).p_values[0] == 1


def test_no_group_stands_out_of_noise_too_often():
    rng = np.random.default_rng(1)
    groups = np.arange(60) % 4
    smallest = [
        flip_test(rng.normal(0, 1, 60), groups, 199, seed).p_values.min() for seed in range(200)
    ]
    assert 0.01 < np.mean(np.array(smallest) <= 0.05) < 0.10
