"""Band statistics against numpy on all pixels at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbp_lightning.data.imagery.normalisation import BandStatistics


def gathered(scenes):
    statistics = BandStatistics(len(scenes[0][0]), scenes[0][0].dtype, 1)
    for bands, valid in scenes:
        statistics.add(bands, valid)
    return statistics


def band_statistics(scenes):
    made = gathered(scenes).normalisation(None)
    return made.mean, made.std


@given(st.integers(0, 1000), st.sampled_from(["uint8", "uint16", "int16", "float32"]))
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
