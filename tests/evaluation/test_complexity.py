import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from vbp_lightning.evaluation.complexity import entropy, gini


def maps():
    return np.random.default_rng(0).random((3, 5, 6)) ** 4


def test_entropy_is_that_of_the_shares():
    expected = [scipy_entropy(each.ravel()) / np.log(30) for each in maps()]
    np.testing.assert_allclose(entropy(maps()), expected)


def test_gini_is_the_mean_difference_of_two_pixels():
    values = maps().reshape(3, -1)
    differences = np.abs(values[:, :, None] - values[:, None]).mean((1, 2))
    np.testing.assert_allclose(gini(maps()), differences / (2 * values.mean(1)))


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_the_ends_of_the_range_and_any_scale(scale):
    one = np.zeros((1, 10, 10))
    one[0, 3, 3] = scale
    for constant in (np.zeros_like(one), np.full_like(one, scale)):
        assert entropy(constant)[0] == pytest.approx(1)
        assert gini(constant)[0] == pytest.approx(0, abs=1e-12)
    assert entropy(one)[0] == pytest.approx(0)
    assert gini(one)[0] == pytest.approx(0.99)
    np.testing.assert_allclose(entropy(scale * maps()), entropy(maps()))
    np.testing.assert_allclose(gini(scale * maps()), gini(maps()))
