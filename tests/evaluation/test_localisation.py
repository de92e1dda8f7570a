from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score

from vbp_lightning.evaluation.localisation import (
    average_precision,
    best_threshold,
    chance,
    intersection_over_union,
    pointing_game,
    positive_part,
    rank_accuracy,
    relevance_mass,
)


def pointing_2(relevance, truth):
    return pointing_game(relevance, truth, tolerance=2)


SCORES = [average_precision, relevance_mass, rank_accuracy, pointing_game, pointing_2]
RANK_SCORES = [average_precision, rank_accuracy, pointing_game, pointing_2]


def orders(relevance):
    """All rankings of pixels by relevance, with tied pixels in any order."""
    pixels = range(len(relevance))
    for order in permutations(pixels):
        ranked = [relevance[pixel] for pixel in order]
        if ranked == sorted(ranked, reverse=True):
            yield order


def naive_average_precision(relevance, truth):
    """The mean over all orders of the mean precision at the road pixels."""
    values = []
    for order in orders(relevance):
        road = [truth[pixel] for pixel in order]
        at = [
            Fraction(sum(road[: place + 1]), place + 1) for place in range(len(road)) if road[place]
        ]
        values.append(sum(at) / len(at))
    return float(sum(values) / len(values))


def naive_rank_accuracy(relevance, truth):
    roads = sum(truth)
    values = [
        Fraction(sum(truth[pixel] for pixel in order[:roads]), roads) for order in orders(relevance)
    ]
    return float(sum(values) / len(values))


def naive_pointing(relevance, truth, tolerance):
    """The share of all orders of a map with one row whose first pixel is near a road pixel."""
    values = [
        any(truth[other] and abs(other - order[0]) <= tolerance for other in range(len(truth)))
        for order in orders(relevance)
    ]
    return sum(values) / len(values)


def row(values, dtype=float):
    return np.array(values, dtype=dtype)[None, None]


few = st.integers(1, 6).flatmap(
    lambda size: st.tuples(
        st.lists(st.integers(0, 3), min_size=size, max_size=size),
        st.lists(st.booleans(), min_size=size, max_size=size),
    )
)


@settings(max_examples=150, deadline=None)
@given(few)
def test_the_mean_over_all_orders_of_tied_pixels(case):
    relevance, truth = case
    maps, flags = row(relevance), row(truth, bool)
    if not any(truth):
        assert [score(maps, flags)[0] for score in SCORES] == [0] * 5
        return
    expected = naive_average_precision(relevance, truth)
    assert average_precision(maps, flags)[0] == pytest.approx(expected, abs=1e-12)
    assert rank_accuracy(maps, flags)[0] == pytest.approx(naive_rank_accuracy(relevance, truth))
    for tolerance in (0, 2):
        hit = pointing_game(maps, flags, tolerance)[0]
        assert hit == pytest.approx(naive_pointing(relevance, truth, tolerance))


def test_by_hand():
    maps, truth = row([4, 3, 2, 1]), row([1, 0, 1, 0], bool)
    assert average_precision(maps, truth)[0] == pytest.approx((1 + 2 / 3) / 2)
    assert relevance_mass(maps, truth)[0] == pytest.approx(6 / 10)
    assert rank_accuracy(maps, truth)[0] == 0.5
    assert pointing_game(maps, truth)[0] == 1
    # parts of the maximum 1, ¾, ½, ¼: from ½ on three pixels are called, two of them road
    overlaps = intersection_over_union(maps, truth, [0, 0.5, 0.75, 1])[0]
    np.testing.assert_allclose(overlaps, [2 / 4, 2 / 3, 1 / 3, 1 / 2])
    assert best_threshold(maps, truth) == 0.5


def test_two_tied_pixels_one_of_them_road():
    """First with probability ½ (precision 1) or second (precision ½)."""
    maps, truth = row([7, 7]), row([0, 1], bool)
    assert average_precision(maps, truth)[0] == 0.75
    assert rank_accuracy(maps, truth)[0] == 0.5
    assert pointing_game(maps, truth)[0] == 0.5
    assert pointing_game(maps, truth, tolerance=1)[0] == 1


def test_tolerance_is_a_disc():
    truth = np.zeros((1, 7, 7), bool)
    truth[0, 3, 3] = True
    hits = np.zeros((7, 7))
    for place in np.ndindex(7, 7):
        maps = np.zeros((1, 7, 7))
        maps[(0, *place)] = 1
        hits[place] = pointing_game(maps, truth, tolerance=2)[0]
    rows, columns = np.mgrid[-3:4, -3:4]
    np.testing.assert_array_equal(hits, rows**2 + columns**2 <= 4)


