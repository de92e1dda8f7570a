"""Marks beside roads."""

import numpy as np
import rasterio

from vbp_lightning.data.synthetic.generator import SyntheticScenes
from vbp_lightning.data.synthetic.stamps import CELL, STAMP, stamp_beside_roads


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


def test_test_scenes_have_no_marks_and_road_masks_are_unchanged(tmp_path):
    plain = SyntheticScenes(tmp_path, scenes=3, size=192)()
    marked = SyntheticScenes(tmp_path, scenes=3, size=192, mark=24)()
    for before, after in zip(plain, marked, strict=True):
        with rasterio.open(before.image) as old, rasterio.open(after.image) as new:
            same = np.array_equal(old.read(), new.read())
        assert same == (before.split == "test")
        with rasterio.open(before.labels) as old, rasterio.open(after.labels) as new:
            assert np.array_equal(old.read(), new.read())
