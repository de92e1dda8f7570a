"""The mask panel: each tile, its VisualBackProp mask, the mask laid over the tile, and P(road)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vbp_lightning.plotting.canvas import GREY, Canvas, font
from vbp_lightning.plotting.display import RGB, SALIENCY_GAMMA, overlay, saliency_to_rgb

# TensorBoard's Images tab shows an image 350 pixels wide, its Time Series tab at most 215 high and,
# depending on the window, about 350 wide, both by nearest neighbour. Two rows of two tiles stay
# readable there. Such a page has 700 × 430 pixels and is therefore shown at one half: other factors
# produce moiré with the regular grid that strided transposed convolutions leave in a mask.
# Pictures begin on even pixels: reducing by two keeps the pixels reached by most convolution taps.
TILES_PER_PAGE = 4
_COLUMNS = 2
_PICTURE = 96
_PICTURE_GAP = 12
_MARGIN = 14
_FRAME = 4
_GAP = 4
_TITLE = 36
_TITLE_TEXT = 26
_LINE = 28
_TEXT = 23
_FOOTER_LINE = 27
_FOOTER_TEXT = 21


@dataclass(frozen=True)
class TileCaption:
    """The text above a tile of a panel.

    Args:
        heading: The label of the tile (see :func:`truth_heading`), or its position.
        probability: Estimated probability of a class, in [0, 1].
        wrong: Whether the decision differs from the label.
        outcome: The class that the probability belongs to.
    """

    heading: str
    probability: float
    wrong: bool
    outcome: str = "road"

    @property
    def estimate(self) -> str:
        """The probability with its class, such as ``P(road) 0.421``."""
        # "1.000" and "0.000" would state a certainty that a sigmoid never reaches
        shown = f"{self.probability:.3f}"
        shown = {"1.000": ">0.999", "0.000": "<0.001"}.get(shown, shown)
        return f"P({self.outcome}) {shown}"


def mask_panel(
    tiles: RGB,
    masks: npt.ArrayLike | Mapping[str, npt.ArrayLike],
    captions: Sequence[TileCaption],
    title: str,
    decision: str = "",
    notes: Sequence[str] = (),
) -> RGB:
    """Composes a panel: two tiles a row, each as tile, mask and mask laid over the tile.

    Above each tile are its true label, road share and P(road); a wrong one has the word WRONG and
    a vermilion frame. The foot states how the mask is scaled for display. Readable at TensorBoard's
    default size with up to ``TILES_PER_PAGE`` tiles.

    Args:
        tiles: ``(N, H, W, 3)`` uint8; if N is 0, the panel reads ``no such tile``.
        masks: ``(N, H, W)`` VisualBackProp masks, in [0, 1]; several by the name that is written
            above each, below one another beside the tile.
        captions: One for each tile.
        title: Headline, about 30 characters.
        decision: The decision rule, such as ``road if P ≥ 0.421``; beside the title.
        notes: Lines under the panel, about 60 characters each.

    Returns:
        ``(height, width, 3)`` uint8; 700 pixels wide for tiles of 96.

    Raises:
        ValueError: The numbers of tiles, masks and captions differ, or their sizes.
    """
    planes = {
        name: np.asarray(each, dtype=np.float32)
        for name, each in (masks if isinstance(masks, Mapping) else {"": masks}).items()
    }
    for each in planes.values():
        if tiles.shape[:3] != each.shape or len(tiles) != len(captions):
            raise ValueError(
                f"tiles {tiles.shape}, masks {each.shape} and {len(captions)} captions do not match"
            )
    height, width = tiles.shape[1:3]
    zoom = max(1, round(_PICTURE / max(width, 1)))
    picture = (width * zoom, height * zoom)
    unit = float(picture[0]) / _PICTURE

    def px(length: float) -> int:
        return round(length * unit)

    entry_width = 3 * picture[0] + 2 * px(_PICTURE_GAP) + 2 * px(_MARGIN + _FRAME)
    label = px(_LINE) if len(planes) > 1 else 0
    entry_height = 2 * px(_LINE) + px(2) + 2 * px(_FRAME)
    entry_height += len(planes) * (label + picture[1] + px(4))
    rows = max(1, -(-len(tiles) // _COLUMNS))
    page_width = _COLUMNS * entry_width + (_COLUMNS - 1) * px(_GAP)
    foot = px(_TITLE) + rows * (entry_height + px(_GAP))
    page = Canvas(page_width, foot + (1 + len(notes)) * px(_FOOTER_LINE))

    edge = px(_FRAME + _MARGIN)
    page.text(page_width - edge, px(5), decision, px(_TEXT), from_right=True)
    room = page_width - 3 * edge - round(font(px(_TEXT)).getlength(decision))
    page.text(edge, px(3), title, px(_TITLE_TEXT), bold=True, room=room)
    shown = {name: (saliency_to_rgb(each), overlay(tiles, each)) for name, each in planes.items()}
    for index, caption in enumerate(captions):
        row, column = divmod(index, _COLUMNS)
        left = column * (entry_width + px(_GAP))
        top = px(_TITLE) + row * (entry_height + px(_GAP))
        x, y = left + edge, top + px(_FRAME)
        if caption.wrong:
            page.frame(left, top, entry_width, entry_height, px(_FRAME))
            page.badge(left + entry_width - px(_FRAME), y + px(_LINE), "✗ WRONG", px(_TEXT - 1))
        page.text(x, y, caption.heading, px(_TEXT), room=entry_width - edge - px(_FRAME))
        page.text(x, y + px(_LINE), caption.estimate, px(_TEXT))
        y += 2 * px(_LINE) + px(2)
        step = picture[0] + px(_PICTURE_GAP)
        page.picture(x, y + label, tiles[index], picture)
        for name, pair in shown.items():
            if label:
                page.text(x + step, y, name, px(_FOOTER_TEXT), room=2 * step)
            for place, pixels in enumerate(pair, 1):
                page.picture(x + place * step, y + label, pixels[index], picture)
            y += label + picture[1] + px(4)
    if not len(tiles):
        page.text(edge, px(_TITLE + _LINE), "no such tile", px(_TEXT), colour=GREY)
    _scale_line(page, foot, edge, px(_FOOTER_TEXT))
    for index, note in enumerate(notes):
        page.text(edge, foot + (index + 1) * px(_FOOTER_LINE), note, px(_FOOTER_TEXT))
    return page.pixels()


def _scale_line(page: Canvas, y: int, margin: int, size: int) -> None:
    """Writes the legend: the order of the pictures, the mask's scale and its colour bar."""
    text = f"tile | mask | mask on tile.  Colour: mask^{SALIENCY_GAMMA:g}"
    page.text(margin, y, text, size)
    bar = np.tile(np.linspace(0, 1, 4 * size, dtype=np.float32), (size, 1))
    right = page.width - margin - size
    page.text(right - bar.shape[1] - size // 4, y, "0", size, from_right=True)
    page.picture(right - bar.shape[1], y + size // 8, saliency_to_rgb(bar))
    page.text(right + size // 4, y, "1", size)


def truth_heading(label: str, share: float) -> str:
    """Returns the heading of a tile whose road pixels are known.

    Args:
        label: Such as ``road``.
        share: Road share, in [0, 1].
    """
    return f"true: {label} ({_share(share)} road)"


def _share(share: float) -> str:
    # neither a single road pixel nor a small least share of road tiles may be shown as 0 %
    percent = 100 * share
    if 0 < percent < 0.01:
        return "<0.01 %"
    return f"{percent:.0f} %" if percent >= 9.995 or percent == 0 else f"{percent:.2f} %"
