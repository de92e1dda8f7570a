"""Figures of the training report: precision and recall, calibration, confusion matrix.

Figures are made without pyplot, so that they are not registered, select no backend, and are freed
with their last reference.
"""

import io
import re
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    PrecisionRecallDisplay,
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
)

from vbp_lightning.errors import plain
from vbp_lightning.plotting.display import RGB

_BLUE = "#0072B2"  # Okabe and Ito 2008
_ORANGE = "#D55E00"
_GREY = "#888888"


def precision_recall_figure(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float, title: str
) -> Figure:
    """Precision over recall, with average precision, the level of chance and the threshold's point.

    Args:
        labels: ``(N,)`` 1 road, 0 non-road; at least one road.
        probabilities: ``(N,)`` P(road).
        threshold: P(road) from which a tile is classified as road.
        title: Names the tiles.
    """
    truth = np.asarray(labels) == 1
    called = np.asarray(probabilities) >= threshold
    chance = float(truth.mean())
    figure = _figure()
    axes = figure.add_subplot()
    precision, recall, _ = precision_recall_curve(truth, probabilities)
    PrecisionRecallDisplay(precision, recall, prevalence_pos_label=chance).plot(
        axes,
        plot_chance_level=True,
        chance_level_kw={"color": _GREY, "label": f"chance {chance:.2f}"},
    )
    curve = axes.get_lines()[0]
    curve.set(
        color=_BLUE,
        label=f"average precision {average_precision_score(truth, probabilities):.3f}",
    )
    if called.any():
        axes.plot(
            (called & truth).sum() / truth.sum(),
            (called & truth).sum() / called.sum(),
            "o",
            color=_ORANGE,
            label=f"P(road) ≥ {threshold:.3f}",
        )
    _decorate(axes, title, aspect="auto", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set(xlabel="recall", ylabel="precision")
    return figure


def calibration_figure(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, title: str, bins: int = 10
) -> Figure:
    """Reliability curve with its calibration error, above the number of tiles in each bin.

    The expected calibration error is the mean over all tiles of the distance between the estimated
    and the observed share of road in their bin, in [0, 1] (Naeini et al. 2015).

    Args:
        labels: ``(N,)`` 1 road, 0 non-road; N at least 1.
        probabilities: ``(N,)`` P(road) in [0, 1].
        title: Names the tiles.
        bins: Number of bins of equal width, each with its upper limit.
    """
    limits = np.linspace(0, 1, bins + 1)
    counts = np.bincount(np.searchsorted(limits[1:-1], probabilities), minlength=bins)
    figure = _figure()
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    curve = CalibrationDisplay.from_predictions(
        labels, probabilities, n_bins=bins, pos_label=1, ax=axes, color=_BLUE, marker="o"
    )
    error = np.average(np.abs(curve.prob_true - curve.prob_pred), weights=counts[counts > 0])
    reference, line = axes.get_lines()
    reference.set(color=_GREY, linestyle="--", label="perfect")
    line.set_label(f"expected calibration error {error:.3f}")
    bars = below.bar((limits[:-1] + limits[1:]) / 2, counts, 0.9 / bins, color="#BBBBBB")
    below.bar_label(bars, fontsize=9)
    below.set(ylim=(0, 1.6 * counts.max()), yticks=[], xlabel="estimated P(road)", ylabel="tiles")
    _decorate(axes, title, xlim=(0, 1), ylim=(-0.03, 1.03))
    axes.set(xlabel="", ylabel="share of road tiles")
    return figure


def confusion_figure(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float, title: str
) -> Figure:
    """Confusion matrix at a threshold: tiles, and their share of the true class as shade.

    Args:
        labels: ``(N,)`` 1 road, 0 non-road.
        probabilities: ``(N,)`` P(road).
        threshold: P(road) from which a tile is classified as road.
        title: Names the tiles.
    """
    called = (np.asarray(probabilities) >= threshold).astype(np.int64)
    counts = confusion_matrix(labels, called, labels=[0, 1])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = _figure()
    axes = figure.add_subplot()
    display = ConfusionMatrixDisplay(shares, display_labels=["non-road", "road"]).plot(
        ax=axes,
        cmap="Blues",
        values_format=".1%",
        im_kw={"vmin": 0, "vmax": 1},
        text_kw={"fontsize": 14},
    )
    for text, count in zip(display.text_.flat, counts.flat, strict=True):
        text.set_text(f"{count}\n{text.get_text()}")
    axes.set_title(f"{title}, road if P ≥ {threshold:.3f}", fontsize=12)
    axes.set(xlabel="predicted", ylabel="true")
    display.im_.colorbar.set_label("share of the true class")
    return figure


def literal(text: str) -> str:
    """A text that matplotlib draws as it is, without formulas, and shows in legends.

    Args:
        text: Also of several lines. A leading underscore, which hides a line from a legend, is
            preceded by a space.
    """
    lines = map(plain, text.split("\n"))
    return "\n".join(re.sub("^_", " _", line).replace("$", r"\$") for line in lines)


def figure_to_array(figure: Figure) -> RGB:
    """Renders a figure to ``(H, W, 3)`` uint8."""
    buffer = io.BytesIO()
    canvas = FigureCanvasAgg(figure)
    figure.savefig(buffer, format="raw", dpi=figure.dpi)
    width, height = canvas.get_width_height()  # the size in whole pixels
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)[..., :3].copy()


def _figure() -> Figure:
    # at this size and density text stays readable in the 350 pixels of TensorBoard's images
    return Figure(figsize=(5, 3.2), dpi=120, layout="constrained")


def _decorate(axes: Axes, title: str, **limits: Any) -> None:  # noqa: ANN401
    axes.set_title(title, fontsize=12)
    axes.grid(alpha=0.3)
    axes.set(**limits)
    axes.legend(loc="best")
