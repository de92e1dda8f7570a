"""Which validation tiles are looked at: chosen by rank, so without any random number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vbp_lightning.data.tiles.tile import Label, LabelledTile


@dataclass(frozen=True)
class TileGroup:
    """Tiles that are shown together.

    Args:
        name: For tags and file names.
        title: For people.
        indices: Positions in the split's list of tiles; may be empty.
    """

    name: str
    title: str
    indices: tuple[int, ...]


def choose_by_share(tiles: Sequence[LabelledTile], count: int) -> list[TileGroup]:
    """Picks tiles for every epoch's panel: road of large and small share, border, non-road.

    The border is the tiles whose label is least certain: ignored ones with the largest road share
    and road ones with the smallest. Large and small shares are spread over the upper and the lower
    third of the remaining road tiles, non-road tiles over the whole split. Where a kind has too few
    tiles, its group is smaller. No tile comes twice.

    Args:
        tiles: A split's tiles, ignored ones included, in a fixed order.
        count: How many tiles in all, at least 4; the four groups share it evenly.

    Returns:
        Four groups; the same for the same arguments.
    """
    first, second, third, fourth = (count // 4 + (rank < count % 4) for rank in range(4))
    shares = [tile.share for tile in tiles]
    ignored = _ranked(tiles, Label.IGNORED, lambda index: -shares[index])
    road = _ranked(tiles, Label.ROAD, lambda index: shares[index])
    below = ignored[: third // 2]
    # few tiles of road must not all go to the border
    above = road[: min(third - len(below), max(1, len(road) // 4))] if third else []
    road = road[len(above) :]
    # a third of them each, or up to a half where that gives too few
    part = max(len(road) // 3, min(len(road) // 2, max(first, second)))
    small = _spread(road[:part], second)
    large = _spread(road[len(road) - max(part, 1) :][::-1], first)
    non_road = _spread(_ranked(tiles, Label.NON_ROAD, lambda index: 0.0), fourth)
    return [
        TileGroup("road_large_share", "road, large share", tuple(large)),
        TileGroup("road_small_share", "road, small share", tuple(small)),
        TileGroup("ignore_border", "near the ignore band", (*below, *above)),
        TileGroup("non_road", "non-road", tuple(non_road)),
    ]


def choose_example_predictions(
    tiles: Sequence[LabelledTile],
    probabilities: npt.NDArray[np.float64],
    threshold: float,
    count: int,
) -> list[TileGroup]:
    """Picks tiles for the sheet after the fit: four groups of example predictions.

    Ignored tiles have no right answer and are left out. A borderline tile that is also a false
    negative or a false positive may be shown in both groups.

    Args:
        tiles: A split's tiles.
        probabilities: ``(N,)`` P(road) of each.
        threshold: P(road) from which a tile is called road.
        count: How many tiles in all, at least 4; the four groups share it evenly.

    Returns:
        Four groups, the most telling tile first: road tiles of the highest probability, missed road
        tiles of the lowest, non-road tiles called road of the highest, labelled tiles nearest to
        the threshold.
    """
    first, second, third, fourth = (count // 4 + (rank < count % 4) for rank in range(4))
    called = probabilities >= threshold
    road = _ranked(tiles, Label.ROAD, lambda index: -probabilities[index])
    non_road = _ranked(tiles, Label.NON_ROAD, lambda index: -probabilities[index])
    near = sorted(road + non_road, key=lambda index: (abs(probabilities[index] - threshold), index))
    return [
        TileGroup(
            "confident_true_positives",
            "confident true positives",
            tuple([i for i in road if called[i]][:first]),
        ),
        TileGroup(
            "confident_false_negatives",
            "confident false negatives",
            tuple([i for i in road[::-1] if not called[i]][:second]),
        ),
        TileGroup(
            "false_positives", "false positives", tuple([i for i in non_road if called[i]][:third])
        ),
        TileGroup("borderline", "near the threshold", tuple(near[:fourth])),
    ]


def spread_road_tiles(tiles: Sequence[LabelledTile], count: int) -> list[LabelledTile]:
    """At most ``count`` road tiles of a split, evenly spaced in its order."""
    road = _ranked(tiles, Label.ROAD, lambda index: 0.0)
    return [tiles[index] for index in _spread(road, count)]


def where_road_is_known(
    tiles: Sequence[LabelledTile], road_masks: npt.NDArray[np.bool_]
) -> tuple[list[LabelledTile], npt.NDArray[np.bool_]]:
    """The tiles whose road mask can score an explanation, and these road masks.

    Args:
        tiles: Labelled tiles.
        road_masks: ``(N, H, W)`` road pixels of each, context included.

    Returns:
        The tiles, in their order, that hold both road pixels and others, and their road masks. A
        tile whose image is labelled as road as a whole is left out: its road mask says nothing
        about where the road is.
    """
    known = np.logical_and(road_masks.any(axis=(1, 2)), ~road_masks.all(axis=(1, 2)))
    kept = [tile for tile, is_known in zip(tiles, known.tolist(), strict=True) if is_known]
    return kept, road_masks[known]


def _ranked(tiles: Sequence[LabelledTile], label: Label, key: Callable[[int], float]) -> list[int]:
    indices = [index for index, tile in enumerate(tiles) if tile.label == label]
    return sorted(indices, key=lambda index: (key(index), index))


def _spread(indices: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the indices, evenly spaced and in their order, the first included."""
    if len(indices) <= count:
        return list(indices)
    return [indices[rank * len(indices) // count] for rank in range(count)]
