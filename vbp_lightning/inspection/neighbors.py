"""Nearest neighbours of tiles, in feature space and in pixel space."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import pairwise_distances

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


def nearest(
    batches: Iterable[Floats], tiles: Floats, queries: npt.NDArray[np.int64], count: int
) -> Neighbors:
    """The nearest other tiles of some tiles; exact, one batch at a time is in memory.

    Args:
        batches: ``(n, …)`` float32 each, the features or pixels of all tiles in order.
        tiles: ``(Q, …)`` the features or pixels of the queries.
        queries: ``(Q,)`` the numbers of the queries.
        count: Number of neighbours of each; fewer if there are not enough tiles.

    Returns:
        Neighbours by the Euclidean distance over all values of a tile.
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
    # an identical tile may come before the tile itself, at the same distance of zero
    others = np.argsort(indices == queries[:, None], axis=1, kind="stable")
    others = others[:, : min(count, max(start - 1, 0))]
    return Neighbors(
        np.take_along_axis(indices, others, axis=1), np.take_along_axis(distances, others, axis=1)
    )
