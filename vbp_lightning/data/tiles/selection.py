"""The selection of tiles that are shown and scored: by rank, without random numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vbp_lightning.data.tiles.tile import Label, LabelledTile


@dataclass(frozen=True)
class TileGroup:
    """Tiles that are shown together.

    Args:
        name: Used in tags and file names.
        title: Heading of the page.
        indices: Indices into the split's list of tiles; may be empty.
    """

    name: str
    title: str
    indices: tuple[int, ...]


def choose_by_share(tiles: Sequence[LabelledTile], count: int) -> list[TileGroup]:
    """Selects tiles for every epoch's panel: road of large and small share, border, non-road.

    The border group holds the tiles whose label is least certain: ignored tiles with the largest
    road share and road tiles with the smallest. Large and small shares are spread over the upper
    and the lower third of the remaining road tiles, non-road tiles over the whole split. A group
    is smaller if there are too few tiles of its type. No tile occurs twice.

    Args:
        tiles: A split's tiles, ignored ones included, in a fixed order.
        count: Number of tiles in total, at least 4; the four groups share it evenly.

    Returns:
        Four groups; the same for the same arguments.
    """
    first, second, third, fourth = _group_sizes(count)
    labels = np.array([tile.label for tile in tiles])
    shares = np.array([tile.share for tile in tiles])
    ignored = np.array([tile.label == Label.IGNORED and not tile.answer for tile in tiles])
    below = _ranked(ignored, -shares)[: third // 2]
    road = _ranked(labels == Label.ROAD, shares)
    # If there are few road tiles, most of them are kept for the other groups.
    above = road[: min(third - len(below), max(1, len(road) // 4))] if third else []
    road = road[len(above) :]
    # A third of the road tiles each, or up to a half if that gives too few.
    part = max(len(road) // 3, min(len(road) // 2, max(first, second)))
    small = _spread(road[:part], second)
    large = _spread(road[len(road) - max(part, 1) :][::-1], first)
    non_road = _spread(np.flatnonzero(labels == Label.NON_ROAD).tolist(), fourth)
    return [
        TileGroup("road_large_share", "road, large share", tuple(large)),
        TileGroup("road_small_share", "road, small share", tuple(small)),
        TileGroup("ignore_border", "road share near data.road_share", (*below, *above)),
        TileGroup("non_road", "non-road", tuple(non_road)),
    ]


def choose_example_predictions(
    tiles: Sequence[LabelledTile],
    probabilities: NDArray[np.float64],
    threshold: float,
    count: int,
) -> list[TileGroup]:
    """Selects example predictions for the panel after the fit.

    Ignored tiles have no correct answer and are left out. A borderline tile that is also a false
    negative or a false positive may be in both groups.

    Args:
        tiles: A split's tiles.
        probabilities: (N,) P(road) of each.
        threshold: A tile is predicted as road if its P(road) is at least this.
        count: Number of tiles in total, at least 4; the four groups share it evenly.

    Returns:
        Four groups, each from the most extreme tile on. They are confident true positives (road
        tiles of the highest probability), confident false negatives (missed road tiles of the
        lowest), false positives (non-road tiles of the highest), and the labelled tiles nearest
        to the threshold.
    """
    first, second, third, fourth = _group_sizes(count)
    labels = np.array([tile.label for tile in tiles])
    road, non_road = labels == Label.ROAD, labels == Label.NON_ROAD
    called = probabilities >= threshold
    true_positives = _ranked(road & called, -probabilities)[:first]
    false_negatives = _ranked(road & ~called, probabilities)[:second]
    false_positives = _ranked(non_road & called, -probabilities)[:third]
    borderline = _ranked(road | non_road, abs(probabilities - threshold))[:fourth]
    return [
        TileGroup("confident_true_positives", "confident true positives", tuple(true_positives)),
        TileGroup("confident_false_negatives", "confident false negatives", tuple(false_negatives)),
        TileGroup("false_positives", "false positives", tuple(false_positives)),
        TileGroup("borderline", "near the threshold", tuple(borderline)),
    ]


def spread_road_tiles(tiles: Sequence[LabelledTile], count: int) -> list[LabelledTile]:
    """At most ``count`` road tiles of a split, evenly spaced in its order."""
    road = [tile for tile in tiles if tile.label == Label.ROAD]
    return [road[rank] for rank in _spread(range(len(road)), count)]


def road_is_known(
    tiles: Sequence[LabelledTile], road_masks: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether the road mask of each tile can score a saliency map.

    It must hold both road pixels and others: of images that are labelled as road as a whole it does
    not say where the road is. It must not contradict a corrected label.

    Args:
        tiles: Labelled tiles.
        road_masks: (N, H, W) road pixels of each.

    Returns:
        (N,).
    """
    some, every = road_masks.any(axis=(1, 2)), road_masks.all(axis=(1, 2))
    fit = np.array([tile.road_pixels_fit for tile in tiles], dtype=bool)
    known: NDArray[np.bool_] = fit & some & ~every
    return known


def where_road_is_known(
    tiles: Sequence[LabelledTile], road_masks: NDArray[np.bool_]
) -> tuple[list[LabelledTile], NDArray[np.bool_]]:
    """The tiles whose road mask can score a saliency map, and these road masks.

    Args:
        tiles: Labelled tiles.
        road_masks: (N, H, W) road pixels of each, context included.

    Returns:
        Those of :func:`road_is_known`, in their order, and their road masks.
    """
    known = road_is_known(tiles, road_masks)
    return [tiles[index] for index in np.flatnonzero(known).tolist()], road_masks[known]


def _group_sizes(count: int) -> list[int]:
    return [count // 4 + (rank < count % 4) for rank in range(4)]


def _ranked(chosen: NDArray[np.bool_], values: NDArray[np.float64]) -> list[int]:
    """Indices of the chosen items by ascending value; equal values keep their order."""
    indices = np.flatnonzero(chosen)
    ranked: list[int] = indices[np.argsort(values[indices], kind="stable")].tolist()
    return ranked


def _spread(indices: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the indices, evenly spaced and in their order, the first included."""
    if len(indices) <= count:
        return list(indices)
    return [indices[rank * len(indices) // count] for rank in range(count)]
