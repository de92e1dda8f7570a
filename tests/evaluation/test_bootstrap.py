import numpy as np
import pytest

from vbp_lightning.evaluation.bootstrap import mean_interval


def test_the_interval_holds_the_mean_and_shrinks_with_more_scenes():
    rng = np.random.default_rng(0)
    widths = []
    for count in (10, 160):
        values = rng.normal(size=count * 5)
        result = mean_interval(values, [f"scene {i // 5}" for i in range(len(values))])
        assert result.low < result.mean < result.high
        assert result.mean == pytest.approx(values.mean())
        widths.append(result.high - result.low)
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.4)


def test_tiles_of_a_scene_are_not_independent():
    """A hundred copies of each of four tiles give the interval of the four."""
    values = np.array([0.1, 0.2, 0.6, 0.9])
    names = list("abcd")
    once = mean_interval(values, names)
    often = mean_interval(np.repeat(values, 100), np.repeat(names, 100).tolist())
    np.testing.assert_allclose(often, once)


def test_exact_for_two_scenes():
    """The share of the second scene is 0, ½ or 1 with the probabilities ¼, ½, ¼."""
    result = mean_interval([0, 1], ["a", "b"], confidence=0.6)
    assert result == (0.5, 0, 1)
    assert mean_interval([0, 1], ["a", "b"], confidence=0.4) == (0.5, 0.5, 0.5)


def test_scenes_are_weighted_by_their_tiles():
    """Resamples of scenes a (one tile, 1) and b (three tiles, 0) have the means 1, ¼ and 0."""
    result = mean_interval([1, 0, 0, 0], list("abbb"), confidence=0.4)
    assert result.mean == 0.25
    assert (result.low, result.high) == (0.25, 0.25)


def test_the_interval_of_one_scene_is_unbounded():
    assert mean_interval([1, 2], ["a", "a"]) == (1.5, -np.inf, np.inf)


def test_the_same_seed_draws_the_same():
    values, names = [1, 2, 3, 4], list("aabc")
    assert mean_interval(values, names, seed=3) == mean_interval(values, names, seed=3)
    with pytest.raises(ValueError, match="give one for each"):
        mean_interval([1], ["a", "b"])
