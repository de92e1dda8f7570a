import numpy as np
import pytest

from tests.helpers.pictures import enlarged
from vbp_lightning.plotting.chain_figure import ChainStep, chain_figure
from vbp_lightning.plotting.display import colour_table, overlay, saliency_to_rgb


def step(name, size, seed):
    rng = np.random.default_rng(seed)
    # raw values as they occur in the backward pass: far from [0, 1]
    return ChainStep(name, 1e3 * rng.random((size, size)), 1e9 * rng.random((size, size)))


TILE = np.random.default_rng(9).integers(0, 256, (96, 96, 3), dtype=np.uint8)
MASK = np.random.default_rng(8).random((96, 96))
STEPS = [step(f"block{3 - place}", size, place) for place, size in enumerate((12, 24, 48, 96))]


def picture_at(figure, column, row):
    # below title (59), note (42) and heading (54); captions of two lines and the next heading
    top = 155 + row * (192 + 2 * 36 + 8 + 54)
    return figure[top : top + 192, 200 * column + 16 : 200 * column + 208]


def test_each_column_shows_its_layer_from_minimum_to_maximum():
    figure = chain_figure(TILE, STEPS, MASK, "title")
    for column, layer in enumerate(STEPS):
        for row, values in enumerate((layer.averaged, layer.mask)):
            normalized = (values - values.min()) / np.ptp(values)
            expected = enlarged(saliency_to_rgb(normalized), 192 // len(values))
            np.testing.assert_array_equal(picture_at(figure, column, row), expected)


def test_the_last_column_is_the_tile_and_the_mask_on_it():
    figure = chain_figure(TILE, STEPS, MASK, "title")
    np.testing.assert_array_equal(picture_at(figure, 4, 0), enlarged(TILE, 2))
    np.testing.assert_array_equal(picture_at(figure, 4, 1), enlarged(overlay(TILE, MASK), 2))


def test_names_and_sizes_are_written(written):
    chain_figure(TILE, STEPS, MASK, "title", ["a note"])
    assert written == [
        "title",
        "each map from its own minimum to its maximum; colour: value^0.5",
        "a note",
        "maps averaged over their channels",
        *("block3", "12×12", "block2", "24×24", "block1", "48×48", "block0", "96×96"),
        *("input", "96×96"),
        "mask so far: upsampled, times the map above",
    ]


@pytest.mark.parametrize(("layers", "bands"), [(4, 1), (5, 2), (9, 2), (13, 3)])
def test_deep_nets_continue_below(layers, bands):
    steps = [step(f"layer{place}", 6, place) for place in range(layers)]
    height, width, _ = chain_figure(TILE, steps, MASK, "title").shape
    assert width == 1024
    assert height == 59 + 42 + bands * (54 + 192 + 2 * 36 + 8 + 54 + 192 + 8)


def test_a_short_chain_wraps_its_texts():
    # the note and both headings take two lines
    shape = chain_figure(TILE, STEPS[:1], MASK, "title").shape
    assert shape == (59 + 42 + 38 + 2 * 42 + 54 + 192 + 2 * 36 + 8 + 54 + 192 + 8, 592, 3)


def test_a_constant_map_has_the_darkest_colour():
    flat = ChainStep("flat", np.full((12, 12), 3.0), np.zeros((12, 12)))
    figure = chain_figure(TILE, [flat, *STEPS[1:]], MASK, "title")
    assert (picture_at(figure, 0, 0) == colour_table()[0]).all()
    assert (picture_at(figure, 0, 1) == colour_table()[0]).all()
