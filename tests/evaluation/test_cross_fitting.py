import numpy as np
import pytest

from vbp_lightning.evaluation.cross_fitting import (
    EXPONENTS,
    Setting,
    choose_setting,
    cross_fitted_scores,
    localisation_scores,
)
from vbp_lightning.evaluation.localisation import (
    average_precision,
    intersection_over_union,
    pointing_game,
    rank_accuracy,
    relevance_mass,
)


def some_maps(count=6):
    rng = np.random.default_rng(0)
    truth = rng.random((count, 16, 16)) < 0.2
    return rng.random((count, 16, 16)) + 0.5 * truth - 0.3, truth


def test_each_score_is_its_function_of_the_pooled_map():
    maps, truth = some_maps()
    pooled = np.maximum(maps, 0)
    found = localisation_scores(maps * 1e-30, truth, Setting(3, 0.7))
    expected = {
        "average_precision": average_precision(pooled, truth),
        "relevance_mass": relevance_mass(pooled, truth),
        "sharpened_mass": relevance_mass(pooled**3, truth),
        "rank_accuracy": rank_accuracy(pooled, truth),
        "pointing_game": pointing_game(pooled, truth),
        "pointing_game_2px": pointing_game(pooled, truth, 2),
        "iou": intersection_over_union(pooled, truth, [0.7])[:, 0],
    }
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9)


def test_the_setting_is_the_best_of_all():
    maps, truth = some_maps()
    chosen = choose_setting(maps, truth)
    pooled = np.maximum(maps, 0)
    masses = [relevance_mass(pooled**each, truth).mean() for each in EXPONENTS]
    assert masses[EXPONENTS.index(chosen.exponent)] == max(masses)
    grid = np.linspace(0, 1, 101)
    best = intersection_over_union(pooled, truth, [chosen.threshold]).mean()
    assert best >= intersection_over_union(pooled, truth, grid).mean(axis=0).max() - 0.01


def test_each_half_is_scored_with_the_setting_of_the_other():
    maps, truth = some_maps()
    scenes = ["b", "a", "c", "a", "b", "c"]
    scores, settings = cross_fitted_scores(maps, truth, scenes)
    even = np.array([name in "ac" for name in scenes])
    assert settings[0] == choose_setting(maps[~even], truth[~even])
    assert settings[1] == choose_setting(maps[even], truth[even])
    for half, setting in ((even, settings[0]), (~even, settings[1])):
        for name, values in localisation_scores(maps[half], truth[half], setting).items():
            np.testing.assert_array_equal(scores[name][half], values)
    with pytest.raises(ValueError, match="one scene"):
        cross_fitted_scores(maps, truth, ["a"] * 6)
