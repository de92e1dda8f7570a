"""The labelled tiles with the largest errors on a map, where labels or the network are wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vbp_lightning.data.tiles.tile import Label, LabelledTile
from vbp_lightning.scene_maps.output_grid import CellGrid


@dataclass(frozen=True)
class ScoredTile:
    """A labelled tile with its probability on a map.

    Args:
        tile: The labelled tile.
        probability: P(road) of the window at the tile's position, or of the nearest window.
    """

    tile: LabelledTile
    probability: float

    @property
    def error(self) -> float:
        """Absolute difference of the probability and the label (1 for road), in [0, 1]."""
        return abs(self.probability - float(self.tile.label == Label.ROAD))


def scored_tiles(
    tiles: Sequence[LabelledTile],
    maps: Mapping[str, tuple[CellGrid, NDArray[np.float32]]],
) -> list[ScoredTile]:
    """The labelled tiles of the mapped scenes with their probabilities.

    Args:
        tiles: Labelled tiles. Tiles labelled ``IGNORED``, tiles of other scenes and tiles without a
            probability are left out.
        maps: For each scene by name, its cells and their probabilities (rows, cols).
    """
    found = []
    for item in tiles:
        if item.label == Label.IGNORED or item.tile.scene not in maps:
            continue
        grid, probability = maps[item.tile.scene]
        row, col = (
            min(max(0, grid.cell(origin + grid.step // 2)), size - 1)
            for origin, size in zip((item.tile.row, item.tile.col), probability.shape, strict=True)
        )
        if np.isfinite(probability[row, col]):
            found.append(ScoredTile(item, float(probability[row, col])))
    return found


def largest_errors(tiles: Sequence[ScoredTile], label: Label, count: int) -> list[ScoredTile]:
    """The tiles of a label with the largest errors, in descending order, at most ``count``."""
    own = [item for item in tiles if item.tile.label == label]
    return sorted(own, key=lambda item: -item.error)[:count]
