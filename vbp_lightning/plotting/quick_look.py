"""The quick-look of a scene: the image, and both of its maps laid over it."""

import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from vbp_lightning.plotting.curves import figure_to_array, literal
from vbp_lightning.plotting.display import COLOUR_MAP, RGB, SALIENCY_GAMMA, overlay

_PANEL = 5.0
"""Inches, the longer side of a panel."""

_DPI = 150
PROBABILITY = "viridis"
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
    """Draws three panels side by side: image, P(road) and VisualBackProp mask.

    Args:
        image: ``(h, w, 3)`` uint8, the scene at any size.
        shape: Height and width of the scene in pixels: the axes' units.
        probability: ``(rows, cols)`` P(road), NaN where it is unknown.
        extent: Left, right, bottom and top edge of ``probability`` in pixels of the scene.
        mask: ``(h, w)`` VisualBackProp mask in [0, 1], NaN where it is unknown.
        threshold: P(road) whose contour is drawn.
        title: Headline.
        note: Line below the panels, about the maps.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    height, width = shape
    across, down = _PANEL * min(1, width / height), _PANEL * min(1, height / width)
    figure = Figure(figsize=(3 * across + 2.2, down + 1.1), dpi=_DPI, layout="constrained")
    panels = figure.subplots(1, 3)
    whole = (0, width, height, 0)
    panels[0].imshow(image, extent=whole)
    panels[1].imshow(overlay(image, np.zeros(image.shape[:2])), extent=whole)
    panels[1].imshow(
        probability, extent=extent, cmap=PROBABILITY, vmin=0, vmax=1, alpha=0.55,
        interpolation="nearest",
    )  # fmt: skip
    seen = probability[np.isfinite(probability)]
    if min(probability.shape) > 1 and (seen < threshold).any() and (seen >= threshold).any():
        panels[1].contour(
            np.ma.masked_invalid(probability), [threshold], colors=_LINE, linewidths=0.8,
            extent=extent, origin="upper",
        )  # fmt: skip
    panels[2].imshow(overlay(image, mask), extent=whole)
    names = ("image", f"P(road), line at {threshold:.2f}", "VisualBackProp mask")
    for axes, name in zip(panels, names, strict=True):
        axes.set_title(name, fontsize=10)
        axes.tick_params(labelsize=7)
        axes.set(xlim=(0, width), ylim=(height, 0))
    panels[0].set_ylabel("pixels", fontsize=8, labelpad=1)
    # the brightness of a mask value is its power by the display's gamma
    for axes, colours, values, gamma in (
        (panels[1], PROBABILITY, (0, 0.2, 0.4, 0.6, 0.8, 1), 1),
        (panels[2], COLOUR_MAP, (0, 0.05, 0.2, 0.5, 1), SALIENCY_GAMMA),
    ):
        bar_axes = axes.inset_axes((1.02, 0, 0.03, 1))
        bar = figure.colorbar(ScalarMappable(Normalize(0, 1), colours), cax=bar_axes)
        bar.set_ticks([v**gamma for v in values], labels=[f"{v:g}" for v in values])
        bar_axes.tick_params(labelsize=7)
    figure.suptitle(literal(title), fontsize=11)
    figure.supxlabel(note, fontsize=8, color="#444444")
    return figure_to_array(figure)
