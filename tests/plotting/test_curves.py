import gc
import sys
import weakref

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score

from vbp_lightning.plotting.curves import (
    calibration_figure,
    confusion_figure,
    figure_to_array,
    literal,
    precision_recall_figure,
)

LABELS = np.array([0, 0, 0, 1, 1, 0, 1, 1])
PROBABILITIES = np.array([0.05, 0.15, 0.35, 0.35, 0.65, 0.75, 0.85, 1.0])


def figures():
    return [
        precision_recall_figure(LABELS, PROBABILITIES, 0.5, "validation"),
        calibration_figure(LABELS, PROBABILITIES, "validation"),
        confusion_figure(LABELS, PROBABILITIES, 0.5, "validation"),
    ]


def calibration(labels, probabilities, bins=10):
    """Points of the curve, its calibration error and the tiles of each bin, as the figure shows."""
    above, below = calibration_figure(labels, probabilities, "validation", bins).axes
    error = above.get_legend().get_texts()[1].get_text()
    assert error.startswith("expected calibration error ")
    points = above.get_lines()[1].get_xydata()
    return points, float(error.split()[-1]), [int(text.get_text()) for text in below.texts]


def test_calibration_by_hand():
    points, error, counts = calibration(LABELS, PROBABILITIES, bins=5)
    assert counts == [2, 2, 0, 2, 2]
    np.testing.assert_allclose(points, [(0.1, 0), (0.35, 0.5), (0.7, 0.5), (0.925, 1)])
    assert error == round((2 * 0.1 + 2 * 0.15 + 2 * 0.2 + 2 * 0.075) / 8, 3)


def test_a_calibrated_forecast_has_no_error():
    labels = np.array([0, 0, 0, 1] * 5 + [1, 1, 1, 0] * 5)
    probabilities = np.repeat([0.25, 0.75], 20)
    assert calibration(labels, probabilities)[1] == 0


THOUSANDTHS = st.integers(0, 1000).map(lambda thousandth: thousandth / 1000)


@given(st.lists(st.tuples(st.integers(0, 1), THOUSANDTHS), min_size=1, max_size=50))
@settings(max_examples=30)
def test_every_tile_is_in_one_bin_and_the_error_is_the_mean_distance(pairs):
    labels, probabilities = (np.array(side) for side in zip(*pairs, strict=True))
    points, error, counts = calibration(labels, probabilities)
    bins = [max(0, int(np.ceil(p * 10)) - 1) for p in probabilities]
    assert counts == [bins.count(number) for number in range(10)]
    distances = [
        abs(
            np.mean([label for label, own in zip(labels, bins, strict=True) if own == number])
            - np.mean([p for p, own in zip(probabilities, bins, strict=True) if own == number])
        )
        for number in sorted(set(bins))
    ]
    weights = [bins.count(number) for number in sorted(set(bins))]
    assert error == pytest.approx(np.average(distances, weights=weights), abs=5.1e-4)
    np.testing.assert_allclose(np.abs(points[:, 0] - points[:, 1]), distances, atol=1e-12)


def test_the_curve_states_average_precision_and_chance():
    figure = precision_recall_figure(LABELS, PROBABILITIES, 0.5, "validation")
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    expected = average_precision_score(LABELS, PROBABILITIES)
    assert texts == [f"average precision {expected:.3f}", "chance 0.50", "P(road) ≥ 0.500"]
    # 3 of 4 called tiles are road, and 3 of 4 road tiles are called
    point = figure.axes[0].get_lines()[-1]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (0.75, 0.75)


def test_a_threshold_that_calls_no_tile_has_no_point():
    figure = precision_recall_figure(LABELS, PROBABILITIES, 1.1, "validation")
    assert len(figure.axes[0].get_legend().get_texts()) == 2


def test_calibration_shows_the_number_of_tiles_in_each_bin():
    figure = calibration_figure(LABELS, PROBABILITIES, "validation", bins=5)
    assert [text.get_text() for text in figure.axes[1].texts] == ["2", "2", "0", "2", "2"]


def test_the_confusion_matrix_has_truth_in_rows():
    labels = [1, 1, 1, 0, 0, 0, 0, 0]
    probabilities = [0.9, 0.5, 0.4, 0.1, 0.2, 0.3, 0.4, 0.8]
    figure = confusion_figure(labels, probabilities, 0.5, "validation")
    numbers = [text.get_text().split("\n")[0] for text in figure.axes[0].texts]
    assert numbers == ["4", "1", "1", "2"]
    assert "0.50" in figure.axes[0].get_title()


def test_a_class_that_is_missing_does_not_break_the_matrix():
    figure = confusion_figure([1, 1], [0.2, 0.9], 0.5, "validation")
    assert [text.get_text().split("\n")[0] for text in figure.axes[0].texts] == ["0", "0", "1", "1"]


def test_figures_become_arrays_of_one_size():
    for figure in figures():
        pixels = figure_to_array(figure)
        assert pixels.shape == (384, 600, 3)
        assert pixels.dtype == np.uint8
        assert pixels.min() < 50
        assert pixels.max() == 255


def test_figures_are_freed_with_their_last_reference_and_select_no_backend():
    backend = matplotlib.get_backend(auto_select=False)
    made = figures()
    for figure in made:
        figure_to_array(figure)
    references = [weakref.ref(figure) for figure in made]
    del made, figure
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    assert matplotlib.get_backend(auto_select=False) == backend
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("$x^2$", "$x^2$"),
        (r"$\frac$ and $", r"$\frac$ and $"),
        (r"a\$b", r"a\$b"),
        ("_hidden", " _hidden"),
        ("a\x1b[1m\nb", r"a\x1b[1m" + "\nb"),
    ],
)
def test_text_from_files_is_drawn_as_it_is(text, drawn):
    figure = Figure()
    (line,) = figure.subplots().plot([0, 1], label=literal(text))
    (legend,) = figure.axes[0].legend([line], [literal(text)]).get_texts()
    shown, is_formula = legend._preprocess_math(legend.get_text())
    assert not is_formula
    assert shown == drawn
    figure_to_array(figure)
