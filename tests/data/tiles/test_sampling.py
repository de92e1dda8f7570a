"""Balanced drawing, keyed by (seed, epoch), and its division among processes."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vbp_lightning.data.tiles.sampling import BalancedBatches, drawn_tiles

LABELS = np.array([1, 0, 0, -1, 0, 1, 0, 0, -1, 0, 1, 0])


def batches_of(epoch, batches=3, size=8, seed=0, rank=0, world=1):
    sampler = BalancedBatches(LABELS, batches, size, seed, lambda: epoch, rank, world)
    assert len(sampler) == batches
    return list(sampler)


@given(st.integers(0, 40), st.integers(1, 60), st.integers(1, 9), st.integers(0, 3))
def test_members_come_in_passes(start, count, members, seed):
    drawn = drawn_tiles(np.arange(start, start + count), 10 + np.arange(members), seed, 0)
    longer = drawn_tiles(np.arange(0, start + count), 10 + np.arange(members), seed, 0)
    assert np.array_equal(longer[start:], drawn)
    for first in range(0, len(longer) - members + 1, members):
        assert sorted(longer[first : first + members]) == list(range(10, 10 + members))


def test_each_pass_has_its_own_order():
    drawn = drawn_tiles(np.arange(200), np.arange(100), 0, 1)
    assert not np.array_equal(drawn[:100], drawn[100:])
    assert not np.array_equal(drawn, drawn_tiles(np.arange(200), np.arange(100), 1, 1))
    assert not np.array_equal(drawn, drawn_tiles(np.arange(200), np.arange(100), 0, 0))


def test_every_batch_is_balanced_and_ignored_tiles_are_not_drawn():
    for epoch in range(4):
        for batch in batches_of(epoch):
            assert Counter(LABELS[batch[:, 2]].tolist()) == {0: 4, 1: 4}


def test_over_the_epochs_all_tiles_of_a_class_are_drawn_equally_often():
    drawn = Counter(
        number for epoch in range(7) for b in batches_of(epoch) for number in b[:, 2].tolist()
    )
    for label in (0, 1):
        times = [drawn[number] for number in np.flatnonzero(label == LABELS).tolist()]
        assert max(times) - min(times) <= 1
        assert min(times) > 0


def test_keys_carry_the_epoch_and_the_index():
    keys = np.concatenate(batches_of(5))
    assert set(keys[:, 0]) == {5}
    assert keys[:, 1].tolist() == list(range(24))


def test_an_epoch_depends_on_its_number_alone():
    epoch = {"now": 0}
    sampler = BalancedBatches(LABELS, 3, 8, 0, lambda: epoch["now"])
    seen = {}
    for number in (2, 0, 1, 2):
        epoch["now"] = number
        keys = np.concatenate(list(sampler))
        assert np.array_equal(seen.setdefault(number, keys), keys)
    assert not np.array_equal(seen[0][:, 2], seen[1][:, 2])
    assert not np.array_equal(np.concatenate(batches_of(0, seed=1)), seen[0])


def test_the_epoch_is_read_with_the_first_batch():
    epoch = {"now": 0}
    iterator = iter(BalancedBatches(LABELS, 3, 8, 0, lambda: epoch["now"]))
    epoch["now"] = 4
    assert next(iterator)[0, 0] == 4


def test_the_parts_of_all_processes_make_the_batches_of_one():
    whole = batches_of(2)
    for world in (2, 4):
        parts = [batches_of(2, rank=rank, world=world) for rank in range(world)]
        for number, batch in enumerate(whole):
            assert np.array_equal(np.concatenate([part[number] for part in parts]), batch)
