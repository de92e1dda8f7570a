"""Whether the relevance lies on the road: scores of one map against the road pixels of its tile.

Every score is the expected value over all orders of pixels of equal relevance, so that it depends
neither on the order of pixels in memory nor on a sorting routine. Hence a constant map gets the
mean score of a random order, which is chance. An empty truth gives 0 for every map, and a full
truth gives 1.

Maps are pooled first (:func:`positive_part`). All functions take relevance ``(N, H, W)``, floating
point and not negative, and truth ``(N, H, W)`` bool, and return ``(N,)`` float64 in [0, 1].
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

Maps = npt.NDArray[np.floating]
Truth = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]


def positive_part(relevance: Maps) -> npt.NDArray[np.float64]:
    """Pools signed maps: evidence against the class counts as zero.

    Args:
        relevance: ``(N, H, W)`` any sign.

    Returns:
        float64 of the same shape, at least 0.

    Raises:
        ValueError: It holds NaN or infinity, or does not have three axes.
    """
    values = np.asarray(relevance, dtype=np.float64)
    if values.ndim != 3:
        raise ValueError(f"relevance has the shape {values.shape}; give (N, H, W)")
    if not np.isfinite(values).all():
        raise ValueError("relevance holds values that are not finite")
    return np.maximum(values, 0)


def average_precision(relevance: Maps, truth: Truth) -> Scores:
    """Area under the steps of precision over recall, of all pixels ranked by relevance.

    Let a group of ``g`` tied pixels, ``p`` of them road, follow ``r`` pixels, ``q`` of them road.
    Place ``i`` of the group holds a road pixel with probability ``p / g``. If it does, ``q + 1 +
    (i − 1)(p − 1)/(g − 1)`` of the first ``r + i`` pixels are road on average.
    """
    values, flags = _flat(relevance, truth)
    pixels = values.shape[1]
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, pixels + 1))])
    scores = np.zeros(len(values))
    for index, (row, road) in enumerate(zip(values, flags, strict=True)):
        roads = int(road.sum())
        if roads == 0:
            continue
        before, size, hits_before, hits = _groups(row, road)
        slope = (hits - 1) / np.maximum(size - 1, 1)
        reciprocals = harmonic[before + size] - harmonic[before]
        sums = slope * size + (hits_before + 1 - slope * (before + 1)) * reciprocals
        scores[index] = (hits / size * sums).sum() / roads
    return scores


def to_largest(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Divides maps by their largest value, so that their sums neither over- nor underflow.

    Args:
        values: ``(N, P)``, not negative.

    Returns:
        The same shape, in [0, 1]; ones for a map of zeros, which counts as a constant one.
    """
    largest = values.max(axis=1, keepdims=True, initial=0)
    return np.asarray(np.divide(values, largest, out=np.ones_like(values), where=largest > 0))


def relevance_mass(relevance: Maps, truth: Truth) -> Scores:
    """Share of the relevance that lies on the road (Arras et al. 2022, "mass accuracy").

    A map of zeros counts as a constant one and gets the road share.
    """
    values, flags = _flat(relevance, truth)
    values = to_largest(values)
    mass: Scores = (values * flags).sum(axis=1) / values.sum(axis=1)
    return mass


def rank_accuracy(relevance: Maps, truth: Truth) -> Scores:
    """Share of road among the n most relevant pixels, for n road pixels (Arras et al. 2022)."""
    values, flags = _flat(relevance, truth)
    scores = np.zeros(len(values))
    for index, (row, road) in enumerate(zip(values, flags, strict=True)):
        roads = int(road.sum())
        if roads == 0:
            continue
        last = np.partition(row, len(row) - roads)[len(row) - roads]
        above, tied = row > last, row == last
        open_places = roads - int(above.sum())
        scores[index] = (road[above].sum() + open_places * road[tied].mean()) / roads
    return scores


