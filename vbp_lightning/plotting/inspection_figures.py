"""Figures about the network: scores over the steps of an ascent, projected features, gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from vbp_lightning.plotting.canvas import Canvas
from vbp_lightning.plotting.curves import literal
from vbp_lightning.plotting.display import RGB

Floats = npt.NDArray[np.float64]

LABEL_COLOURS = {"road": "#0072B2", "non-road": "#E69F00", "ignored": "#888888", "tile": "#0072B2"}
"""Okabe and Ito 2008: distinct under each colour blindness."""

_LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
_LEVELS = ("#D55E00", "#000000")
_OTHER = "#CC79A7"


@dataclass(frozen=True)
class Curves:
    """Lines over the same steps.

    Args:
        quantity: The name of the axis, with its unit.
        lines: ``(steps + 1,)`` each, by name; they may differ in length.
        levels: Heights of dashed horizontal lines, by name.
    """

    quantity: str
    lines: Mapping[str, Floats]
    levels: Mapping[str, float]


def step_curves(panels: Sequence[Curves], title: str) -> Figure:
    """Draws curves over the steps of an ascent, one panel below the other.

    Args:
        panels: At least one.
        title: Headline.
    """
    figure = Figure(figsize=(10, 1 + 2.4 * len(panels)), dpi=100, layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    grid[0].set_title(literal(title), fontsize=12)
    for axes, panel in zip(grid, panels, strict=True):
        for (name, values), colour in zip(panel.lines.items(), cycle(_LINES), strict=False):
            axes.plot(values, color=colour, label=literal(name))
        for (name, level), colour in zip(panel.levels.items(), cycle(_LEVELS), strict=False):
            axes.axhline(level, color=colour, linestyle="--", label=f"{name}: {level:.4g}")
        axes.grid(alpha=0.3)
        if len(panel.lines) + len(panel.levels) > 1:
            axes.legend(loc="best")
        axes.set_ylabel(literal(panel.quantity))
    grid[-1].set_xlabel("step")
    return figure


def scatter_figure(
    panels: Mapping[str, tuple[npt.NDArray[np.floating], tuple[str, str]]],
    labels: Sequence[str],
    title: str,
) -> Figure:
    """Draws the points of tiles by label, a panel for each projection.

    Args:
        panels: By title, ``(N, 2)`` points and the names of the axes.
        labels: ``(N,)`` names of labels.
        title: Headline.
    """
    figure = Figure(figsize=(6 * len(panels), 5.6), dpi=100, layout="constrained")
    figure.suptitle(literal(title), fontsize=13)
    names = np.asarray(labels)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (heading, (points, axis_names)) in zip(grid, panels.items(), strict=True):
        for name in sorted(set(labels), reverse=True):
            own = points[names == name]
            colour = LABEL_COLOURS.get(name, _OTHER)
            axes.scatter(
                *own.T, s=9, alpha=0.6, c=colour, label=literal(f"{name} ({len(own)})"), lw=0
            )
        axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
        axes.set_title(heading, fontsize=11)
        axes.grid(alpha=0.3)
        axes.legend(loc="best", markerscale=2)
    return figure


def thumbnail_map(
    tiles: RGB, cells: npt.NDArray[np.int64], labels: Sequence[str], side: int = 48
) -> RGB:
    """Draws thumbnails in the cells of a grid, each framed in the colour of its label.

    Args:
        tiles: ``(N, H, W, 3)`` uint8.
        cells: ``(N, 2)`` row and column, all different.
        labels: ``(N,)`` names.
        side: Pixels of a cell.

    Returns:
        ``(rows · side, columns · side, 3)`` uint8; empty cells are white.
    """
    rows, columns = (cells.max(axis=0) + 1).tolist()
    page = Canvas(columns * side, rows * side)
    for tile, (row, column), label in zip(tiles, cells.tolist(), labels, strict=True):
        x, y = column * side, row * side
        colour = 255 * np.array(to_rgb(LABEL_COLOURS.get(label, _OTHER)))
        page.picture(x, y, np.rint(colour[None, None]).astype(np.uint8), (side - 1, side - 1))
        page.picture(x + 2, y + 2, tile, (side - 5, side - 5))
    return page.pixels()


@dataclass(frozen=True)
class GradientBar:
    """One layer in a figure of gradients.

    Args:
        quantiles: ``(5,)`` 5, 25, 50, 75 and 95 % of the absolute values other than zero.
        norm: Mean Euclidean norm of an image's gradient.
        zero_share: Share of values that are exactly zero.
        dead_channels: Number of channels without gradient, of all channels, such as ``3/64``.
        diagnosis: ``dead``, ``exploding``, ``vanishing`` or empty.
    """

    quantiles: Floats
    norm: float
    zero_share: float
    dead_channels: str
    diagnosis: str


def gradient_figure(layers: Mapping[str, GradientBar], title: str, rule: str) -> Figure:
    """Draws size and distribution of the gradient by depth; layers with a diagnosis are marked.

    Args:
        layers: From the input to the output.
        title: Headline.
        rule: The rule of the diagnosis; under the figure.
    """
    bars = list(layers.values())
    places = np.arange(len(bars))
    figure = Figure(figsize=(max(9.0, 0.48 * len(bars) + 3), 8), dpi=100, layout="constrained")
    sizes, zeros = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    sizes.set_title(literal(title), fontsize=12)
    known = [place for place in places if np.isfinite(bars[place].quantiles).all()]
    names = ("whislo", "q1", "med", "q3", "whishi")
    boxes = [dict(zip(names, bars[place].quantiles, strict=True)) for place in known]
    sizes.bxp(boxes, positions=known, showfliers=False, widths=0.6)
    norms = np.array([bar.norm if bar.norm > 0 else np.nan for bar in bars])
    sizes.plot(places, norms, "o-", color="#0072B2", label="norm of an image's gradient, mean")
    sizes.plot([], [], color="black", label="|gradient| ≠ 0: 5, 25, 50, 75, 95 %")
    sizes.set(yscale="log", ylabel="score per unit of activation")
    sizes.grid(alpha=0.3)
    sizes.legend(loc="best")
    zeros.bar(places, [bar.zero_share for bar in bars], 0.7, color="#BBBBBB")
    for place, bar in enumerate(bars):
        zeros.annotate(bar.dead_channels, (place, 0.04), ha="center", rotation=90, fontsize=8)
    zeros.set(ylim=(0, 1), ylabel="share of zeros")
    zeros.set_xlabel(f"layers from the input on; in the bars: channels without gradient\n{rule}")
    zeros.set_xticks(
        places,
        [literal(f"{bar.diagnosis.upper()} {name}".lstrip()) for name, bar in layers.items()],
    )
    zeros.tick_params(axis="x", rotation=90)
    for label, bar in zip(zeros.get_xticklabels(), bars, strict=True):
        if bar.diagnosis:
            label.set(color=_LEVELS[0], weight="bold")
    return figure
