"""Confidence intervals of mean scores. Whole scenes are drawn: their tiles are correlated."""

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

    In each of ``draws`` resamples, all scenes are drawn with replacement, each with all of its
    tiles (Efron and Tibshirani 1993, section 13.3). For the paired bootstrap of two methods on the
    same tiles, give the differences of their scores.

    Args:
        values: ``(N,)``, one for each tile, N at least 1.
        scenes: ``(N,)``, the scene of each tile. With a single scene the interval is unbounded.
        draws: Number of resamples.
        confidence: Share of the resamples inside the interval, in (0, 1).
        seed: Seed of the draws. With the same seed, all scores and methods use the same scenes.

    Returns:
        Mean, lower and upper end.

    Raises:
        ValueError: There is no tile, or values and scenes differ in number.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) != len(scenes) or len(numbers) == 0:
        raise ValueError(f"{numbers.shape} values for {len(scenes)} tiles; give one for each")
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
