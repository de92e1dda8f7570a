"""All localisation scores of a method whose two settings are chosen on other tiles.

Relevance mass is easily increased: a power of a map keeps the order of its pixels and concentrates
its mass on the peaks. Therefore every method is also scored with the best exponent of the same
candidates. The threshold for the intersection over union is chosen in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vbp_lightning.evaluation.localisation import (
    Maps,
    Scores,
    Truth,
    average_precision,
    best_threshold,
    intersection_over_union,
    pointing_game,
    positive_part,
    rank_accuracy,
    relevance_mass,
)

EXPONENTS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Candidates for the exponent."""


@dataclass(frozen=True)
class Setting:
    """The settings of a method.

    Args:
        exponent: Exponent of its maps, for ``sharpened_mass``.
        threshold: Share of the maximum of each map from which a pixel counts as road, for
            ``iou``.
    """

    exponent: float
    threshold: float


def choose_setting(relevance: Maps, truth: Truth) -> Setting:
    """The exponent with the largest mean relevance mass and the threshold with the largest overlap.

    Args:
        relevance: ``(N, H, W)``, N at least 1, of any sign; negative values count as zero.
        truth: ``(N, H, W)`` bool.

    Returns:
        The chosen exponent and threshold.
    """
    maps = _to_one(positive_part(relevance))
    masses = [relevance_mass(maps**exponent, truth).mean() for exponent in EXPONENTS]
    return Setting(EXPONENTS[int(np.argmax(masses))], best_threshold(maps, truth))


def localisation_scores(relevance: Maps, truth: Truth, setting: Setting) -> dict[str, Scores]:
    """Every localisation score of every tile.

    Args:
        relevance: ``(N, H, W)``, of any sign; negative values count as zero.
        truth: ``(N, H, W)`` bool.
        setting: Exponent and threshold, chosen on other tiles.

    Returns:
        ``(N,)`` by the name of the score. The names are ``average_precision``, ``relevance_mass``
        of the map, ``sharpened_mass`` of its power, ``rank_accuracy``, ``pointing_game`` without
        and ``pointing_game_2px`` with a tolerance of two pixels, and ``iou``.
    """
    maps = _to_one(positive_part(relevance))
    return {
        "average_precision": average_precision(maps, truth),
        "relevance_mass": relevance_mass(maps, truth),
        "sharpened_mass": relevance_mass(maps**setting.exponent, truth),
        "rank_accuracy": rank_accuracy(maps, truth),
        "pointing_game": pointing_game(maps, truth),
        "pointing_game_2px": pointing_game(maps, truth, tolerance=2),
        "iou": intersection_over_union(maps, truth, [setting.threshold])[:, 0],
    }


def cross_fitted_scores(
    relevance: Maps, truth: Truth, scenes: Sequence[str]
) -> tuple[dict[str, Scores], list[Setting]]:
    """The same scores, for each half of the scenes with the setting chosen on the other half.

    Args:
        relevance: ``(N, H, W)``.
        truth: ``(N, H, W)`` bool.
        scenes: ``(N,)``, at least two different ones.

    Returns:
        The scores, and the settings with which the two halves were scored. The halves are the
        scenes at even and those at odd places in the sorted list of names.

    Raises:
        ValueError: There is only one scene.
    """
    names, which = np.unique(np.asarray(scenes), return_inverse=True)
    if len(names) < 2:
        raise ValueError("one scene cannot be halved; give at least two")
    scores: dict[str, Scores] = {}
    settings = []
    for half in (0, 1):
        evaluation_tiles = which % 2 == half
        setting = choose_setting(relevance[~evaluation_tiles], truth[~evaluation_tiles])
        settings.append(setting)
        of_half = localisation_scores(relevance[evaluation_tiles], truth[evaluation_tiles], setting)
        for name, values in of_half.items():
            scores.setdefault(name, np.zeros(len(which)))[evaluation_tiles] = values
    return scores, settings


def _to_one(maps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Maps with the maximum 1, so that powers neither over- nor underflow; zeros stay."""
    largest = maps.max(axis=(1, 2), keepdims=True, initial=0)
    scaled: npt.NDArray[np.float64] = np.zeros_like(maps)
    np.divide(maps, largest, out=scaled, where=largest > 0)
    return scaled
