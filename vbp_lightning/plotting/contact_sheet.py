"""The contact sheet: random tiles of each label with the road pixels outlined."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from vbp_lightning.plotting.canvas import GREY, Canvas
from vbp_lightning.plotting.display import RGB

OUTLINE = (255, 0, 220)
"""Magenta: no roof, field or water has it."""

_PICTURE = 144
_GAP = 8
_MARGIN = 14
_HEADING = 20
_TEXT = 13
_LINE = 17


@dataclass(frozen=True)
class ContactRow:
    """Tiles of one label.

    Args:
        heading: Over the row.
        tiles: ``(N, H, W, 3)`` uint8; N may be 0, which is written out.
        masks: ``(N, H, W)`` bool, the road pixels.
        captions: One a tile, some 20 characters.
    """

    heading: str
    tiles: RGB
    masks: npt.NDArray[np.bool_]
    captions: Sequence[str]


def contact_sheet(rows: Sequence[ContactRow], title: str, columns: int = 8) -> RGB:
    """Composes the sheet by which people see whether labels fit the imagery.

    Road pixels are outlined, not filled, so that what is under them stays visible.

    Args:
        rows: At least one.
        title: Headline.
        columns: Tiles side by side; more of a label go on below.

    Returns:
        ``(height, width, 3)`` uint8.
    """
    step = _PICTURE + _GAP
    width = 2 * _MARGIN + columns * step - _GAP
    lines = [max(1, -(-len(row.tiles) // columns)) for row in rows]
    row_height = step + _LINE
    height = 48 + sum(_HEADING + 12 + count * row_height + _GAP for count in lines)
    page = Canvas(width, height)
    page.text(_MARGIN, 10, title, _HEADING, bold=True)
    y = 46
    for row, count in zip(rows, lines, strict=True):
        page.text(_MARGIN, y, row.heading, _HEADING - 4, bold=True)
        y += _HEADING + 6
        if not len(row.tiles):
            page.text(_MARGIN, y, "no such tile", _TEXT, colour=GREY)
        entries = zip(row.tiles, row.masks, row.captions, strict=True)
        for place, (tile, mask, caption) in enumerate(entries):
            down, across = divmod(place, columns)
            x, top = _MARGIN + across * step, y + down * row_height
            page.picture(x, top, outlined(tile, mask), (_PICTURE, _PICTURE))
            page.text(x, top + _PICTURE + 1, caption, _TEXT, room=_PICTURE)
        y += count * row_height + _GAP + 6
    return page.pixels()


def outlined(tile: RGB, mask: npt.NDArray[np.bool_]) -> RGB:
    """A tile enlarged to about ``_PICTURE`` with the border of its road pixels drawn.

    Args:
        tile: ``(H, W, 3)`` uint8.
        mask: ``(H, W)`` bool.
    """
    zoom = max(1, round(2 * _PICTURE / max(tile.shape[0], 1)))
    large = tile.repeat(zoom, axis=0).repeat(zoom, axis=1)
    inside = mask.repeat(zoom, axis=0).repeat(zoom, axis=1)
    rim = inside & ~ndimage.binary_erosion(inside, iterations=3, border_value=1)
    large[rim] = OUTLINE
    return large
