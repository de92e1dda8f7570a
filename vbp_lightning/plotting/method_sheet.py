"""Tiles by attribution methods: one figure to compare what each says."""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Literal

import matplotlib
import numpy as np
import numpy.typing as npt

from vbp_lightning.plotting.canvas import GREY, Canvas
from vbp_lightning.plotting.display import COLOUR_MAP, MASK_GAMMA, RGB, mask_to_rgb, overlay
from vbp_lightning.plotting.mask_panel import TileCaption

Scale = Literal["each", "shared"]

SIGNED_MAP = "PuOr_r"
"""Diverging about white: orange speaks for the class, purple against it."""

_PICTURE = 128
_GAP = 10
_MARGIN = 16
_TITLE = 28
_TITLE_TEXT = 16
_TITLE_LETTER = 9.8
_LINE = 17
_LETTERS = 16
_CAPTION = 40
_TEXT = 14


def method_sheet(
    tiles: RGB,
    maps: Mapping[str, npt.NDArray[np.float32]],
    captions: Sequence[TileCaption],
    title: str,
    scale: Scale = "each",
    rows: slice = slice(None),
) -> RGB:
    """Composes a row for each tile: the tile, and its map by each method.

    A single method is also laid over the tile. Maps without negative values are shown as masks are,
    signed ones in two colours about zero.

    Args:
        tiles: ``(N, H, W, 3)`` uint8.
        maps: ``(N, H, W)`` by method, any range.
        captions: One a tile.
        title: Headline.
        scale: ``each`` map from its own least to its own largest value (a signed one: to its
            largest absolute value), or ``shared`` by all maps of a method.
        rows: The tiles that are drawn; a shared scale is that of all tiles.

    Returns:
        ``(height, width, 3)`` uint8.

    Raises:
        ValueError: Numbers or sizes do not match.
    """
    for name, values in maps.items():
        if values.shape != tiles.shape[:3] or len(captions) != len(tiles):
            raise ValueError(f"{name}: maps {values.shape} do not match tiles {tiles.shape}")
    shown = {name: coloured(values, scale) for name, values in maps.items()}
    columns = ["tile", *(name.replace("_", " ") for name in maps)]
    pictures = [tiles, *(picture for picture, _ in shown.values())]
    if len(maps) == 1:
        name, values = next(iter(maps.items()))
        if values.min(initial=0) >= 0:
            columns.append("on tile")
            pictures.append(overlay(tiles, scaled(values, scale)))
    step = _PICTURE + _GAP
    width = max(560, 2 * _MARGIN + len(columns) * step - _GAP)
    notes = _notes(shown, scale)
    headlines = wrap(title, int((width - 2 * _MARGIN) / _TITLE_LETTER))
    headings = [wrap(name, _LETTERS) for name in columns]
    deep = max(len(lines) for lines in headings)
    head = len(headlines) * _TITLE + deep * _LINE + _GAP
    drawn = range(len(tiles))[rows]
    height = head + len(drawn) * (step + _CAPTION) + 24 * len(notes) + _GAP
    page = Canvas(width, height)
    for number, line in enumerate(headlines):
        page.text(_MARGIN, 6 + number * (_TITLE - 4), line, _TITLE_TEXT, bold=True)
    for column, lines in enumerate(headings):
        y = head - len(lines) * _LINE - 4
        for number, line in enumerate(lines):
            x = _MARGIN + column * step
            page.text(x, y + number * _LINE, line, _TEXT, bold=True, room=_PICTURE)
    y = head
    for row in drawn:
        caption = captions[row]
        for column, column_pictures in enumerate(pictures):
            x = _MARGIN + column * step
            page.picture(x, y, column_pictures[row], (_PICTURE, _PICTURE))
        page.text(_MARGIN, y + _PICTURE + 2, caption.heading, _TEXT)
        verdict = f"P({caption.outcome}) {caption.probability:.3f}" + (", WRONG" * caption.wrong)
        page.text(_MARGIN, y + _PICTURE + 20, verdict, _TEXT, colour=GREY)
        y += step + _CAPTION
    for note in notes:
        page.text(_MARGIN, y, note, _TEXT)
        y += 24
    return page.pixels()


def scaled(values: npt.NDArray[np.float32], scale: Scale) -> npt.NDArray[np.float32]:
    """Maps brought to [0, 1], or to [-1, 1] where any value is negative.

    Args:
        values: ``(N, H, W)``.
        scale: See :func:`method_sheet`.

    Returns:
        float32 of the same shape; constant maps give 0.
    """
    if scale not in ("each", "shared"):
        raise ValueError(f"scale is {scale!r}; choose each or shared")
    axes = (1, 2) if scale == "each" else None
    maps = np.asarray(values, np.float64)
    if maps.size == 0:
        return maps.astype(np.float32)
    low = np.zeros(1)
    spread = np.abs(maps).max(axis=axes, keepdims=True)
    if maps.min() >= 0:
        low = maps.min(axis=axes, keepdims=True)
        spread = spread - low
    unit = np.divide(maps - low, spread, where=spread > 0, out=np.zeros_like(maps))
    result: npt.NDArray[np.float32] = unit.astype(np.float32)
    return result


def coloured(values: npt.NDArray[np.float32], scale: Scale) -> tuple[RGB, bool]:
    """Maps in colour ``(N, H, W, 3)``, and whether they are signed."""
    unit = scaled(values, scale)
    if unit.size and unit.min() < 0:
        curved = np.sign(unit) * np.abs(unit) ** MASK_GAMMA
        colours = matplotlib.colormaps[SIGNED_MAP]((curved + 1) / 2)[..., :3]
        return np.rint(255 * colours).astype(np.uint8), True
    return mask_to_rgb(unit), False


def _notes(shown: Mapping[str, tuple[RGB, bool]], scale: Scale) -> list[str]:
    """What the colours mean."""
    whose = "each map by itself" if scale == "each" else "all maps of a method alike"
    signed = [name.replace("_", " ") for name, (_, is_signed) in shown.items() if is_signed]
    notes = [f"Scaled {whose}, least to largest; colour: value^{MASK_GAMMA:g} in {COLOUR_MAP}."]
    if signed:
        notes.append(f"Signed, the same curve: {', '.join(signed)}; orange for, purple against.")
    return notes
