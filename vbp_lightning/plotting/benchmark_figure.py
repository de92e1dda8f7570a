"""Figures of the benchmark: scores with their intervals, and the cascading randomisation."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from vbp_lightning.plotting.curves import literal

_BLUE = "#0072B2"  # Okabe and Ito 2008
_ORANGE = "#D55E00"
_GREY = "#888888"

Interval = tuple[float, float, float]


def score_figure(scores: Mapping[str, Mapping[str, Interval]], chance: str, title: str) -> Figure:
    """Draws a panel for each score, with a point and an interval for each method.

    Args:
        scores: (mean, low, high) by the score's title and the method's name, the same methods in
            each; sorted by the first score. Intervals that are NaN are left out.
        chance: The method whose scores are those of chance; a dashed line in every panel.
        title: The tiles that were scored.
    """
    first = next(iter(scores.values()))
    names = sorted(first, key=lambda name: first[name][0])
    places = np.arange(len(names))
    size = (3.2 + 3.1 * len(scores), 1.3 + 0.27 * len(names))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for axes, (score, by_method) in zip(panels, scores.items(), strict=True):
        means, lows, highs = np.array([by_method[name] for name in names]).T
        colours = np.where(places == np.argmax(means), _ORANGE, _BLUE)
        axes.hlines(places, lows, highs, colors=colours, linewidth=2)
        axes.scatter(means, places, c=colours, s=25, zorder=2)
        for place, mean in enumerate(means):
            weight = "bold" if mean == means.max() else "normal"
            where = axes.get_yaxis_transform()
            axes.text(
                1.02, place, f"{mean:.3f}", transform=where, va="center", size=8, weight=weight
            )
        axes.axvline(by_method[chance][0], color=_GREY, linestyle="--", linewidth=1)
        axes.set_title(score, fontsize=11)
        axes.grid(axis="x", alpha=0.3)
        axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(places, [*map(literal, names)], fontsize=9)
    panels[0].set_ylim(-0.7, len(names) - 0.3)
    figure.suptitle(f"{title}; 95 % intervals over scenes; dashed: chance", fontsize=11)
    return figure


def cascade_figure(curves: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Draws a coloured table: rank correlation with the trained network's map, layer by layer.

    Args:
        curves: By method and layer, the layers in the order in which they were randomised, the
            same for each method.
        title: The tiles that were explained.
    """
    names = list(curves)
    layers = list(next(iter(curves.values())))
    values = np.array([[curves[name][layer] for layer in layers] for name in names])
    size = (3.8 + 0.95 * len(layers), 1.6 + 0.27 * len(names))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.6 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", size=8, color=colour)
    axes.set_xticks(
        range(len(layers)), [*map(literal, layers)], rotation=30, ha="right", fontsize=9
    )
    axes.set_yticks(range(len(names)), [*map(literal, names)], fontsize=9)
    axes.set_xlabel("randomised down to")
    axes.set_title(f"Rank correlation with the trained map\n{title}", fontsize=11)
    figure.colorbar(image, ax=axes, shrink=0.8)
    return figure
