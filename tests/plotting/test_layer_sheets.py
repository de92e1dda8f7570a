"""Sheets of feature maps and of filters."""

import numpy as np

from tests.helpers.pictures import enlarged, positions
from vbp_lightning.plotting.display import maps_to_rgb, signed_to_rgb
from vbp_lightning.plotting.layer_sheets import (
    feature_map_sheet,
    filter_pictures,
    filter_sheet,
    kernel_pictures,
    swatches,
)

TILE = np.random.default_rng(0).integers(0, 250, (32, 32, 3), dtype=np.uint8)


def weights(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_kernels_are_divided_by_white_lines():
    filters = weights(2, 5, 2, 3)
    pictures = kernel_pictures(filters)
    # five kernels: two rows of three
    expected = np.full((2, 5, 11, 3), 255, np.uint8)
    for number, kernels in enumerate(filters):
        for channel, kernel in enumerate(kernels):
            row, column = divmod(channel, 3)
            cell = np.s_[number, 3 * row : 3 * row + 2, 4 * column : 4 * column + 3]
            expected[cell] = signed_to_rgb(kernel / np.abs(kernels).max())
    np.testing.assert_array_equal(pictures, expected)


def test_filters_as_colours_are_mid_grey_at_zero():
    filters = np.array([[4, -4, 2], [0, 0, 0]], np.float32).reshape(2, 3, 1, 1)
    assert filter_pictures(filters)[:, 0, 0].tolist() == [[255, 0, 191], [128, 128, 128]]


def test_swatches_are_plain():
    pictures = swatches(np.array([[0.5, -0.5, 0], [0, 0, 0]], np.float32))
    assert pictures.shape == (2, 8, 16, 3)
    assert np.unique(pictures[0].reshape(-1, 3), axis=0).tolist() == [[238, 18, 128]]
    assert np.unique(pictures[1]).tolist() == [128]


def test_filters_of_one_pixel_are_swatches_with_their_weights(written):
    filters = np.array([[1, -0.5, 0], [0, 2, 0]], np.float32).reshape(2, 3, 1, 1)
    offsets = np.array([0.25, -1], np.float32)
    bands = ["red", "green", "blue"]
    filter_sheet(filters, offsets, filters[:, :, 0, 0], "title", [], bands, filters=1)
    assert written == [
        "title",
        "largest response to",
        *("channel 0", "red +1.000", "green -0.500", "blue +0.000", "offset +0.250"),
        *("smallest response to", "channel 0"),
    ]


def test_first_filters_are_shown_as_colours_and_by_band(written):
    filters = weights(3, 3, 5, 5)
    norms = [f"{i}: norm {np.linalg.norm(filters[i]):.2g}" for i in range(2)]
    filter_sheet(filters, np.zeros(3), None, "title", ["note"], ["r", "g", "b"], filters=2)
    assert written == [
        *("title", "note", "as colours", *norms),
        *("by band, r, g, b from the left, row by row", *norms),
    ]


def test_deeper_filters_are_shown_by_channel(written):
    filter_sheet(weights(1, 4, 3, 3), np.zeros(1), None, "title", [], [])
    assert written[1] == "by channel: 4 kernels of 3 × 3 each"


def test_weights_on_other_bands_are_written_where_a_kernel_is_one_pixel(written):
    filters = np.array([3, 4], np.float32).reshape(1, 2, 1, 1)
    filter_sheet(filters, np.zeros(1), None, "title", [], ["band 1", "band 2"])
    assert written[1:] == [
        "by band, band 1, band 2 from the left, row by row",
        *("0: norm 5", "band 1 +3.000", "band 2 +4.000"),
    ]


def test_feature_maps_are_shown_layer_by_layer():
    maps = {"block": weights(3, 16, 16), "relu": np.maximum(weights(2, 32, 32), 0)}
    page = feature_map_sheet(TILE, maps, "title", "shared", channels=2)
    assert len(positions(page, enlarged(TILE, 2))) == 1
    # a shared scale is that of the channels that are drawn
    for picture in maps_to_rgb(maps["block"][:2], "shared"):
        assert len(positions(page, enlarged(picture, 4))) == 1
    for picture in maps_to_rgb(maps["relu"], "shared"):
        assert len(positions(page, enlarged(picture, 2))) == 1
    assert not positions(page, enlarged(maps_to_rgb(maps["block"], "shared")[2], 4))


def test_headings_of_feature_maps_state_sizes_ranges_and_zeros(written):
    silent = np.zeros((3, 2, 2), np.float32)
    silent[0] = [[-1, 0], [2, 3]]
    flat = np.array([0, 1, 0], np.float32)
    maps = {"conv": silent, "pool": flat[:, None, None], "out": np.array([1.25], np.float32)}
    feature_map_sheet(TILE, maps, "title", channels=2)
    headings = [line for line in written if line.startswith(tuple(maps))]
    assert headings == [
        "conv: 3 × 2 × 2, the first 2 shown; from -1 to 3; 2 all zero",
        "pool: 3 values, one cell each; from 0 to 1; 2 zero",
        "out: 1.25",
    ]


def test_a_flat_layer_is_drawn_in_lines_of_64_cells():
    values = np.arange(100, dtype=np.float32)
    page = feature_map_sheet(TILE, {"flat": values}, "title")
    padded = np.zeros((1, 2, 64), np.float32)
    padded.flat[:100] = values
    picture = enlarged(maps_to_rgb(padded, "each")[0], 12)
    assert len(positions(page, picture)) == 1
