"""The contents of the procedural scenes and their geometry."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbp_lightning.data.synthetic.lighting import Sun, illuminate
from vbp_lightning.data.synthetic.noise import fractal_noise, smooth_noise
from vbp_lightning.data.synthetic.painting import Canvas
from vbp_lightning.data.synthetic.palette import Palette
from vbp_lightning.data.synthetic.render import PIXEL_SIZES, render_scene
from vbp_lightning.data.synthetic.roads import draw_network, tile_shares
from vbp_lightning.data.synthetic.shapes import (
    Grid,
    Rectangle,
    course,
    coverage,
    line_field,
    stripe,
    through,
)
from vbp_lightning.data.synthetic.vegetation import Crowns, paint_crowns


def distance_to_polyline(point, points):
    """Shortest distance from a point to a polyline, segment by segment."""
    best = np.inf
    for a, b in pairwise(points):
        t = np.clip(np.dot(point - a, b - a) / np.dot(b - a, b - a), 0, 1)
        best = min(best, float(np.hypot(*(point - a - t * (b - a)))))
    return best


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.8]), st.floats(1.0, 9.0))
def test_line_field_equals_the_naive_distance(seed, pixel, reach):
    rng = np.random.default_rng(seed)
    grid = Grid(40, pixel)
    points = course(rng, (8.0, 8.0), float(rng.uniform(0, 7)), 30.0, 0.05, 5.0)
    field = line_field(grid, points, reach)
    found = np.full((40, 40), np.inf)
    found[field.area] = field.distance
    for row in range(0, 40, 3):
        for col in range(0, 40, 3):
            true = distance_to_polyline(
                np.array([(col + 0.5) * pixel, (row + 0.5) * pixel]), points
            )
            if abs(true - reach) > 1e-3:
                assert found[row, col] == pytest.approx(true if true < reach else np.inf, abs=1e-3)


def test_line_field_measures_side_and_distance_along():
    field = line_field(Grid(10, 1.0), np.array([[0.0, 5.0], [10.0, 5.0]]), 3.0)
    rows, cols = field.area
    np.testing.assert_allclose(field.along, cols + 0.5)
    np.testing.assert_allclose(field.offset, rows + 0.5 - 5.0)
    assert sorted(set(rows)) == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("width", [0.1, 0.3, 1.0, 2.5])
def test_a_stripe_covers_its_own_width(width):
    offsets = np.arange(-5, 5, 0.5) + 0.13
    assert stripe(offsets, width, 0.5).sum() * 0.5 == pytest.approx(width, rel=1e-5)


def test_a_rectangle_covers_its_own_area():
    grid = Grid(80, 0.5)
    shape = Rectangle(20.3, 19.1, 17.0, 9.0, 0.4)
    window, u, v = shape.local(grid)
    assert coverage(shape.depth(u, v), grid.pixel).sum() * 0.25 == pytest.approx(153, rel=0.01)
    outside = np.ones((80, 80), dtype=bool)
    outside[window] = False
    x, y = grid.axes(grid.whole)
    rows, cols = np.nonzero(outside)
    turned = np.cos(0.4) * (x[0, cols] - 20.3) + np.sin(0.4) * (y[rows, 0] - 19.1)
    across = np.cos(0.4) * (y[rows, 0] - 19.1) - np.sin(0.4) * (x[0, cols] - 20.3)
    assert not ((np.abs(turned) < 8.5) & (np.abs(across) < 4.5)).any()


def test_a_through_course_leaves_at_both_ends_and_keeps_its_radius():
    grid = Grid(300, 0.5)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        points = through(rng, grid, (70.0, 80.0), seed / 3, 0.01, 30.0)
        assert not grid.holds(points[[0, -1]]).any()
        assert np.hypot(points[:, 0] - 70, points[:, 1] - 80).min() < 1e-9
        steps = np.diff(points, axis=0)
        headings = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
        lengths = np.hypot(steps[:, 0], steps[:, 1])
        # At the point in the middle both halves bend away from the common heading.
        assert np.abs(np.diff(headings)).max() <= 2 * lengths.max() / 30.0 + 1e-9


def test_noise_is_standardised_and_smooth():
    grid = Grid(600, 0.5)
    for noise in (smooth_noise, fractal_noise):
        field = noise(np.random.default_rng(0), grid, 12.0)
        assert field.shape == (600, 600)
        assert abs(field.mean()) < 0.15
        assert 0.8 < field.std() < 1.2
    steps = np.abs(np.diff(smooth_noise(np.random.default_rng(1), grid, 12.0), axis=0))
    assert steps.max() < 0.6


def test_the_shadow_of_a_tower_points_away_from_the_sun_and_has_its_length():
    grid = Grid(60, 1.0)
    canvas = Canvas.empty(grid, np.random.default_rng(0))
    canvas.rgb[...] = 1.0
    canvas.height[28:32, 28:32] = 10.0
    illuminate(canvas, Sun(azimuth=0.0, slope=1.0, depth=0.5))  # from the right, 45 degrees
    dark = (canvas.rgb[..., 1] < 0.75) & (canvas.height == 0)
    rows, cols = np.nonzero(dark)
    assert set(rows) == {28, 29, 30, 31}
    assert cols.max() == 27
    assert cols.min() == pytest.approx(28 - 10, abs=1)


@pytest.mark.filterwarnings("error")
def test_a_crown_has_a_hole_where_the_grain_is_extreme():
    rng = np.random.default_rng(0)
    canvas = Canvas.empty(Grid(64, 0.5), rng)
    canvas.grain[30, 33] = -9
    crowns = Crowns(np.array([[16.0, 16.0]]), np.array([5.0]))
    paint_crowns(canvas, Palette.drawn(rng), crowns, rng)
    painted = canvas.rgb.any(axis=2)
    assert not painted[30, 33]
    assert painted[29:32, 32:35].sum() == 8
    assert np.isfinite(canvas.rgb).all()


def test_tile_shares_count_pixels():
    mask = np.zeros((8, 8), dtype=bool)
    mask[0, :6] = True
    np.testing.assert_array_equal(tile_shares(mask, 4), [[4 / 16, 2 / 16], [0, 0]])


def test_the_mask_is_the_surface_of_the_roads():
    grid = Grid(192, 0.5)
    network = draw_network(np.random.default_rng(3), grid, 0.3, 96, 0.5)
    rng = np.random.default_rng(0)
    for row, col in rng.integers(0, 192, (300, 2)):
        point = (np.array([col, row]) + 0.5) * 0.5
        margins = [
            road.width / 2 - distance_to_polyline(point, road.points) for road in network.roads
        ]
        if abs(max(margins)) > 1e-3:
            assert network.mask[row, col] == (max(margins) > 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_small_scene_holds_both_classes(seed):
    for index in range(6):
        rendering = render_scene(seed, index, 192)
        shares = tile_shares(rendering.roads, 96)
        assert (shares == 0).any()
        assert (shares >= 0.05).any()
        assert rendering.pixel in PIXEL_SIZES
        assert rendering.image.shape == (3, 192, 192)
        assert rendering.image.dtype == np.uint8


def test_both_classes_are_common_and_few_tiles_lie_between():
    shares = np.concatenate(
        [tile_shares(render_scene(0, index, 480).roads, 96).ravel() for index in range(8)]
    )
    assert 0.3 < (shares >= 0.05).mean() < 0.65
    assert 0.3 < (shares == 0).mean() < 0.65
    assert ((shares > 0) & (shares < 0.05)).mean() < 0.25


def test_scenes_differ_in_light_and_use_the_range():
    images = [render_scene(0, index, 192).image for index in range(8)]
    means = [image.mean() for image in images]
    assert np.std(means) > 5
    for image in images:
        assert np.mean((image == 0) | (image == 255)) < 0.05
        assert image.std() > 10
