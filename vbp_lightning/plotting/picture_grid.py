"""Rows of captioned pictures under headings: what most sheets about the network are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vbp_lightning.plotting.canvas import GREY, Canvas, font
from vbp_lightning.plotting.display import RGB, to_rgb

_MARGIN = 16
_GAP = 8
_TITLE = 42
_HEADING = 28
_HEADING_TEXT = 16
_NOTE = 22
_TEXT = 13
_LINE = 17


@dataclass(frozen=True)
class GridRow:
    """Pictures that belong together.

    Args:
        heading: Over them.
        pictures: ``(h, w, 3)`` uint8 each, of any size; drawn as large as the side allows.
        captions: One a picture, lines divided by a line feed; or none at all.
        notes: Grey lines under the heading.
        side: Pixels of a picture's longer side; None for the sheet's.
    """

    heading: str
    pictures: Sequence[RGB]
    captions: Sequence[str] = ()
    notes: Sequence[str] = ()
    side: int | None = None


def picture_grid(
    rows: Sequence[GridRow],
    title: str,
    notes: Sequence[str] = (),
    columns: int = 8,
    side: int = 128,
) -> RGB:
    """Composes a sheet.

    Args:
        rows: From above; pictures beyond the columns go on below.
        title: Headline.
        notes: Lines under it.
        columns: Pictures side by side.
        side: Pixels of a picture's longer side.

    Returns:
        ``(height, width, 3)`` uint8.

    Raises:
        ValueError: A row has captions for some of its pictures only.
    """
    for row in rows:
        if row.captions and len(row.captions) != len(row.pictures):
            raise ValueError(f"{row.heading}: {len(row.captions)} captions do not match")
    extents = [_extent(row, columns, side) for row in rows]
    texts = [(title, 20, True), *((note, _TEXT + 1, False) for note in notes)]
    texts += [(row.heading, _HEADING_TEXT, True) for row in rows]
    texts += [(note, _TEXT, False) for row in rows for note in row.notes]
    longest = max(font(size, bold).getlength(text) for text, size, bold in texts)
    width = 2 * _MARGIN + max([side, *extents, min(1600, round(longest) + 2)])
    top = _TITLE + len(notes) * _NOTE + _GAP
    page = Canvas(width, top + sum(_height(row, columns, side) for row in rows) + _GAP)
    page.text(_MARGIN, 10, title, 20, bold=True)
    for number, note in enumerate(notes):
        page.text(_MARGIN, _TITLE + number * _NOTE, note, _TEXT + 1)
    y = top
    for row in rows:
        _draw(page, y, row, columns, side)
        y += _height(row, columns, side)
    return page.pixels()


def _extent(row: GridRow, columns: int, side: int) -> int:
    return min(columns, len(row.pictures)) * ((row.side or side) + _GAP) - _GAP


def _step(row: GridRow, side: int) -> int:
    side = row.side or side
    lines = max([0, *(caption.count("\n") + 1 for caption in row.captions)])
    tallest = max([0, *(_fitted(picture, side)[1] for picture in row.pictures)])
    return tallest + _GAP + lines * _LINE


def _height(row: GridRow, columns: int, side: int) -> int:
    lines = -(-len(row.pictures) // columns)
    return _HEADING + len(row.notes) * _LINE + lines * _step(row, side) + _GAP


def _draw(page: Canvas, y: int, row: GridRow, columns: int, side: int) -> None:
    side = row.side or side
    page.text(_MARGIN, y, row.heading, _HEADING_TEXT, bold=True)
    y += _HEADING - 4
    for note in row.notes:
        page.text(_MARGIN, y, note, _TEXT, colour=GREY)
        y += _LINE
    y += 4
    step = _step(row, side)
    for place, picture in enumerate(row.pictures):
        down, across = divmod(place, columns)
        x, above = _MARGIN + across * (side + _GAP), y + down * step
        size = _fitted(picture, side)
        page.picture(x, above, picture, size)
        lines = row.captions[place].split("\n") if row.captions else []
        for number, line in enumerate(lines):
            at = above + size[1] + 1 + number * _LINE
            page.text(x, at, line, _TEXT, colour=GREY if number else (0, 0, 0), room=side)


def _fitted(picture: RGB, side: int) -> tuple[int, int]:
    """Width and height of a picture whose longer side is drawn ``side`` pixels long."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def below_each_other(pictures: Sequence[RGB]) -> RGB:
    """Pictures stacked on white, each at the left edge.

    Args:
        pictures: ``(h, w, 3)`` uint8, at least one.
    """
    width = max(picture.shape[1] for picture in pictures)
    padded = [
        np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)
        for picture in pictures
    ]
    stacked: RGB = np.concatenate(padded).astype(np.uint8)
    return stacked


def patches_to_rgb(
    patches: Sequence[npt.NDArray[np.float32]], tiles: npt.NDArray[np.float32]
) -> list[RGB]:
    """Patches in the colours of the tiles that they come from; padding is a grey chequer.

    Args:
        patches: ``(C, h, w)`` each, NaN where there is padding.
        tiles: ``(N, C, H, W)``: their percentiles are black and full brightness.

    Returns:
        ``(h, w, 3)`` uint8 each.
    """
    if not patches:
        return []
    # of unlike sizes: their pixels side by side are stretched at once
    flat = np.concatenate([patch.reshape(len(patch), -1) for patch in patches], axis=1)
    colours = to_rgb(flat[None, :, None, :], reference=tiles)[0, 0]
    ends = np.cumsum([patch[0].size for patch in patches])
    shown = []
    for patch, pixels in zip(patches, np.split(colours, ends[:-1]), strict=True):
        height, width = patch.shape[1:]
        rgb = pixels.reshape(height, width, 3)
        rows, columns = np.indices((height, width))
        chequer = np.where((rows + columns) % 2 == 0, 150, 190).astype(np.uint8)
        padding = np.asarray(np.isnan(patch).all(axis=0))
        shown.append(np.where(padding[..., None], chequer[..., None], rgb))
    return shown
