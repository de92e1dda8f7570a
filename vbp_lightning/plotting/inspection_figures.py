"""Curves and scatters about the network: scores on the way of an image, features, gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from vbp_lightning.plotting.display import RGB

Floats = npt.NDArray[np.float64]

LABEL_COLOURS = {"road": "#0072B2", "non-road": "#E69F00", "ignored": "#888888", "tile": "#0072B2"}
"""Okabe and Ito 2008: distinct under each colour blindness."""

_LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
_LEVELS = ("#D55E00", "#000000")


@dataclass(frozen=True)
class Curves:
    """Lines over the same steps.

    Args:
        quantity: What they show, with its unit; the name of the axis.
        lines: ``(steps + 1,)`` each, by name; they may differ in length.
        levels: Horizontal lines by what they stand for.
    """

    quantity: str
    lines: Mapping[str, Floats]
    levels: Mapping[str, float]


def step_curves(panels: Sequence[Curves], title: str) -> Figure:
    """Curves over the steps of an ascent, one panel below the other.

    Args:
        panels: At least one.
        title: Headline.
    """
    figure = Figure(figsize=(10, 1 + 2.4 * len(panels)), dpi=100, layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    grid[0].set_title(title, fontsize=12)
    for axes, panel in zip(grid, panels, strict=True):
        for (name, values), colour in zip(panel.lines.items(), cycle(_LINES), strict=False):
            axes.plot(values, color=colour, label=name)
        for (name, level), colour in zip(panel.levels.items(), cycle(_LEVELS), strict=False):
            axes.axhline(level, color=colour, linestyle="--", label=f"{name}: {level:.4g}")
        axes.grid(alpha=0.3)
        if len(panel.lines) + len(panel.levels) > 1:
            axes.legend(loc="best")
        axes.set_ylabel(panel.quantity)
    grid[-1].set_xlabel("step")
    return figure


def scatter_figure(
    panels: Mapping[str, tuple[npt.NDArray[np.floating], tuple[str, str]]],
    labels: Sequence[str],
    title: str,
) -> Figure:
    """Points of tiles by label, a panel for each projection.

    Args:
        panels: By title, ``(N, 2)`` points and the names of the axes.
        labels: ``(N,)`` names of labels.
        title: Headline.
    """
    figure = Figure(figsize=(6 * len(panels), 5.6), dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=13)
    names = np.asarray(labels)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (heading, (points, axis_names)) in zip(grid, panels.items(), strict=True):
        for name in sorted(set(labels), reverse=True):
            own = points[names == name]
            colour = LABEL_COLOURS.get(name, "#CC79A7")
            axes.scatter(*own.T, s=9, alpha=0.6, c=colour, label=f"{name} ({len(own)})", lw=0)
        axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
        axes.set_title(heading, fontsize=11)
        axes.grid(alpha=0.3)
        axes.legend(loc="best", markerscale=2)
    return figure


def thumbnail_map(
    tiles: RGB, cells: npt.NDArray[np.int64], labels: Sequence[str], side: int = 48
) -> RGB:
    """Thumbnails in the cells of a grid, each framed in the colour of its label.

    Args:
        tiles: ``(N, H, W, 3)`` uint8.
        cells: ``(N, 2)`` row and column, none twice.
        labels: ``(N,)`` names.
        side: Pixels of a cell.

    Returns:
        ``(rows · side, columns · side, 3)`` uint8; empty cells are white.
    """
    rows, columns = cells.max(axis=0) + 1
    page = np.full((rows * side, columns * side, 3), 255, np.uint8)
    height, width = tiles.shape[1:3]
    inner = side - 5
    down = (np.arange(inner) * height) // inner
    across = (np.arange(inner) * width) // inner
    for tile, (row, column), label in zip(tiles, cells, labels, strict=True):
        top, left = row * side, column * side
        hex_colour = LABEL_COLOURS.get(label, "#CC79A7")
        colour = np.array(matplotlib.colors.to_rgb(hex_colour)) * 255
        page[top : top + side - 1, left : left + side - 1] = np.rint(colour)
        page[top + 2 : top + 2 + inner, left + 2 : left + 2 + inner] = tile[down][:, across]
    return page


@dataclass(frozen=True)
class GradientBar:
    """One layer in a figure of gradients.

    Args:
        quantiles: ``(5,)`` 5, 25, 50, 75 and 95 % of the absolute values other than zero.
        norm: Mean Euclidean norm of an image's gradient.
        zero_share: Share of values that are exactly zero.
        dead_channels: How many of the channels have no gradient at all, such as ``3/64``.
        verdict: ``dead``, ``exploding``, ``vanishing`` or empty.
    """

    quantiles: Floats
    norm: float
    zero_share: float
    dead_channels: str
    verdict: str


def gradient_figure(layers: Mapping[str, GradientBar], title: str, rule: str) -> Figure:
    """Size and distribution of the gradient by depth, with dead and exploding layers named.

    Args:
        layers: From the input to the output.
        title: Headline.
        rule: By which layers are named; under the figure.
    """
    bars = list(layers.values())
    places = np.arange(len(bars))
    figure = Figure(figsize=(max(9.0, 0.48 * len(bars) + 3), 8), dpi=100, layout="constrained")
    sizes, zeros = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    sizes.set_title(title, fontsize=12)
    alive = [bar for bar in bars if np.isfinite(bar.quantiles).all()]
    sizes.bxp(
        [
            dict(zip(("whislo", "q1", "med", "q3", "whishi"), bar.quantiles, strict=True))
            for bar in alive
        ],
        positions=[place for place, bar in enumerate(bars) if np.isfinite(bar.quantiles).all()],
        showfliers=False,
        widths=0.6,
    )
    norms = np.array([bar.norm if bar.norm > 0 else np.nan for bar in bars])
    sizes.plot(places, norms, "o-", color="#0072B2", label="norm of an image's gradient, mean")
    sizes.plot([], [], color="black", label="|gradient| ≠ 0: 5, 25, 50, 75, 95 %")
    sizes.set(yscale="log", ylabel="score per unit of activation")
    for place, bar in enumerate(bars):
        if bar.verdict:
            height = bar.norm if np.isfinite(bar.norm) and bar.norm > 0 else 0.02
            sizes.annotate(
                bar.verdict.upper(),
                (place, height if bar.norm > 0 else 0.02),
                xycoords="data" if bar.norm > 0 else ("data", "axes fraction"),
                xytext=(0, 8),
                textcoords="offset points",
                rotation=90,
                color="#D55E00",
                weight="bold",
                ha="center",
            )
    sizes.grid(alpha=0.3)
    sizes.legend(loc="best")
    zeros.bar(places, [bar.zero_share for bar in bars], 0.7, color="#BBBBBB")
    for place, bar in enumerate(bars):
        zeros.annotate(bar.dead_channels, (place, 0.04), ha="center", rotation=90, fontsize=8)
    zeros.set(ylim=(0, 1), ylabel="share of zeros")
    zeros.set_xlabel(
        f"layers from the input on; in the bars: channels without any gradient\n{rule}"
    )
    zeros.set_xticks(places, list(layers), rotation=90)
    return figure
