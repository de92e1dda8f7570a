"""The quick-look of a scene: the image, and both of its maps laid over it."""

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from vbp_lightning.plotting.curves import figure_to_array
from vbp_lightning.plotting.display import COLOUR_MAP, LUMA, MASK_GAMMA, RGB, overlay

_PANEL = 5.0
"""Inches, the longer side of a panel; so are the measures below."""

_GAP = 0.5
_BAR = 0.35
_HEAD = 0.65
_FOOT = 0.5

_DPI = 150
_PROBABILITY = "viridis"
_LINE = "#FF2FD0"


def quick_look(
    image: RGB,
    shape: tuple[int, int],
    probability: npt.NDArray[np.float32],
    extent: tuple[float, float, float, float],
    mask: npt.NDArray[np.float32],
    threshold: float,
    title: str,
    note: str,
) -> RGB:
    """Three panels side by side: image, P(road) and mask.

    Args:
        image: ``(h, w, 3)`` uint8, the scene at any size.
        shape: Height and width of the scene in pixels: the axes' units.
        probability: ``(rows, cols)`` P(road), NaN where there is none.
        extent: Left, right, bottom and top edge of ``probability`` in pixels of the scene.
        mask: ``(h, w)`` in [0, 1], NaN where there is none.
        threshold: P(road) whose contour is drawn.
        title: Over all.
        note: Below, on what the maps are.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    height, width = shape
    across, down = _PANEL * min(1, width / height), _PANEL * min(1, height / width)
    page = (3 * across + 4 * _GAP + 2 * _BAR, down + _HEAD + _FOOT)
    figure = Figure(figsize=page, dpi=_DPI)

    def place(left: float, wide: float) -> Axes:
        box = (left / page[0], _FOOT / page[1], wide / page[0], down / page[1])
        return figure.add_axes(box)

    whole = (0, width, height, 0)
    grey = np.rint(0.8 * (image.astype(np.float32) @ LUMA)).astype(np.uint8)
    lefts = (_GAP, 2 * _GAP + across, 3 * _GAP + _BAR + 2 * across)
    names = ("image", f"P(road), line at {threshold:.2f}", "VisualBackProp")
    panels = [place(left, across) for left in lefts]
    panels[0].imshow(image, extent=whole)
    panels[1].imshow(grey, extent=whole, cmap="gray", vmin=0, vmax=255)
    panels[1].imshow(
        probability, extent=extent, cmap=_PROBABILITY, vmin=0, vmax=1, alpha=0.55,
        interpolation="nearest",
    )  # fmt: skip
    _contour(panels[1], probability, extent, threshold)
    panels[2].imshow(overlay(image, mask), extent=whole)
    for axes, name in zip(panels, names, strict=True):
        axes.set_title(name, fontsize=10)
        axes.tick_params(labelsize=7)
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
    panels[0].set_ylabel("pixels", fontsize=8, labelpad=1)
    for number, colours in ((1, _PROBABILITY), (2, COLOUR_MAP)):
        bar = figure.colorbar(
            ScalarMappable(Normalize(0, 1), colours),
            cax=place(lefts[number] + across + 0.08, 0.12),
        )
        bar.ax.tick_params(labelsize=7)
    # The mask's brightness is its value to the power of the display's gamma.
    values = (0, 0.05, 0.2, 0.5, 1)
    bar.set_ticks([value**MASK_GAMMA for value in values], labels=[f"{v:g}" for v in values])
    middle = 0.5 * page[0]
    figure.text(middle / page[0], 1 - 0.12 / page[1], title, fontsize=11, ha="center", va="top")
    figure.text(
        middle / page[0], 0.1 / page[1], note, fontsize=8, ha="center", va="bottom", color="#444444"
    )
    return figure_to_array(figure)


def _contour(
    axes: Axes,
    probability: npt.NDArray[np.float32],
    extent: tuple[float, float, float, float],
    threshold: float,
) -> None:
    seen = np.isfinite(probability)
    above = probability[seen] >= threshold
    if min(probability.shape) < 2 or not above.any() or above.all():
        return
    left, right, bottom, top = extent
    rows, cols = probability.shape
    x = left + (np.arange(cols) + 0.5) * (right - left) / cols
    y = top + (np.arange(rows) + 0.5) * (bottom - top) / rows
    axes.contour(x, y, np.ma.masked_invalid(probability), [threshold], colors=_LINE, linewidths=0.8)
