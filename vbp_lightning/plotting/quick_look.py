"""The quick-look of a scene: the image, and both of its maps laid over it."""

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vbp_lightning.plotting.display import COLOUR_MAP, LUMA, MASK_GAMMA, RGB, overlay

_PANEL = 6.0
"""Inches, the longer side of a panel."""

_DPI = 150
_LINE = "#00E5FF"


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
    figure = Figure(figsize=(3 * across + 1.9, down + 1.1), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    whole = (0, width, height, 0)
    grey = np.rint(0.8 * (image.astype(np.float32) @ LUMA)).astype(np.uint8)
    for axes, name in zip(
        panels, ("image", f"P(road), line at {threshold:.2f}", "VisualBackProp"), strict=True
    ):
        axes.set_title(name, fontsize=10)
        axes.tick_params(labelsize=7)
    panels[0].imshow(image, extent=whole)
    panels[0].set_ylabel("pixels", fontsize=8)
    panels[1].imshow(grey, extent=whole, cmap="gray", vmin=0, vmax=255)
    shown = panels[1].imshow(
        probability, extent=extent, cmap="viridis", vmin=0, vmax=1, alpha=0.6,
        interpolation="nearest",
    )  # fmt: skip
    _contour(panels[1], probability, extent, threshold)
    panels[2].imshow(overlay(image, mask), extent=whole)
    for axes in panels:
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
    _scale_bar(figure, panels[1], shown, "P(road)")
    coloured = panels[2].imshow(
        np.zeros((1, 1)), extent=whole, cmap=COLOUR_MAP, vmin=0, vmax=1, alpha=0
    )
    bar = _scale_bar(figure, panels[2], coloured, "mask")
    # As the panel shows it: brightness is the mask to the power of the display's gamma.
    values = (0, 0.05, 0.2, 0.5, 1)
    bar.set_ticks([value**MASK_GAMMA for value in values], labels=[f"{v:g}" for v in values])
    bar.solids.set_alpha(1)
    figure.suptitle(title, fontsize=11)
    figure.text(0.5, 0.01, note, fontsize=8, ha="center", va="bottom", color="#444444")
    figure.subplots_adjust(left=0.045, right=0.96, top=0.87, bottom=0.12, wspace=0.18)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


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


def _scale_bar(figure: Figure, axes: Axes, shown: Any, label: str) -> Any:  # noqa: ANN401
    bar = figure.colorbar(shown, ax=axes, fraction=0.04, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=8)
    return bar
