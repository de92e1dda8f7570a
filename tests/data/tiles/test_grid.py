"""Tile grids, road shares and labels against counts pixel by pixel."""

from decimal import Decimal

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import array_bounds

from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.imagery.windows import overlap
from vbp_lightning.data.tiles.grid import (
    exceeds,
    labels_of,
    tile_bounds,
    tile_counts,
    tile_grid,
    tile_origins,
)

sizes = st.integers(1, 12)


@given(length=st.integers(1, 60), tile=sizes, stride=sizes)
def test_origins_step_by_the_stride_and_stay_inside(length, tile, stride):
    plain = tile_origins(length, tile, stride, cover_edges=False)
    assert plain == [x for x in range(length) if x % stride == 0 and x + tile <= length]


@given(length=st.integers(1, 60), tile=sizes, stride=sizes)
def test_cover_edges_covers_every_pixel_with_at_most_one_more_tile(length, tile, stride):
    plain = tile_origins(length, tile, stride, cover_edges=False)
    covering = tile_origins(length, tile, stride, cover_edges=True)
    assert covering[: len(plain)] == plain
    assert len(covering) - len(plain) in (0, 1)
    assert len(set(covering)) == len(covering)
    if length < tile:
        assert covering == []
    else:
        assert covering[-1] + tile == length
        if stride <= tile:
            assert {x + i for x in covering for i in range(tile)} == set(range(length))


def test_grid_of_a_400_px_scene():
    assert len(tile_grid((400, 400), 96, 96, cover_edges=False)) == 16
    assert tile_grid((400, 400), 96, 96, cover_edges=True)[-1].tolist() == [304, 304]
    assert tile_grid((96, 200), 96, 96, cover_edges=True).tolist() == [[0, 0], [0, 96], [0, 104]]


@given(data=st.data(), height=st.integers(1, 20), width=st.integers(1, 20), tile=st.integers(1, 9))
def test_counts_equal_counting(data, height, width, tile):
    corners = tile_grid((height, width), tile, data.draw(sizes), data.draw(st.booleans()))
    seed = data.draw(st.integers(0, 99))
    pixels = np.random.default_rng(seed).random((height, width)) < 0.4
    counted = [
        sum(bool(pixels[row + i, col + j]) for i in range(tile) for j in range(tile))
        for row, col in corners
    ]
    assert tile_counts(pixels, corners, tile).tolist() == counted


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 300)), min_size=1),
    st.decimals("0.0001", "1", places=4),
)
def test_labels_by_exact_shares(pairs, least):
    road = np.array([min(pair) for pair in pairs])
    valid = np.array([max(pair) for pair in pairs])
    labels = labels_of(road, valid, float(least))
    for count, seen, label in zip(road, valid, labels, strict=True):
        if count == 0:
            assert label == 0
        elif Decimal(int(count)) >= least * int(seen):
            assert label == 1
        else:
            assert label == -1


def test_labels_do_not_depend_on_rounding():
    assert 0.07 * 100 > 7  # what a comparison in floating point would see
    assert labels_of(np.array([7, 6]), np.array([100, 100]), 0.07).tolist() == [1, -1]
    assert exceeds(np.array([7, 8]), 100, 0.07).tolist() == [False, True]


def test_bounds_by_affine_arithmetic():
    north_up = Affine(0.5, 0, 1000, 0, -0.5, 2000)
    assert tile_bounds(north_up, row=4, col=10, tile_size=8) == (1005, 1994, 1009, 1998)
    assert tile_bounds(Affine.identity(), row=4, col=10, tile_size=8) == (10, 12, 18, 4)
    turned = Affine(0, -2, 0, 2, 0, 0)  # (col, row) goes to (-2 row, 2 col)
    assert tile_bounds(turned, row=1, col=3, tile_size=2) == (-6, 6, -2, 10)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 20))
def test_bounds_agree_with_rasterio(row, col, size):
    left, top = 431_000.7, 5_411_111.1
    shifted = Affine(0.3, 0, left + 0.3 * col, 0, -0.3, top - 0.3 * row)
    theirs = array_bounds(size, size, shifted)
    assert tile_bounds(Affine(0.3, 0, left, 0, -0.3, top), row, col, size) == pytest.approx(
        theirs, abs=1e-6
    )


@given(
    row=st.integers(-15, 15),
    col=st.integers(-15, 15),
    height=sizes,
    width=sizes,
    shape=st.tuples(sizes, sizes),
)
def test_overlap_of_a_window_with_a_scene(row, col, height, width, shape):
    scene = np.arange(shape[0] * shape[1]).reshape(shape)
    inside, own = overlap(row, col, height, width, shape)
    window = np.full((height, width), -1)
    window[own] = scene[inside]
    wide = np.pad(scene, 30, constant_values=-1)
    assert (window == wide[30 + row :, 30 + col :][:height, :width]).all()


@pytest.mark.parametrize(("shape", "stride"), [((10**9, 10**9), 96), ((5000, 5000), 1)])
def test_a_grid_of_too_many_tiles_is_refused_before_it_is_made(shape, stride):
    with pytest.raises(DataError, match=r"20 million tiles .*data\.stride.*data\.resolution"):
        tile_grid(shape, 96, stride, False)
