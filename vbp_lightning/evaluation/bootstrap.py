"""Intervals of mean scores by drawing whole scenes: tiles of one scene resemble each other."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A mean over tiles with its interval.

    Args:
        mean: Over all tiles.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def mean_interval(
    values: npt.ArrayLike,
    scenes: Sequence[str],
    draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean over tiles, and the percentile interval of the bootstrap over scenes.

    As many scenes as there are are drawn with replacement, each with all of its tiles, ``draws``
    times (Efron and Tibshirani 1993, section 13.3). Of the difference of two methods on the same
    tiles this is the paired bootstrap: give it the differences.

    Args:
        values: ``(N,)``, one a tile, N at least 1.
        scenes: ``(N,)``, the scene of each tile. With a single scene there is nothing to draw: the
            interval is unbounded.
        draws: Resamples.
        confidence: Share of the resamples inside, in (0, 1).
        seed: Of the draw: the same for every score and method, whose scenes are then the same.

    Returns:
        Mean, lower and upper end.

    Raises:
        ValueError: There is no tile, or numbers differ.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) != len(scenes) or len(numbers) == 0:
        raise ValueError(f"{numbers.shape} values of {len(scenes)} tiles; give one a tile")
    names, which = np.unique(np.asarray(scenes), return_inverse=True)
    mean = float(numbers.mean())
    if len(names) == 1:
        return Interval(mean, -np.inf, np.inf)
    sums = np.bincount(which, numbers)
    counts = np.bincount(which)
    even = np.full(len(names), 1 / len(names))
    drawn = np.random.default_rng(seed).multinomial(len(names), even, size=draws)
    means: Floats = (drawn @ sums) / (drawn @ counts)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))
