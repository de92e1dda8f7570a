"""Band statistics against NumPy on all pixels at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbp_lightning.data.imagery.normalisation import combined, sample_bands, sampling_steps


def statistics_of(scenes):
    return combined([sample_bands(bands, valid) for bands, valid in scenes])


def band_statistics(scenes):
    made = statistics_of(scenes).normalisation(None)
    return made.mean, made.std


@given(st.integers(0, 1000), st.sampled_from(["uint8", "uint16", "int16", "int32", "float32"]))
def test_equals_numpy_over_the_valid_pixels(seed, dtype):
    rng = np.random.default_rng(seed)
    scenes = []
    for height in (1, 70, 130):
        bands = rng.integers(0, 200, (2, height, 9)).astype(dtype)
        scenes.append((bands, rng.random((height, 9)) < rng.choice([0.5, 2.0])))
    pixels = np.concatenate([b[:, v] for b, v in scenes], axis=1).astype(np.float64)
    mean, std = band_statistics(scenes)
    np.testing.assert_allclose(mean, pixels.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=1), rtol=1e-10)
    statistics = statistics_of(scenes)
    assert statistics.count == pixels.shape[1]
    for percent in (0, 0.1, 2, 50, 97.3, 100):
        expected = np.percentile(pixels, percent, axis=1, method="inverted_cdf")
        assert statistics.percentile(percent) == expected.tolist()


def test_large_offsets_do_not_cancel():
    bands = np.tile(np.array([60_000, 60_001], np.uint16), (1, 200, 5))
    offset = bands.astype(np.float64) + 1e9
    mean, std = band_statistics([(offset, np.ones(bands.shape[1:], bool))])
    assert mean == [pytest.approx(1e9 + 60_000.5, rel=1e-15)]
    assert std == [pytest.approx(0.5, rel=1e-9)]


def test_invalid_pixels_do_not_count():
    bands = np.array([[[1, 3, 250]]], np.uint8)
    mean, std = band_statistics([(bands, np.array([[True, True, False]]))])
    assert (mean, std) == ([2.0], [1.0])


def test_nothing_to_measure():
    with pytest.raises(ValueError, match="no valid pixel"):
        band_statistics([(np.zeros((1, 2, 2)), np.zeros((2, 2), bool))])


def test_four_million_pixels_are_sampled_at_most():
    assert sampling_steps(0) == sampling_steps(4_000_000) == (1, 1)
    assert sampling_steps(4_000_001) == (1, 2)
    assert sampling_steps(2_500_000_000) == (25, 25)
    for millions in range(5, 20_000, 7):
        rows, cols = sampling_steps(millions * 1_000_000)
        assert millions <= 4 * rows * cols < millions + 4 * (rows + 1)


@given(
    st.integers(0, 999),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(5, 50), st.integers(5, 50)),
    st.sampled_from(["uint8", "float32"]),
)
def test_the_sample_does_not_depend_on_the_windows(seed, steps, window, dtype):
    rng = np.random.default_rng(seed)
    bands = rng.integers(0, 250, (2, 90, 70)).astype(dtype)
    valid = rng.random((90, 70)) < 0.7
    parts = []
    for top in range(0, 90, window[0]):
        for left in range(0, 70, window[1]):
            place = np.s_[top : top + window[0], left : left + window[1]]
            parts.append(sample_bands(bands[:, *place], valid[place], (top, left), steps))
    rng.shuffle(parts)
    found = combined(parts)
    rows, cols = (
        np.arange(side) % step == step // 2 for side, step in zip((90, 70), steps, strict=True)
    )
    chosen = valid & rows[:, None] & cols
    assert np.array_equal(np.sort(found.values, axis=1), np.sort(bands[:, chosen], axis=1))
    assert found.normalisation(None) == sample_bands(bands, valid, (0, 0), steps).normalisation(
        None
    )
    assert found.percentile(0) == bands[:, valid].min(axis=1).tolist()
    assert found.percentile(100) == bands[:, valid].max(axis=1).tolist()
