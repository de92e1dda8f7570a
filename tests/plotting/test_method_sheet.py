"""The sheet of tiles by methods."""

import numpy as np
import pytest

from vbp_lightning.plotting.mask_panel import TileCaption
from vbp_lightning.plotting.method_sheet import coloured, method_sheet, scaled

CAPTIONS = [TileCaption("true: road", 0.9, False), TileCaption("true: non-road", 0.8, True)]


def maps(low=0.0):
    return np.random.default_rng(0).uniform(low, 1, (2, 16, 16)).astype(np.float32)


def test_each_map_by_itself_or_all_alike():
    values = maps() * np.array([1, 4], np.float32)[:, None, None] + 2
    each = scaled(values, "each")
    assert np.allclose(each.min(axis=(1, 2)), 0)
    assert np.allclose(each.max(axis=(1, 2)), 1)
    shared = scaled(values, "shared")
    assert shared.min() == 0
    assert shared.max() == 1
    assert np.allclose(shared, (values - values.min()) / (values.max() - values.min()), atol=1e-6)


def test_signed_maps_keep_their_zero():
    values = maps(-0.5)
    values[0, 0, 0] = 0
    unit = scaled(values, "each")
    assert unit[0, 0, 0] == 0
    assert np.array_equal(np.sign(unit), np.sign(values))
    assert np.allclose(np.abs(unit).max(axis=(1, 2)), 1)
    picture, is_signed = coloured(values, "each")
    assert is_signed
    white = picture[0, 0, 0].astype(int)
    assert white.min() > 240


def test_constant_maps_are_dark_and_none_divides_by_zero():
    assert not scaled(np.full((2, 4, 4), 7, np.float32), "each").any()
    assert not scaled(np.zeros((2, 4, 4), np.float32), "shared").any()
    assert scaled(np.zeros((0, 4, 4), np.float32), "each").shape == (0, 4, 4)


def test_a_sheet_of_one_method_and_of_many():
    tiles = np.zeros((2, 16, 16, 3), np.uint8)
    one = method_sheet(tiles, {"saliency": maps()}, CAPTIONS, "title")
    many = method_sheet(tiles, {f"m{i}": maps(-i) for i in range(7)}, CAPTIONS, "title", "shared")
    assert one.dtype == many.dtype == np.uint8
    assert many.shape[1] > one.shape[1]
    assert one.shape[2] == 3


def test_what_does_not_match_is_refused():
    tiles = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="do not match"):
        method_sheet(tiles, {"saliency": maps()[:1]}, CAPTIONS, "title")
    with pytest.raises(ValueError, match="choose each or shared"):
        scaled(maps(), "both")
