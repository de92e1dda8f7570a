"""The matplotlib figures of inspections, of the benchmark and of scenes."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from vbp_lightning.plotting import quick_look as quick_look_module
from vbp_lightning.plotting.benchmark_figure import cascade_figure, score_figure
from vbp_lightning.plotting.inspection_figures import (
    LABEL_COLOURS,
    Curves,
    GradientBar,
    gradient_figure,
    scatter_figure,
    step_curves,
    thumbnail_map,
)
from vbp_lightning.plotting.quick_look import quick_look


def test_curves_have_their_own_panels_and_levels():
    scores, penalties = np.array([0, 1.5, 2]), np.array([3.0, 4])
    figure = step_curves(
        [Curves("score", {"ascent": scores}, {"highest": 1.25}), Curves("λ", {"λ": penalties}, {})],
        "title",
    )
    upper, lower = figure.axes
    np.testing.assert_array_equal(upper.lines[0].get_ydata(), scores)
    assert [text.get_text() for text in upper.get_legend().get_texts()] == [
        "ascent",
        "highest: 1.25",
    ]
    np.testing.assert_array_equal(lower.lines[0].get_ydata(), penalties)
    assert lower.get_legend() is None
    assert (upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()) == ("score", "λ", "step")


def test_points_are_coloured_by_label():
    points = np.arange(6.0).reshape(3, 2)
    figure = scatter_figure({"PCA": (points, ("x", "y"))}, ["road", "ignored", "road"], "title")
    (axes,) = figure.axes
    by_label = {each.get_label(): each for each in axes.collections}
    assert by_label.keys() == {"road (2)", "ignored (1)"}
    np.testing.assert_array_equal(by_label["road (2)"].get_offsets(), points[[0, 2]])
    (colour,) = by_label["road (2)"].get_facecolors()
    assert to_hex(colour).upper() == LABEL_COLOURS["road"]


def test_thumbnails_are_framed_in_their_cells():
    tiles = np.random.default_rng(0).integers(0, 250, (2, 8, 8, 3), dtype=np.uint8)
    page = thumbnail_map(tiles, np.array([[0, 0], [1, 2]]), ["road", "non-road"], side=13)
    expected = np.full((26, 39, 3), 255, np.uint8)
    expected[:12, :12] = (0x00, 0x72, 0xB2)
    expected[2:10, 2:10] = tiles[0]
    expected[13:25, 26:38] = (0xE6, 0x9F, 0x00)
    expected[15:23, 28:36] = tiles[1]
    np.testing.assert_array_equal(page, expected)


def test_layers_with_a_diagnosis_are_marked_in_the_figure_of_gradients():
    unknown = np.full(5, np.nan)
    layers = {
        "first": GradientBar(np.array([1.0, 2, 3, 4, 5]), 7.0, 0.25, "0/8", ""),
        "second": GradientBar(unknown, 0.0, 1.0, "8/8", "dead"),
    }
    sizes, zeros = gradient_figure(layers, "title", "the rule").axes
    labels = zeros.get_xticklabels()
    assert [label.get_text() for label in labels] == ["first", "DEAD second"]
    assert [label.get_weight() for label in labels] == ["normal", "bold"]
    assert [bar.get_height() for bar in zeros.patches] == [0.25, 1]
    assert [text.get_text() for text in zeros.texts] == ["0/8", "8/8"]
    (norms,) = (line for line in sizes.lines if line.get_label().startswith("norm"))
    np.testing.assert_array_equal(norms.get_ydata(), [7, np.nan])
    assert "the rule" in zeros.get_xlabel()


def test_scores_are_sorted_by_the_first_and_the_best_is_bold():
    scores = {
        "precision": {"a": (0.5, 0.4, 0.6), "chance": (0.1, np.nan, np.nan), "b": (0.75, 0.7, 0.8)},
        "mass": {"a": (0.9, 0.8, 1.0), "chance": (0.2, 0.1, 0.3), "b": (0.25, 0.2, 0.3)},
    }
    figure = score_figure(scores, "chance", "4 tiles")
    precision, mass = figure.axes
    assert [label.get_text() for label in precision.get_yticklabels()] == ["chance", "a", "b"]
    for axes, values, best in (
        (precision, ["0.100", "0.500", "0.750"], "0.750"),
        (mass, ["0.200", "0.900", "0.250"], "0.900"),
    ):
        assert [text.get_text() for text in axes.texts] == values
        assert [t.get_text() for t in axes.texts if t.get_weight() == "bold"] == [best]
    intervals, points = mass.collections
    ends = [segment[:, 0].tolist() for segment in intervals.get_segments()]
    assert ends == [[0.1, 0.3], [0.8, 1.0], [0.2, 0.3]]
    np.testing.assert_array_equal(points.get_offsets(), [[0.2, 0], [0.9, 1], [0.25, 2]])
    assert [line.get_xdata()[0] for line in (*precision.lines, *mass.lines)] == [0.1, 0.2]


def test_correlations_are_written_into_their_cells():
    curves = {"a": {"head": 0.125, "block": -0.75}, "b": {"head": 1.0, "block": 0.5}}
    axes = cascade_figure(curves, "4 tiles").axes[0]
    texts = {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts}
    assert texts == {
        (0, 0): ("0.12", "black"),
        (1, 0): ("-0.75", "white"),
        (0, 1): ("1.00", "white"),
        (1, 1): ("0.50", "black"),
    }


@pytest.mark.parametrize(("threshold", "contours"), [(0.5, 1), (0.95, 0), (0.05, 0)])
def test_the_quick_look_draws_both_maps_and_the_threshold(monkeypatch, threshold, contours):
    figures = []
    monkeypatch.setattr(quick_look_module, "figure_to_array", figures.append)
    probability = np.array([[0.1, 0.1, 0.9], [0.1, 0.1, np.nan]], np.float32)
    image = np.random.default_rng(0).integers(0, 250, (20, 40, 3), dtype=np.uint8)
    saliency = np.zeros((20, 40), np.float32)
    quick_look(image, (40, 80), probability, (10, 70, 35, 5), saliency, threshold, "title", "note")
    (figure,) = figures
    scene, road, mask = figure.axes
    titles = [axes.get_title() for axes in (scene, road, mask)]
    assert titles == ["image", f"P(road), line at {threshold:.2f}", "VisualBackProp mask"]
    for axes in (scene, road, mask):
        assert axes.get_xlim() == (0, 80)
        assert axes.get_ylim() == (40, 0)
    np.testing.assert_array_equal(scene.images[0].get_array(), image)
    assert len(road.collections) == contours
    # midway between the centres of the second and the third column, of 20 pixels each
    if contours:
        (path,) = road.collections[0].get_paths()
        np.testing.assert_allclose(path.vertices[0, 0], 50)
    bars = [axes.child_axes[0] for axes in (road, mask)]
    ticks = [[label.get_text() for label in bar.get_yticklabels()] for bar in bars]
    assert ticks == [["0", "0.2", "0.4", "0.6", "0.8", "1"], ["0", "0.05", "0.2", "0.5", "1"]]
    np.testing.assert_allclose(bars[1].get_yticks(), np.sqrt([0, 0.05, 0.2, 0.5, 1]))
