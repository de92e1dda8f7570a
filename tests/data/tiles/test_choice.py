import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbp_lightning.data.tiles.choice import choose_by_share, choose_example_predictions
from vbp_lightning.data.tiles.tile import Label, LabelledTile, Tile

THRESHOLD = 0.05


def labelled(share, row=0):
    label = Label.ROAD if share >= THRESHOLD else Label.IGNORED if share else Label.NON_ROAD
    return LabelledTile(Tile("scene", row, 0), (0, 0, 1, 1), share, label, "val")


def tiles_of(shares):
    return [labelled(share, row) for row, share in enumerate(shares)]


SHARES = st.lists(st.sampled_from([0.0, 0.0, 0.01, 0.03, 0.05, 0.06, 0.1, 0.2, 0.4]), max_size=60)


def test_each_group_holds_what_it_is_named_for():
    rng = np.random.default_rng(0)
    shares = np.concatenate(
        [np.zeros(40), rng.uniform(0.001, 0.049, 20), rng.uniform(0.05, 0.5, 40)]
    )
    rng.shuffle(shares)
    large, small, border, non_road = choose_by_share(tiles_of(shares), 16)
    assert [len(group.indices) for group in (large, small, border, non_road)] == [4] * 4
    road = np.sort(shares[shares >= THRESHOLD])
    assert shares[list(large.indices)].min() > np.quantile(road, 0.6)
    assert shares[list(small.indices)].max() < np.quantile(road, 0.4)
    ignored = np.sort(shares[(shares > 0) & (shares < THRESHOLD)])
    assert sorted(shares[list(border.indices)]) == [*ignored[-2:], *road[:2]]
    assert not shares[list(non_road.indices)].any()
    # spread over the split, not the first four
    assert np.ptp(non_road.indices) > 50


@given(SHARES, st.integers(4, 40))
def test_the_choice_is_deterministic_without_repeats_and_as_large_as_asked(shares, count):
    tiles = tiles_of(shares)
    groups = choose_by_share(tiles, count)
    chosen = [index for group in groups for index in group.indices]
    assert groups == choose_by_share(tiles, count)
    assert len(set(chosen)) == len(chosen) <= count
    large, small, border, non_road = groups
    assert all(tiles[i].label == Label.ROAD for i in large.indices + small.indices)
    assert all(tiles[i].label != Label.NON_ROAD for i in border.indices)
    assert all(tiles[i].label == Label.NON_ROAD for i in non_road.indices)
    if large.indices and small.indices:
        assert min(shares[i] for i in large.indices) >= max(shares[i] for i in small.indices)
    if Label.ROAD in [tile.label for tile in tiles]:
        assert large.indices + border.indices


def test_plenty_of_tiles_fill_every_group():
    shares = [0.0, 0.01, 0.02, 0.06, 0.2, 0.3] * 20
    for count in (4, 5, 16, 18, 32):
        groups = choose_by_share(tiles_of(shares), count)
        assert sum(len(group.indices) for group in groups) == count


def test_neither_choice_touches_the_random_state():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    tiles = tiles_of([0.0, 0.02, 0.2, 0.4])
    choose_by_share(tiles, 16)
    choose_example_predictions(tiles, np.array([0.1, 0.2, 0.3, 0.9]), 0.5, 16)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_example_predictions_by_hand():
    shares = [0.2, 0.2, 0.2, 0.2, 0.0, 0.0, 0.0, 0.02, 0.02]
    probabilities = np.array([0.9, 0.7, 0.3, 0.1, 0.8, 0.6, 0.05, 0.99, 0.5])
    hits, misses, alarms, borderline = choose_example_predictions(
        tiles_of(shares), probabilities, 0.5, 16
    )
    assert hits.indices == (0, 1)
    assert misses.indices == (3, 2)
    assert alarms.indices == (4, 5)
    # 5 at 0.1 from the threshold, 1 and 2 at 0.2, 4 at 0.3; ignored tiles never
    assert borderline.indices == (5, 1, 2, 4)


@given(SHARES.filter(len), st.data())
def test_example_predictions_are_what_their_group_says(shares, data):
    tiles = tiles_of(shares)
    probabilities = np.array(
        data.draw(st.lists(st.floats(0, 1), min_size=len(tiles), max_size=len(tiles)))
    )
    threshold = data.draw(st.floats(0, 1))
    hits, misses, alarms, borderline = choose_example_predictions(
        tiles, probabilities, threshold, 8
    )
    called = probabilities >= threshold
    assert all(tiles[i].label == Label.ROAD and called[i] for i in hits.indices)
    assert all(tiles[i].label == Label.ROAD and not called[i] for i in misses.indices)
    assert all(tiles[i].label == Label.NON_ROAD and called[i] for i in alarms.indices)
    assert all(tiles[i].label != Label.IGNORED for i in borderline.indices)
    if len(hits.indices) == 2:
        best = max(
            p for p, tile in zip(probabilities, tiles, strict=True) if tile.label == Label.ROAD
        )
        assert probabilities[hits.indices[0]] == pytest.approx(best)
