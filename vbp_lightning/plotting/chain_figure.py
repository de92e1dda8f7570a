"""How one mask comes about: the averaged map of each layer and the mask on its way back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vbp_lightning.plotting.canvas import GREY, Canvas
from vbp_lightning.plotting.display import MASK_GAMMA, RGB, mask_to_rgb, overlay

_PICTURE = 192
_CELL = 200
_COLUMNS = 5
_TITLE = 50
_LINE = 36
_TEXT = 30


@dataclass(frozen=True)
class ChainStep:
    """A layer on the way back.

    Args:
        name: The layer, such as ``block3``.
        averaged: ``(h, w)`` its map averaged over the channels.
        mask: ``(h, w)`` the mask so far, after the product with that map.
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

    Upper row: averaged maps, then the tile. Lower row: the mask so far, then the finished mask over
    the tile. Every map is shown from its own minimum to its own maximum, since raw values grow by
    orders of magnitude from layer to layer. More than four layers are continued below.

    Args:
        tile: ``(H, W, 3)`` uint8.
        steps: One a layer, deepest first.
        mask: ``(H, W)``, in [0, 1].
        title: Headline.
        notes: Lines under the figure.

    Returns:
        ``(height, 1000, 3)`` uint8.
    """
    height, width = tile.shape[:2]
    uppers = [mask_to_rgb(_normalized(step.averaged)) for step in steps] + [tile]
    lowers = [mask_to_rgb(_normalized(step.mask)) for step in steps]
    lowers.append(overlay(tile, mask))
    sizes = [step.averaged.shape for step in steps] + [(height, width)]
    names = [step.name for step in steps] + ["input"]
    bands = -(-len(names) // _COLUMNS)
    band_height = 4 * _LINE + 2 * _CELL
    foot = _TITLE + bands * band_height
    lines = (f"each map from its own minimum to its maximum; colour: value^{MASK_GAMMA:g}", *notes)
    page = Canvas(_COLUMNS * _CELL, foot + len(lines) * _LINE)
    page.text(4, 4, title, 36, bold=True)
    for band in range(bands):
        top = _TITLE + band * band_height
        page.text(4, top, "maps averaged over their channels", _TEXT, colour=GREY)
        page.text(
            4,
            top + 3 * _LINE + _CELL,
            "mask so far: enlarged, times the map above",
            _TEXT,
            colour=GREY,
        )
    for index, (name, (rows, columns)) in enumerate(zip(names, sizes, strict=True)):
        band, column = divmod(index, _COLUMNS)
        x, top = column * _CELL + 4, _TITLE + band * band_height
        picture = (_PICTURE, round(_PICTURE * rows / columns))
        page.text(x, top + _LINE, name, _TEXT, bold=True, room=_PICTURE)
        page.text(x, top + 2 * _LINE, f"{columns}×{rows}", _TEXT)
        page.picture(x, top + 3 * _LINE, uppers[index], picture)
        page.picture(x, top + 4 * _LINE + _CELL, lowers[index], picture)
    for index, line in enumerate(lines):
        page.text(4, foot + index * _LINE, line, 28)
    return page.pixels()


def _normalized(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros_like(values)
    return (values - low) / (high - low)
