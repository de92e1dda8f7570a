"""The evaluation tiles sorted by their score (AggAtt, Rao et al. 2023, arXiv 2303.11884)."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import nn

from vbp_lightning.evaluation.localisation import positive_part
from vbp_lightning.explaining.benchmark_table import Row
from vbp_lightning.explaining.compared_methods import ComparedMethod, EvaluationTiles, maps_of
from vbp_lightning.explaining.tile_sources import evenly_spread
from vbp_lightning.plotting.display import RGB, outlined, overlay, scaled, to_rgb
from vbp_lightning.plotting.picture_grid import GridRow, picture_grid

SHOWN = 9
"""Tiles of each method."""

_SCORE = "average_precision"


def sorted_tiles_sheet(
    rows: Mapping[ComparedMethod, Row], model: nn.Module, tiles: EvaluationTiles, target: int | None
) -> RGB:
    """Draws, for each method, every n-th of all tiles from the best score to the worst.

    No example is picked: the places in the order are the same for every method.

    Args:
        rows: The scored methods; average precision sorts the tiles, its mean the methods.
        model: The network.
        tiles: All evaluation tiles.
        target: The explained class.

    Returns:
        ``(height, width, 3)`` uint8.
    """
    count = len(tiles.tiles)
    places = evenly_spread(count, SHOWN)
    colours = to_rgb(tiles.tiles.cpu().numpy())
    grid = []
    ranked = sorted(rows.items(), key=lambda item: -float(item[1].tiles[_SCORE].mean()))
    for compared, row in ranked:
        scores = row.tiles[_SCORE]
        chosen = np.argsort(-scores, kind="stable")[places]
        maps = positive_part(maps_of(compared.build(model), tiles.tiles[chosen], target))
        pictures = outlined(overlay(colours[chosen], scaled(maps, "each")), tiles.truth[chosen])
        captions = [
            f"{scores[tile]:.2f}, {place + 1} of {count}"
            for tile, place in zip(chosen, places, strict=True)
        ]
        heading = f"{row.name}: {scores.mean():.3f} (middle half {_middle_half(scores)})"
        grid.append(GridRow(heading, pictures, captions))
    notes = [
        "Each row is the order of all tiles by the method's own average precision, the best on the"
        " left; evenly spaced ones are shown, their road outlined. Methods by their mean.",
    ]
    title = f"{count} road tiles, sorted by average precision"
    return picture_grid(grid, title, notes, columns=SHOWN, side=112, text_size=12)


def _middle_half(scores: npt.NDArray[np.float64]) -> str:
    low, high = np.quantile(scores, [0.25, 0.75])
    return f"{low:.2f} to {high:.2f}"
