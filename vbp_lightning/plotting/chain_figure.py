"""The computation of a VisualBackProp mask: the averaged map and the mask of each layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vbp_lightning.plotting.display import RGB, SALIENCY_GAMMA, overlay, saliency_to_rgb, unit_range
from vbp_lightning.plotting.picture_grid import GridRow, picture_grid

_COLUMNS = 5


@dataclass(frozen=True)
class ChainStep:
    """A layer in the backward pass of the VisualBackProp mask.

    Args:
        name: The layer, such as ``block3``.
        averaged: ``(h, w)`` its map averaged over the channels.
        mask: ``(h, w)`` the intermediate mask, after the product with that map.
    """

    name: str
    averaged: npt.NDArray[np.float32]
    mask: npt.NDArray[np.float32]


def chain_figure(
    tile: RGB,
    steps: Sequence[ChainStep],
    mask: npt.ArrayLike,
    title: str,
    notes: Sequence[str] = (),
) -> RGB:
    """Composes the chain of one tile, deepest layer first, the input last.

    Upper row: averaged maps, then the tile. Lower row: intermediate masks, then the final mask
    over the tile. Every map is shown from its own minimum to its own maximum, since raw values grow
    by orders of magnitude from layer to layer. After four layers the figure continues in further
    rows.

    Args:
        tile: ``(H, W, 3)`` uint8.
        steps: One for each layer, deepest first.
        mask: ``(H, W)``, in [0, 1].
        title: Headline.
        notes: Lines under it.

    Returns:
        ``(height, 1024, 3)`` uint8 for four layers or more; the texts are readable at the 350
        pixels that TensorBoard shows.
    """
    uppers = [*(_min_max_to_rgb(step.averaged) for step in steps), tile]
    lowers = [*(_min_max_to_rgb(step.mask) for step in steps), overlay(tile, mask)]
    shapes = [*(step.averaged.shape for step in steps), tile.shape]
    names = [*(step.name for step in steps), "input"]
    captions = [f"{name}\n{s[1]}×{s[0]}" for name, s in zip(names, shapes, strict=True)]
    rows = []
    for start in range(0, len(names), _COLUMNS):
        part = slice(start, start + _COLUMNS)
        rows.append(GridRow("maps averaged over their channels", uppers[part], captions[part]))
        rows.append(GridRow("mask so far: upsampled, times the map above", lowers[part]))
    lines = (f"each map from its own minimum to its maximum; colour: value^{SALIENCY_GAMMA:g}",)
    return picture_grid(rows, title, lines + tuple(notes), _COLUMNS, side=192, text_size=28)


def _min_max_to_rgb(values: npt.NDArray[np.float32]) -> RGB:
    return saliency_to_rgb(unit_range(values - values.min(), None))
