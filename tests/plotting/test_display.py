import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vbp_lightning.plotting.display import (
    MASK_GAMMA,
    colour_table,
    mask_to_rgb,
    overlay,
    scale_mask,
    to_rgb,
)


def ramp(bands, scale=1.0, offset=0.0):
    values = np.arange(101, dtype=np.float32).reshape(1, 1, 1, 101)
    return np.concatenate([values * scale + offset] * bands, axis=1)


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 8])
def test_any_number_of_bands_gives_rgb(bands):
    rgb = to_rgb(np.zeros((5, bands, 6, 7)))
    assert rgb.shape == (5, 6, 7, 3)
    assert rgb.dtype == np.uint8


def test_one_band_is_grey():
    rgb = to_rgb(ramp(1))
    assert (rgb[..., 0] == rgb[..., 1]).all()
    assert (rgb[..., 0] == rgb[..., 2]).all()


def test_two_bands_are_magenta_and_green():
    tiles = np.zeros((1, 2, 1, 100))
    tiles[0, 0, 0, :50] = 1
    tiles[0, 1, 0, 50:] = 1
    rgb = to_rgb(tiles)
    assert rgb[0, 0, 0].tolist() == [255, 0, 255]
    assert rgb[0, 0, 99].tolist() == [0, 255, 0]


def test_of_more_bands_the_first_three_are_shown_unless_others_are_named():
    tiles = np.random.default_rng(0).random((2, 5, 8, 8))
    np.testing.assert_array_equal(to_rgb(tiles), to_rgb(tiles[:, :3]))
    np.testing.assert_array_equal(to_rgb(tiles, bands=(4, 1, 0)), to_rgb(tiles[:, [4, 1, 0]]))
    np.testing.assert_array_equal(to_rgb(tiles, bands=[3]), to_rgb(tiles[:, 3:4]))


def test_the_percentiles_become_black_and_white():
    # of 0 … 100 the 1st percentile is 1 and the 99th is 99
    rgb = to_rgb(ramp(1))[0, 0, :, 0]
    assert rgb[0] == rgb[1] == 0
    assert rgb[2] == round(255 / 98)
    assert rgb[50] == round(255 / 2)
    assert rgb[99] == rgb[100] == 255


@pytest.mark.parametrize(("scale", "offset"), [(1e-4, 0), (1, -1000), (1e6, 3), (655.35, 0)])
def test_units_do_not_matter(scale, offset):
    difference = to_rgb(ramp(3)).astype(int) - to_rgb(ramp(3, scale, offset)).astype(int)
    assert abs(difference).max() <= 1


def test_one_stretch_serves_all_tiles():
    tiles = np.concatenate([ramp(1), ramp(1) / 2])
    rgb = to_rgb(tiles).astype(int)
    assert rgb[1].max() < 0.52 * 255
    assert (rgb[1] <= rgb[0]).all()


def test_each_band_has_its_own_range():
    tiles = np.concatenate([ramp(1), ramp(1, 1000), ramp(1, 0.001, 7)], axis=1)
    rgb = to_rgb(tiles).astype(int)
    assert np.ptp(rgb, axis=-1).max() <= 1


def test_not_finite_pixels_are_black_and_leave_the_others_alone():
    tiles = ramp(3)
    clean = to_rgb(tiles)
    broken = np.concatenate([tiles, np.full_like(tiles, np.nan), np.full_like(tiles, np.inf)])
    rgb = to_rgb(broken)
    np.testing.assert_array_equal(rgb[:1], clean)
    assert not rgb[1:].any()


def test_constant_and_empty_tiles():
    assert not to_rgb(np.full((2, 3, 4, 4), 7)).any()
    assert to_rgb(np.zeros((0, 3, 4, 4))).shape == (0, 4, 4, 3)


@pytest.mark.parametrize("bands", [(), (0, 1), (3,), (0, 1, -1)])
def test_impossible_bands_are_refused(bands):
    with pytest.raises(ValueError, match="bands"):
        to_rgb(np.zeros((1, 3, 4, 4)), bands=bands)


def test_tiles_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="shape"):
        to_rgb(np.zeros((3, 4, 4)))


@given(hnp.arrays(np.float32, 30, elements=st.floats(0, 1, width=32)))
def test_scaling_keeps_order_and_ends(mask):
    scaled = scale_mask(mask)
    order = np.argsort(mask)
    assert (np.diff(scaled[order]) >= 0).all()
    np.testing.assert_allclose(scaled, mask**MASK_GAMMA, rtol=1e-6)
    assert scale_mask([0.0, 1.0]).tolist() == [0, 1]


def test_values_outside_of_a_mask_are_clipped():
    assert scale_mask([-1.0, 2.0, np.nan]).tolist() == [0, 1, 0]


def test_the_colour_map_grows_lighter_all_the_way():
    luma = colour_table().astype(float) @ [0.2126, 0.7152, 0.0722]
    smooth = np.convolve(luma, np.ones(5) / 5, mode="valid")
    assert colour_table().shape == (256, 3)
    assert (np.diff(smooth) > 0).all()


def test_mask_colours_start_at_black_and_end_at_the_lightest():
    rgb = mask_to_rgb(np.array([[0.0, 1.0]]))
    np.testing.assert_array_equal(rgb, colour_table()[[0, 255]][None])


def test_overlay_shows_grey_tile_under_no_mask_and_mask_colour_under_a_full_one():
    tile = np.random.default_rng(1).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    bare = overlay(tile, np.zeros((2, 5, 5)))
    assert (np.ptp(bare, axis=-1) == 0).all()
    brightness = tile @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(bare[..., 0], 0.8 * brightness, atol=0.51)
    covered = overlay(tile, np.ones((2, 5, 5)))
    np.testing.assert_array_equal(covered, np.broadcast_to(colour_table()[255], covered.shape))
