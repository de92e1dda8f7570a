"""The labelled tiles that a map contradicts most: where labels or network are wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vbp_lightning.data.tiles.tile import Label, LabelledTile
from vbp_lightning.scene_maps.output_grid import CellGrid


@dataclass(frozen=True)
class EvaluationTile:
    """A labelled tile and what a map says of it.

    Args:
        tile: With its label.
        probability: P(road) of the window that is the tile, or of the nearest one.
    """

    tile: LabelledTile
    probability: float

    @property
    def error(self) -> float:
        """How far the probability is from the label, in [0, 1]."""
        return abs(self.probability - float(self.tile.label == Label.ROAD))


def evaluation_tiles(
    tiles: Sequence[LabelledTile],
    maps: Mapping[str, tuple[CellGrid, NDArray[np.float32]]],
) -> list[EvaluationTile]:
    """The labelled tiles of some scenes with the maps' probabilities.

    Args:
        tiles: Ignored ones, those of other scenes, and those that have no probability are left out.
        maps: By scene, the cells and the probability of each.
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
            found.append(EvaluationTile(item, float(probability[row, col])))
    return found


def hardest(tiles: Sequence[EvaluationTile], label: Label, count: int) -> list[EvaluationTile]:
    """The tiles of a label that contradict it most, the worst first."""
    own = [item for item in tiles if item.tile.label == label]
    return sorted(own, key=lambda item: -item.error)[:count]
