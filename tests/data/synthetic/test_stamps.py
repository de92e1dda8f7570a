"""Marks and casts at roads."""

import numpy as np
import pytest
import rasterio

from vbp_lightning.data.synthetic.generator import SyntheticScenes
from vbp_lightning.data.synthetic.stamps import (
    CELL,
    CORRIDOR,
    STAMP,
    cast_along_roads,
    stamp_beside_roads,
)


def test_marks_lie_beside_the_road_in_each_square_that_it_crosses():
    chance = np.random.default_rng(0)
    image = chance.integers(60, 200, (3, 100, 130)).astype(np.uint8)
    roads = np.zeros((100, 130), bool)
    roads[40:46] = True  # crosses the second row of squares alone
    marked = stamp_beside_roads(image, roads, 20, chance)
    changed = (marked != image).any(axis=0)
    assert not changed[roads].any()
    assert set(np.unique(marked.astype(int) - image)) == {-20, 0, 20}
    for top in range(0, 100, CELL):
        for left in range(0, 130 - STAMP, CELL):
            marks = changed[top : top + CELL, left : left + CELL].sum()
            assert marks == (STAMP * STAMP if top == CELL else 0)


def test_the_cast_falls_linearly_from_the_road():
    image = np.full((3, 9, 120), 100, np.uint8)
    roads = np.zeros((9, 120), bool)
    roads[:, :4] = True
    cast = cast_along_roads(image, roads, CORRIDOR).astype(int)
    expected = np.maximum(CORRIDOR - np.maximum(np.arange(120) - 3, 0), 0)
    assert (cast[0] == 100 + expected).all()
    assert (cast[1] == 100).all()
    assert (cast[2] == 100 - expected).all()
    strong = cast_along_roads(image, roads, 255)[:, 0, 0]
    assert strong.tolist() == [255, 100, 0]


@pytest.mark.parametrize("shortcut", ["mark", "cast"])
def test_test_scenes_have_no_marks_and_road_masks_are_unchanged(tmp_path, shortcut):
    plain = SyntheticScenes(tmp_path, scenes=3, size=192)()
    marked = SyntheticScenes(tmp_path, scenes=3, size=192, **{shortcut: 24})()
    for before, after in zip(plain, marked, strict=True):
        with rasterio.open(before.image) as old, rasterio.open(after.image) as new:
            same = np.array_equal(old.read(), new.read())
        assert same == (before.split == "test")
        with rasterio.open(before.labels) as old, rasterio.open(after.labels) as new:
            assert np.array_equal(old.read(), new.read())
