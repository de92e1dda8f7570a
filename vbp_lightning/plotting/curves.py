"""Figures of the training report: precision and recall, calibration, confusion matrix.

Figures are made without pyplot, so none is registered anywhere, no backend is chosen, and each goes
with its last reference.
"""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.metrics import average_precision_score, precision_recall_curve

from vbp_lightning.plotting.display import RGB

Floats = npt.NDArray[np.float64]

_BLUE = "#0072B2"  # Okabe and Ito 2008
_ORANGE = "#D55E00"
_GREY = "#888888"


@dataclass(frozen=True)
class Reliability:
    """Estimated against observed frequency of road, in bins of equal width.

    Args:
        count: ``(bins,)`` tiles.
        estimated: ``(bins,)`` mean P(road) of the bin; NaN where it is empty.
        observed: ``(bins,)`` share of road tiles; NaN where it is empty.
        error: Expected calibration error, Σ count/N · |observed − estimated|, in [0, 1]
            (Naeini et al. 2015).
    """

    count: npt.NDArray[np.int64]
    estimated: Floats
    observed: Floats
    error: float


def reliability(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 10) -> Reliability:
    """Bins probabilities and compares each bin's mean with the share of road tiles in it.

    Args:
        labels: ``(N,)`` 1 road, 0 non-road; N at least 1.
        probabilities: ``(N,)`` P(road) in [0, 1].
        bins: Number of bins of equal width; 1.0 belongs to the last.
    """
    truth = np.asarray(labels, dtype=np.float64)
    scores = np.asarray(probabilities, dtype=np.float64)
    which = np.minimum((scores * bins).astype(np.int64), bins - 1)
    count = np.bincount(which, minlength=bins)
    # an empty bin has no mean
    divisor = np.where(count > 0, count, np.nan)
    estimated = np.bincount(which, scores, minlength=bins) / divisor
    observed = np.bincount(which, truth, minlength=bins) / divisor
    error = float(np.nansum(count * np.abs(observed - estimated)) / len(scores))
    return Reliability(count, estimated, observed, error)


def precision_recall_figure(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float, title: str
) -> Figure:
    """Precision over recall, with average precision, the level of chance and the threshold's point.

    Args:
        labels: ``(N,)`` 1 road, 0 non-road; at least one road.
        probabilities: ``(N,)`` P(road).
        threshold: P(road) from which a tile is called road.
        title: Which tiles these are.
    """
    truth = np.asarray(labels) == 1
    called = np.asarray(probabilities) >= threshold
    precision, recall, _ = precision_recall_curve(truth, probabilities)
    figure = _figure()
    axes = figure.add_subplot()
    _decorate(axes, title)
    axes.step(
        recall,
        precision,
        where="post",
        color=_BLUE,
        label=f"average precision {average_precision_score(truth, probabilities):.3f}",
    )
    chance = float(truth.mean())
    axes.axhline(chance, color=_GREY, linestyle="--", label=f"chance {chance:.2f}")
    if called.any():
        axes.plot(
            (called & truth).sum() / truth.sum(),
            (called & truth).sum() / called.sum(),
            "o",
            color=_ORANGE,
            label=f"P(road) ≥ {threshold:.3f}",
        )
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(loc="lower left")
    return figure


def calibration_figure(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, title: str, bins: int = 10
) -> Figure:
    """Reliability curve with its calibration error, above the number of tiles in each bin.

    Args:
        labels: ``(N,)`` 1 road, 0 non-road; N at least 1.
        probabilities: ``(N,)`` P(road) in [0, 1].
        title: Which tiles these are.
        bins: Number of bins of equal width.
    """
    curve = reliability(labels, probabilities, bins)
    figure = _figure()
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _decorate(axes, title)
    centres = (np.arange(bins) + 0.5) / bins
    counts.bar(centres, curve.count, 0.9 / bins, color="#BBBBBB")
    for centre, count in zip(centres, curve.count, strict=True):
        counts.annotate(str(count), (centre, count), ha="center", va="bottom", fontsize=9)
    counts.set(ylim=(0, 1.6 * max(1, int(curve.count.max()))), yticks=[])
    counts.set(xlabel="estimated P(road)", ylabel="tiles")
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", label="perfect")
    filled = curve.count > 0
    axes.plot(
        curve.estimated[filled],
        curve.observed[filled],
        "o-",
        color=_BLUE,
        label=f"expected calibration error {curve.error:.3f}",
    )
    axes.set(ylabel="share of road tiles", xlim=(0, 1), ylim=(-0.03, 1.03))
    axes.legend(loc="best")
    return figure


def confusion_figure(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float, title: str
) -> Figure:
    """Confusion matrix at a threshold: tiles, and their share of the true class as shade.

    Args:
        labels: ``(N,)`` 1 road, 0 non-road.
        probabilities: ``(N,)`` P(road).
        threshold: P(road) from which a tile is called road.
        title: Which tiles these are.
    """
    truth = (np.asarray(labels) == 1).astype(np.int64)
    called = (np.asarray(probabilities) >= threshold).astype(np.int64)
    counts = np.bincount(2 * truth + called, minlength=4).reshape(2, 2)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = _figure()
    axes = figure.add_subplot()
    axes.set_title(f"{title}, road if P ≥ {threshold:.3f}", fontsize=12)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for true in range(2):
        for said in range(2):
            axes.text(
                said,
                true,
                f"{counts[true, said]}\n{shares[true, said]:.1%}",
                ha="center",
                va="center",
                fontsize=14,
                color="white" if shares[true, said] > 0.5 else "black",
            )
    names = ["non-road", "road"]
    axes.set(xticks=[0, 1], yticks=[0, 1], xticklabels=names, yticklabels=names)
    axes.set(xlabel="called", ylabel="true")
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1.0, decimals=0))
    bar.set_label("of the true class")
    return figure


def figure_to_array(figure: Figure) -> RGB:
    """Renders a figure.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    buffer = io.BytesIO()
    canvas = FigureCanvasAgg(figure)
    figure.savefig(buffer, format="raw", dpi=figure.dpi)
    width, height = canvas.get_width_height()  # sizes that are no whole pixels are cut
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)[..., :3].copy()


def _figure() -> Figure:
    # at this size and density text stays readable in the 350 pixels that TensorBoard grants
    return Figure(figsize=(5, 3.2), dpi=120, layout="constrained")


def _decorate(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=12)
    axes.grid(alpha=0.3)
