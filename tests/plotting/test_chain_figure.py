import numpy as np
import pytest

from vbp_lightning.plotting.canvas import Canvas
from vbp_lightning.plotting.chain_figure import ChainStep, chain_figure
from vbp_lightning.plotting.display import colour_table, mask_to_rgb, overlay


def step(name, size, seed):
    rng = np.random.default_rng(seed)
    # raw values as they are met on the way: far from [0, 1]
    return ChainStep(name, 1e3 * rng.random((size, size)), 1e9 * rng.random((size, size)))


TILE = np.random.default_rng(9).integers(0, 256, (96, 96, 3), dtype=np.uint8)
MASK = np.random.default_rng(8).random((96, 96))
STEPS = [step(f"block{3 - place}", size, place) for place, size in enumerate((12, 24, 48, 96))]


def picture_at(figure, column, row):
    top = 50 + 3 * 36 + row * (200 + 36)
    return figure[top : top + 192, 200 * column + 4 : 200 * column + 196]


def test_each_column_shows_its_layer_from_minimum_to_maximum():
    figure = chain_figure(TILE, STEPS, MASK, "title")
    for column, layer in enumerate(STEPS):
        factor = 192 // len(layer.mask)
        for row, values in enumerate((layer.averaged, layer.mask)):
            normalized = (values - values.min()) / np.ptp(values)
            expected = mask_to_rgb(normalized).repeat(factor, 0).repeat(factor, 1)
            np.testing.assert_array_equal(picture_at(figure, column, row), expected)


def test_the_last_column_is_the_tile_and_the_mask_on_it():
    figure = chain_figure(TILE, STEPS, MASK, "title")
    np.testing.assert_array_equal(picture_at(figure, 4, 0), TILE.repeat(2, 0).repeat(2, 1))
    expected = overlay(TILE, MASK).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(picture_at(figure, 4, 1), expected)


def test_names_and_sizes_are_written(monkeypatch):
    written = []
    monkeypatch.setattr(
        Canvas, "text", lambda self, x, y, text, *args, **options: written.append(text)
    )
    chain_figure(TILE, STEPS, MASK, "title", ["a note"])
    for text in ("block3", "12×12", "block0", "input", "96×96", "title", "a note"):
        assert text in written


@pytest.mark.parametrize(("layers", "bands"), [(1, 1), (4, 1), (5, 2), (9, 2), (13, 3)])
def test_deep_nets_continue_below(layers, bands):
    steps = [step(f"layer{place}", 6, place) for place in range(layers)]
    height, width, _ = chain_figure(TILE, steps, MASK, "title").shape
    assert width == 1000
    assert height == 50 + bands * (4 * 36 + 400) + 36


def test_a_constant_map_has_the_darkest_colour():
    flat = ChainStep("flat", np.full((12, 12), 3.0), np.zeros((12, 12)))
    figure = chain_figure(TILE, [flat], MASK, "title")
    assert (picture_at(figure, 0, 0) == colour_table()[0]).all()
    assert (picture_at(figure, 0, 1) == colour_table()[0]).all()
