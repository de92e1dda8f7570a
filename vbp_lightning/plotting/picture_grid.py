"""Rows of captioned pictures under headings, the layout of most sheets about the network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vbp_lightning.plotting.canvas import BLACK, GREY, Canvas, Colour, wrapped
from vbp_lightning.plotting.display import RGB

_MARGIN = 16
_GAP = 8
_LEAST = 560
"""Pixels, the least width of the text."""


@dataclass(frozen=True)
class GridRow:
    """Pictures that belong together.

    Args:
        heading: The text above them.
        pictures: ``(h, w, 3)`` uint8 each, of any size; enlarged or reduced to the side. A row
            without pictures shows ``none``.
        captions: One for each picture, the first line black and further lines grey; or none at all.
        side: Pixels of a picture's longer side; by default that of the sheet.
    """

    heading: str
    pictures: Sequence[RGB] | RGB
    captions: Sequence[str] = ()
    side: int | None = None


def picture_grid(
    rows: Sequence[GridRow],
    title: str,
    notes: Sequence[str] = (),
    columns: int = 8,
    side: int = 128,
    text_size: int = 13,
) -> RGB:
    """Composes a sheet of pictures. Long texts are wrapped at the width of the pictures.

    Args:
        rows: From top to bottom.
        title: Headline.
        notes: Lines under it.
        columns: Number of pictures side by side; further ones of a row are placed below.
        side: Pixels of a picture's longer side.
        text_size: Height of the captions' em in pixels; headings are a little larger.

    Returns:
        ``(height, width, 3)`` uint8.

    Raises:
        ValueError: A row does not have as many captions as pictures.
    """
    extents = [_LEAST]
    for row in rows:
        if len(row.captions) not in (0, len(row.pictures)):
            raise ValueError(f"{row.heading}: {len(row.captions)} captions do not match")
        extents.append(min(columns, len(row.pictures)) * ((row.side or side) + _GAP) - _GAP)
    width = 2 * _MARGIN + max(extents)
    strips = [_text(width, title, text_size + 7, bold=True)]
    strips += [_text(width, note, text_size) for note in notes]
    for row in rows:
        strips.append(_text(width, row.heading, text_size + 3, bold=True))
        if not len(row.pictures):
            strips.append(_text(width, "none", text_size, colour=GREY))
        captions = row.captions or [""] * len(row.pictures)
        for start in range(0, len(row.pictures), columns):
            part = slice(start, start + columns)
            strips.append(
                _pictures(width, row.pictures[part], captions[part], row.side or side, text_size)
            )
    return np.concatenate(strips)


def _text(width: int, text: str, size: int, bold: bool = False, colour: Colour = BLACK) -> RGB:
    """Draws a paragraph across the sheet; a bold one has some room above it."""
    lines = wrapped(text, size, bold, width - 2 * _MARGIN)
    top, step = _GAP if bold else 0, round(1.35 * size)
    page = Canvas(width, top + len(lines) * step + _GAP // 2)
    for number, line in enumerate(lines):
        page.text(_MARGIN, top + number * step, line, size, bold=bold, colour=colour)
    return page.pixels()


def _pictures(
    width: int, pictures: Sequence[RGB] | RGB, captions: Sequence[str], side: int, size: int
) -> RGB:
    """Draws pictures side by side across the sheet, each with its caption below it."""
    step = round(1.3 * size)
    entries = [
        (picture, _fitted(picture, side), _caption_lines(caption, side, size))
        for picture, caption in zip(pictures, captions, strict=True)
    ]
    page = Canvas(width, max(down + len(lines) * step for _, (_, down), lines in entries) + _GAP)
    for place, (picture, (across, down), lines) in enumerate(entries):
        x = _MARGIN + place * (side + _GAP)
        page.picture(x, 0, picture, (across, down))
        for number, (line, colour) in enumerate(lines):
            page.text(x, down + 1 + number * step, line, size, colour=colour, room=side)
    return page.pixels()


def _caption_lines(caption: str, room: int, size: int) -> list[tuple[str, Colour]]:
    parts = caption.split("\n") if caption else []
    return [
        (line, GREY if number else BLACK)
        for number, part in enumerate(parts)
        for line in wrapped(part, size, False, room)
    ]


def _fitted(picture: RGB, side: int) -> tuple[int, int]:
    """Returns width and height of a picture whose longer side is drawn ``side`` pixels long."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def below_each_other(pictures: Sequence[RGB]) -> RGB:
    """Stacks pictures on white, each at the left edge.

    Args:
        pictures: ``(h, w, 3)`` uint8, at least one.

    Returns:
        ``(height, width, 3)`` uint8.
    """
    width = max(picture.shape[1] for picture in pictures)
    padded = [
        np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)
        for picture in pictures
    ]
    return np.concatenate(padded)
