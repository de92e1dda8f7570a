"""Figures of the benchmark: scores with their intervals, and the cascading randomisation."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

_BLUE = "#0072B2"  # Okabe and Ito 2008
_ORANGE = "#D55E00"
_GREY = "#888888"
_INK = "#222222"

Interval = tuple[float, float, float]


def score_figure(scores: Mapping[str, Mapping[str, Interval]], chance: str, title: str) -> Figure:
    """A panel a score: a point for each method with its interval, the best of the first on top.

    Args:
        scores: (mean, low, high) by the score's title and the method's name, the same methods in
            each.
        chance: The method that stands for chance; a line in every panel.
        title: What was scored.
    """
    first = next(iter(scores.values()))
    names = sorted(first, key=lambda name: first[name][0])
    height = 1.3 + 0.27 * len(names)
    figure = Figure(figsize=(3.2 + 3.1 * len(scores), height), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for axes, (score, by_method) in zip(panels, scores.items(), strict=True):
        means = [by_method[name][0] for name in names]
        best = int(np.argmax(means))
        for place, name in enumerate(names):
            mean, low, high = by_method[name]
            colour = _ORANGE if place == best else _BLUE
            if np.isfinite([low, high]).all():
                axes.plot([low, high], [place, place], color=colour, linewidth=2)
            axes.plot(mean, place, "o", color=colour, markersize=5)
            axes.annotate(
                f"{mean:.3f}",
                (1, place),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                fontweight="bold" if place == best else "normal",
                color=_INK,
            )
        axes.axvline(by_method[chance][0], color=_GREY, linestyle="--", linewidth=1)
        axes.set_title(score, fontsize=11)
        axes.grid(axis="x", alpha=0.3)
        axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), names, fontsize=9)
    panels[0].set_ylim(-0.7, len(names) - 0.3)
    figure.suptitle(f"{title}; 95 % by bootstrap over scenes; dashed: chance", fontsize=11)
    return figure


def cascade_figure(curves: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """A table in colour: rank correlation with the trained network's map, layer by layer.

    Args:
        curves: By method and layer, the layers in the order in which they were randomised, the
            same for each method.
        title: What was looked at.
    """
    names = list(curves)
    layers = list(next(iter(curves.values())))
    values = np.array([[curves[name][layer] for layer in layers] for name in names])
    size = (3.8 + 0.95 * len(layers), 1.6 + 0.27 * len(names))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        axes.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if abs(value) > 0.6 else "black",
        )
    axes.set_xticks(range(len(layers)), layers, rotation=30, ha="right", fontsize=9)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_xlabel("randomised down to")
    axes.set_title(f"Rank correlation with the trained map\n{title}", fontsize=11)
    figure.colorbar(image, ax=axes, shrink=0.8)
    return figure