def pointing_game(relevance: Maps, truth: Truth, tolerance: float = 0) -> Scores:
    """Whether the most relevant pixel lies on the road (Zhang et al. 2018).

    Args:
        relevance: ``(N, H, W)``.
        truth: ``(N, H, W)``.
        tolerance: Largest Euclidean distance to the road in pixels.

    Returns:
        ``(N,)``, 0 or 1; the share of hits if several pixels share the highest relevance.
    """
    values, flags = _checked(relevance, truth)
    scores = np.zeros(len(values))
    for index, (plane, road) in enumerate(zip(values, flags, strict=True)):
        if road.any():
            near = road if tolerance == 0 else distance_transform_edt(~road) <= tolerance
            scores[index] = near[plane == plane.max()].mean()
    return scores


def chance(score: Callable[[Maps, Truth], Scores], truth: Truth) -> Scores:
    """The score of a constant map, which is the mean over all random orders of the pixels.

    Args:
        score: One of the scores above, such as :func:`average_precision`.
        truth: ``(N, H, W)``.

    Returns:
        ``(N,)`` float64 in [0, 1].
    """
    return score(np.ones(truth.shape), truth)


def intersection_over_union(
    relevance: Maps, truth: Truth, thresholds: Sequence[float] | Scores
) -> Scores:
    """Overlap of the road and the pixels whose relevance reaches a share of the map's maximum.

    Args:
        relevance: ``(N, H, W)``. A map of zeros counts as a constant one.
        truth: ``(N, H, W)``.
        thresholds: ``(T,)`` shares of the maximum of each map, in [0, 1].

    Returns:
        ``(N, T)``.
    """
    values, flags = _flat(relevance, truth)
    parts = np.asarray(thresholds, dtype=np.float64)
    scores = np.zeros((len(values), len(parts)))
    for index, (row, road) in enumerate(zip(values, flags, strict=True)):
        largest = row.max()
        row = row / largest if largest > 0 else np.ones_like(row)
        called = len(row) - np.searchsorted(np.sort(row), parts)
        hits = road.sum() - np.searchsorted(np.sort(row[road]), parts)
        scores[index] = hits / np.maximum(called + road.sum() - hits, 1)
    return scores


def best_threshold(relevance: Maps, truth: Truth, count: int = 200) -> float:
    """The share of each map's maximum with the largest mean intersection over union.

    Choose it on other tiles than those that are scored.

    Args:
        relevance: ``(N, H, W)``, N at least 1.
        truth: ``(N, H, W)``.
        count: Number of candidates: evenly spaced quantiles of the pixels of all maps, so that they
            change with a monotone rescaling of the maps.

    Returns:
        In [0, 1]; the smallest of several equally good ones.
    """
    values, _ = _flat(relevance, truth)
    largest = values.max(axis=1, keepdims=True, initial=0)
    parts = np.divide(values, largest, out=np.ones_like(values), where=largest > 0)
    candidates = np.unique(np.quantile(parts, np.linspace(0, 1, count + 1), method="lower"))
    planes = parts.reshape(relevance.shape)
    overlaps = intersection_over_union(planes, truth, candidates).mean(axis=0)
    return float(candidates[int(overlaps.argmax())])


def _groups(row: Scores, road: Truth) -> tuple[npt.NDArray[np.int64], ...]:
    """Groups of tied pixels, the most relevant first: pixels before, size, road before, road."""
    order = np.argsort(-row)
    ranked = row[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(row) - 1)
    after, hits_after = ends + 1, np.cumsum(road[order])[ends]
    before = np.concatenate([[0], after[:-1]])
    hits_before = np.concatenate([[0], hits_after[:-1]])
    return before, after - before, hits_before, hits_after - hits_before


def _checked(relevance: Maps, truth: Truth) -> tuple[npt.NDArray[np.float64], Truth]:
    values, flags = np.asarray(relevance, dtype=np.float64), np.asarray(truth)
    if values.ndim != 3 or values.shape != flags.shape or flags.dtype != bool:
        raise ValueError(
            f"relevance {values.shape} and truth {flags.shape} {flags.dtype}: give (N, H, W) of "
            "both, the truth as bool"
        )
    if values.size and not (values.min() >= 0 and np.isfinite(values).all()):
        raise ValueError("relevance is negative or not finite; pool it first (positive_part)")
    return values, flags


def _flat(relevance: Maps, truth: Truth) -> tuple[npt.NDArray[np.float64], Truth]:
    values, flags = _checked(relevance, truth)
    return values.reshape(len(values), -1), flags.reshape(len(flags), -1)