def test_without_ties_it_is_the_usual_average_precision():
    rng = np.random.default_rng(0)
    maps, truth = rng.random((3, 40, 30)), rng.random((3, 40, 30)) < 0.1
    expected = [average_precision_score(truth[i].ravel(), maps[i].ravel()) for i in range(3)]
    np.testing.assert_allclose(average_precision(maps, truth), expected, rtol=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_a_perfect_map_scores_one_and_its_opposite_the_least(score):
    truth = np.zeros((1, 20, 20), bool)
    truth[0, 5:8] = True
    assert score(truth.astype(float), truth)[0] == pytest.approx(1)
    if score is not pointing_2:  # the pixels beside the road would be hits
        assert score((~truth).astype(float), truth)[0] < 0.2


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_constant_map_is_at_chance_wherever_the_road_is(score, value):
    rng = np.random.default_rng(1)
    constant = np.full((1, 12, 12), value)
    truth = np.zeros((1, 12, 12), bool)
    truth[0, 2:5, 3:9] = True
    # at least two pixels from the border as well, so that the tolerance reaches as many pixels
    moved = np.roll(truth, (4, 0), (1, 2))
    chance = score(constant, truth)[0]
    assert chance == pytest.approx(score(constant, moved)[0])
    drawn = [score(rng.random((1, 12, 12)), truth)[0] for _ in range(2000)]
    error = 4 * np.std(drawn) / np.sqrt(len(drawn))
    # the mean mass of random maps is only approximately that of a constant map
    assert np.mean(drawn) == pytest.approx(chance, abs=error + 1e-3)


@pytest.mark.parametrize("score", SCORES)
def test_the_lift_is_the_gain_over_the_mean_of_all_random_orders(score):
    truth = row([0, 0, 0, 1, 0, 1], bool)
    every_order = np.array([*permutations(range(1, 7))], float)[:, None]
    scores = score(every_order, np.repeat(truth, len(every_order), 0))
    lifts = scores[::50] - chance(score, np.repeat(truth, 15, 0))
    np.testing.assert_allclose(lifts, scores[::50] - scores.mean(), atol=1e-12)
    for value in (0, 5):
        assert (score(row([value] * 6), truth) - chance(score, truth))[0] == 0


@pytest.mark.parametrize("score", SCORES)
def test_empty_and_full_truth(score):
    maps = np.random.default_rng(2).random((1, 6, 6))
    assert score(maps, np.zeros((1, 6, 6), bool))[0] == 0
    assert score(maps, np.ones((1, 6, 6), bool))[0] == pytest.approx(1)


@pytest.mark.parametrize("score", RANK_SCORES)
@settings(max_examples=40, deadline=None)
@given(
    maps=arrays(np.int64, (2, 5, 5), elements=st.integers(0, 6)),
    truth=arrays(bool, (2, 5, 5)),
)
def test_a_monotone_rescaling_changes_no_rank_score(score, maps, truth):
    before = score(maps.astype(float), truth)
    np.testing.assert_array_equal(score(maps.astype(float) ** 3 / 7, truth), before)
    np.testing.assert_array_equal(score(np.exp(maps), truth), before)
    turned = np.ascontiguousarray(np.rot90(maps, 1, (1, 2)).astype(float))
    turned_truth = np.ascontiguousarray(np.rot90(truth, 1, (1, 2)))
    np.testing.assert_allclose(score(turned, turned_truth), before, rtol=1e-12)


def test_the_best_overlap_moves_with_a_power():
    rng = np.random.default_rng(3)
    truth = rng.random((4, 20, 20)) < 0.2
    maps = rng.random((4, 20, 20)) + 0.4 * truth
    threshold = best_threshold(maps, truth)
    cubed = best_threshold(maps**3, truth)
    assert cubed == pytest.approx(threshold**3)
    np.testing.assert_allclose(
        intersection_over_union(maps**3, truth, [cubed]),
        intersection_over_union(maps, truth, [threshold]),
    )


def test_overlap_of_zeros_of_no_road_and_of_only_road():
    maps = np.random.default_rng(5).random((1, 6, 6))
    truth = np.zeros((1, 6, 6), bool)
    truth[0, :2] = True
    zeros = np.zeros((1, 6, 6))
    # a map of zeros counts as a constant one, all of which counts as road
    assert intersection_over_union(zeros, truth, [0, 0.5, 1]).tolist() == [[1 / 3] * 3]
    assert intersection_over_union(zeros + 7, truth, [0, 0.5, 1]).tolist() == [[1 / 3] * 3]
    assert intersection_over_union(maps, truth & False, [0, 0.5]).tolist() == [[0, 0]]
    # with road everywhere it is the share of pixels that count as road
    called = (maps / maps.max() >= 0.5).mean()
    found = intersection_over_union(maps, truth | True, [0, 0.5])
    np.testing.assert_allclose(found, [[1, called]])


def test_the_best_threshold_is_the_best_of_all_values():
    rng = np.random.default_rng(4)
    truth = rng.random((2, 7, 7)) < 0.3
    maps = rng.random((2, 7, 7)) + 0.5 * truth
    parts = (maps / maps.max((1, 2), keepdims=True)).ravel()

    def overlap(threshold):
        called = maps / maps.max((1, 2), keepdims=True) >= threshold
        both, either = (called & truth).sum((1, 2)), (called | truth).sum((1, 2))
        return (both / either).mean()

    found = best_threshold(maps, truth, count=10_000)
    assert overlap(found) == pytest.approx(max(overlap(part) for part in parts))


def test_huge_and_tiny_maps_have_the_same_mass():
    rng = np.random.default_rng(5)
    maps, truth = rng.random((2, 9, 9)), rng.random((2, 9, 9)) < 0.3
    for factor in (1e305, 1e-305):
        np.testing.assert_allclose(
            relevance_mass(maps * factor, truth), relevance_mass(maps, truth), rtol=1e-9
        )


def test_pooling_takes_the_positive_part():
    assert positive_part(row([-2, 0, 3])).tolist() == [[[0, 0, 3]]]
    with pytest.raises(ValueError, match="finite"):
        positive_part(row([np.nan, 0]))
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        positive_part(np.zeros((2, 2)))


def test_maps_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="bool"):
        average_precision(row([1, 0]), row([1, 0]))
    with pytest.raises(ValueError, match="pool it first"):
        relevance_mass(row([1, -1]), row([1, 0], bool))
