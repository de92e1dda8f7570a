import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from vbp_lightning.plotting.display import (
    OUTLINE,
    SALIENCY_GAMMA,
    colour_table,
    maps_to_rgb,
    outlined,
    overlay,
    patches_to_rgb,
    saliency_to_rgb,
    scale_saliency,
    scaled,
    signed_to_rgb,
    standardised_to_rgb,
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
def test_the_display_curve_keeps_order_and_ends(saliency):
    curved = scale_saliency(saliency)
    order = np.argsort(saliency)
    assert (np.diff(curved[order]) >= 0).all()
    np.testing.assert_allclose(curved, saliency**SALIENCY_GAMMA, rtol=1e-6)
    assert scale_saliency([0.0, 1.0]).tolist() == [0, 1]


def test_values_outside_of_the_range_are_clipped():
    assert scale_saliency([-1.0, 2.0, np.nan]).tolist() == [0, 1, 0]


def test_the_colour_map_grows_lighter_all_the_way():
    luma = colour_table().astype(float) @ [0.2126, 0.7152, 0.0722]
    smooth = np.convolve(luma, np.ones(5) / 5, mode="valid")
    assert colour_table().shape == (256, 3)
    assert (np.diff(smooth) > 0).all()


def test_saliency_colours_start_at_black_and_end_at_the_lightest():
    rgb = saliency_to_rgb(np.array([[0.0, 1.0]]))
    np.testing.assert_array_equal(rgb, colour_table()[[0, 255]][None])


def test_overlay_shows_the_grey_tile_at_zero_and_the_saliency_colour_at_one():
    tile = np.random.default_rng(1).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    bare = overlay(tile, np.zeros((2, 5, 5)))
    assert (np.ptp(bare, axis=-1) == 0).all()
    brightness = tile @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(bare[..., 0], 0.8 * brightness, atol=0.51)
    covered = overlay(tile, np.ones((2, 5, 5)))
    np.testing.assert_array_equal(covered, np.broadcast_to(colour_table()[255], covered.shape))


def test_patches_have_the_colours_of_their_tiles_and_padding_is_chequered():
    tiles = np.random.default_rng(0).gamma(2, 300, (4, 3, 20, 24)).astype(np.float32)
    tiles[2, 1, 5, 5] = np.nan
    whole = to_rgb(tiles)
    padded = np.full((3, 9, 7), np.nan, np.float32)
    padded[:, 2:, 3:] = tiles[1, :, :7, :4]
    first, second, last = patches_to_rgb([tiles[0, :, 3:8, 4:15], padded, tiles[2]], tiles)
    assert (first == whole[0, 3:8, 4:15]).all()
    assert (second[2:, 3:] == whole[1, :7, :4]).all()
    assert (last == whole[2]).all()
    above = second[:2].astype(int)
    assert {tuple(pixel) for pixel in above.reshape(-1, 3)} == {(150,) * 3, (190,) * 3}
    assert (np.abs(np.diff(above, axis=1)) == 40).all()
    assert patches_to_rgb([], tiles) == []


def test_standardised_images_are_grey_at_the_mean_and_clipped_at_the_reach():
    image = np.array([-9, -2, -1, 0, 1, 2, 9], np.float32).reshape(1, 1, 1, 7)
    grey = standardised_to_rgb(image)
    assert grey[0, 0, :, 0].tolist() == [0, 0, 64, 128, 191, 255, 255]
    assert (np.ptp(grey, axis=-1) == 0).all()
    assert standardised_to_rgb(image, 4)[0, 0, :, 0].tolist() == [0, 64, 96, 128, 159, 191, 255]


@pytest.mark.parametrize(("bands", "shown"), [(2, [0, 1, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])])
def test_standardised_images_show_the_bands_of_tiles(bands, shown):
    image = np.random.default_rng(0).normal(size=(2, bands, 4, 4))
    rgb = standardised_to_rgb(image)
    for channel, band in enumerate(shown):
        one = standardised_to_rgb(image[:, [band]])[..., 0]
        np.testing.assert_array_equal(rgb[..., channel], one)


def test_the_border_of_the_road_is_outlined_and_nothing_else_changes():
    tiles = np.random.default_rng(0).integers(0, 200, (2, 24, 24, 3), dtype=np.uint8)
    roads = np.zeros((2, 24, 24), bool)
    roads[0, 5:9] = True  # to both edges of the tile, where there is no border
    for tile, road, picture in zip(tiles, roads, outlined(tiles, roads), strict=True):
        assert picture.shape == (288, 288, 3)
        large = tile.repeat(12, 0).repeat(12, 1)
        distance = ndimage.distance_transform_cdt(road.repeat(12, 0).repeat(12, 1), "taxicab")
        rim = (distance > 0) & (distance <= 3) & road.any()
        assert rim.sum() == (2 * 3 * 288 if road.any() else 0)
        np.testing.assert_array_equal(picture, np.where(rim[..., None], OUTLINE, large))
    assert outlined(tiles[:0], roads[:0]) == []


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
    picture = maps_to_rgb(values, "each")
    assert picture[0, 0, 0].min() > 240
    np.testing.assert_array_equal(picture, signed_to_rgb(np.sign(unit) * np.abs(unit) ** 0.5))


def test_signed_colours_are_orange_white_and_purple():
    purple, white, orange = signed_to_rgb(np.array([-1.0, 0.0, 1.0])).tolist()
    assert purple == [45, 0, 75]
    assert white == [247, 247, 246]
    assert orange == [127, 59, 8]


def test_maps_without_negative_values_have_the_colours_of_saliency():
    np.testing.assert_array_equal(
        maps_to_rgb(maps(), "shared"), saliency_to_rgb(scaled(maps(), "shared"))
    )


def test_constant_maps_are_dark_and_none_divides_by_zero():
    assert not scaled(np.full((2, 4, 4), 7, np.float32), "each").any()
    assert not scaled(np.zeros((2, 4, 4), np.float32), "shared").any()
    assert scaled(np.zeros((0, 4, 4), np.float32), "each").shape == (0, 4, 4)


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="choose each or shared"):
        scaled(maps(), "both")
