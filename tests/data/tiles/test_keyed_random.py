"""Keyed random numbers against SplitMix64 in plain integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vbp_lightning.data.tiles.keyed_random import keyed_uniforms

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def uniforms(key: tuple[int, ...], draws: int) -> list[float]:
    state = 0
    for part in key:
        state = mix(((state ^ part) + GAMMA) & MASK)
    return [(mix((state + i * GAMMA) & MASK) >> 11) / 2**53 for i in range(1, draws + 1)]


def test_mix_is_splitmix64():
    # First outputs of the reference implementation (Vigna, splitmix64.c) for the seed 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [mix((1234567 + i * GAMMA) & MASK) for i in (1, 2, 3)] == expected


@given(st.tuples(*[st.integers(0, 2**40)] * 3), st.integers(1, 5))
def test_equals_plain_integers(key, draws):
    assert keyed_uniforms(key, draws).tolist() == [uniforms(key, draws)]


def test_the_numbers_of_a_key_do_not_depend_on_the_other_keys():
    index = np.arange(50)
    together = keyed_uniforms((3, 7, index), 4)
    assert np.array_equal(keyed_uniforms((3, 7, index[::-1]), 4), together[::-1])
    assert np.array_equal(keyed_uniforms((3, 7, 20), 4)[0], together[20])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_uniform_and_uncorrelated_along_each_part(axis):
    key: list[object] = [0, 0, 0]
    key[axis] = np.arange(20_000)
    drawn = keyed_uniforms(key, 3)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for column in drawn.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(column[:-1], column[1:])[0, 1]) < 0.03
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.03
