"""Nearest neighbours of tiles, in feature space and in pixel space."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Neighbors:
    """The nearest tiles of some queries.

    Args:
        indices: ``(Q, k)`` numbers of tiles, nearest first.
        distances: ``(Q, k)`` Euclidean distances.
    """

    indices: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float64]


def nearest(vectors: Floats, queries: npt.NDArray[np.int64], count: int) -> Neighbors:
    """The nearest other vectors of some of the vectors; exact, by brute force.

    Args:
        vectors: ``(N, F)`` float32.
        queries: ``(Q,)`` numbers of vectors.
        count: Neighbours of each; fewer if there are not enough vectors.

    Returns:
        Euclidean neighbours.
    """
    wanted = min(count + 1, len(vectors))
    index = NearestNeighbors(n_neighbors=wanted, algorithm="brute").fit(vectors)
    distances, indices = index.kneighbors(vectors[queries])
    return _without_themselves(indices, distances, queries, wanted - 1)


def nearest_pixels(
    batches: Iterable[Floats], tiles: Floats, queries: npt.NDArray[np.int64], count: int
) -> Neighbors:
    """The nearest other tiles by the distance of their pixels; one batch at a time is in memory.

    Args:
        batches: Of ``(n, C, H, W)``, all tiles in order.
        tiles: ``(Q, C, H, W)`` the queries.
        queries: ``(Q,)`` their numbers.
        count: Neighbours of each.

    Returns:
        Euclidean neighbours over all pixels and bands, in raw units.
    """
    flat = tiles.reshape(len(tiles), -1)
    indices = np.zeros((len(tiles), 0), np.int64)
    distances = np.zeros((len(tiles), 0))
    start = 0
    for batch in batches:
        found = pairwise_distances(flat, batch.reshape(len(batch), -1))
        numbers = np.arange(start, start + len(batch))
        start += len(batch)
        distances = np.concatenate([distances, found], axis=1)
        indices = np.concatenate([indices, np.broadcast_to(numbers, found.shape)], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")[:, : count + 1]
        distances = np.take_along_axis(distances, order, axis=1)
        indices = np.take_along_axis(indices, order, axis=1)
    return _without_themselves(indices, distances, queries, min(count, max(start - 1, 0)))


def _without_themselves(
    indices: npt.NDArray[np.int64],
    distances: npt.NDArray[np.float64],
    queries: npt.NDArray[np.int64],
    count: int,
) -> Neighbors:
    # an identical tile may come before the tile itself, at the same distance of zero
    others = np.argsort(indices == queries[:, None], axis=1, kind="stable")[:, :count]
    return Neighbors(
        np.take_along_axis(indices, others, axis=1).astype(np.int64),
        np.take_along_axis(distances, others, axis=1).astype(np.float64),
    )
