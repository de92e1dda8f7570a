"""The strongest activations against a search through all of them."""

import numpy as np
import pytest
import torch

from tests.helpers.examples import NETS, images
from tests.helpers.odd_nets import odd
from vbp_lightning.graph.network_graph import graph_of
from vbp_lightning.inspection.layers import layer_outputs
from vbp_lightning.inspection.maximal_patches import crop, last_map, strongest_activations
from vbp_lightning.inspection.receptive_field import Box, receptive_fields


@pytest.mark.parametrize(("name", "layer"), [("strided", "block2"), ("resnet", "layer2.1.relu")])
def test_against_a_full_sort(name, layer):
    net = NETS[name]()
    tiles = images(7)
    found = strongest_activations(net, layer, tiles.split(3), 4, [1, 3])
    maps = torch.cat([outputs(net, layer, tile[None]) for tile in tiles])
    for place, channel in enumerate((1, 3)):
        expected = maps[:, channel].flatten(1).max(dim=1).values.sort(descending=True).values[:4]
        assert np.allclose(found.values[place], expected.numpy(), rtol=1e-5)
        for value, tile, row, column in zip(
            found.values[place],
            found.tiles[place],
            found.rows[place],
            found.columns[place],
            strict=True,
        ):
            assert value == pytest.approx(float(maps[tile, channel, row, column]), rel=1e-5)
        assert len(set(found.tiles[place])) == 4


def outputs(net, layer, tile):
    kept = {}
    handle = net.get_submodule(layer).register_forward_hook(
        lambda module, args, output: kept.setdefault("maps", output.detach().clone())
    )
    net(tile)
    handle.remove()
    return kept["maps"]


def test_the_patch_alone_gives_the_activation():
    # what lies outside the receptive field changes nothing
    net = NETS["maxpool"]()
    tiles = images(5)
    found = strongest_activations(net, "block3.1", [tiles], 1)
    field = receptive_fields(net, tiles)["block3.1"]
    for channel in range(0, 64, 9):
        row, column = int(found.rows[channel, 0]), int(found.columns[channel, 0])
        box = field.box(row, column).clipped(96, 96)
        alone = torch.rand(1, 3, 96, 96)
        window = (slice(box.top, box.bottom), slice(box.left, box.right))
        alone[0, :, *window] = tiles[int(found.tiles[channel, 0]), :, *window]
        value = layer_outputs(net, alone)["block3.1"][0, channel, row, column]
        assert float(value) == pytest.approx(float(found.values[channel, 0]), rel=1e-5)


def test_flat_layers_and_few_tiles():
    net = NETS["alexnet"]()
    found = strongest_activations(net, "classifier.1", [images(2)], 5)
    assert found.values.shape == (20, 2)
    assert not found.rows.any()
    with pytest.raises(ValueError, match=r"channels has \[20\]"):
        strongest_activations(net, "classifier.1", [images(2)], 5, [20])
    with pytest.raises(ValueError, match="no tiles"):
        strongest_activations(net, "classifier.1", [], 5)


def test_a_patch_at_the_border_shows_its_padding():
    tile = np.arange(2 * 4 * 5, dtype=np.float32).reshape(2, 4, 5)
    patch = crop(tile, Box(-1, 3, 2, 7))
    assert patch.shape == (2, 3, 4)
    assert np.isnan(patch[:, 0]).all()
    assert np.isnan(patch[:, :, 2:]).all()
    assert np.array_equal(patch[:, 1:, :2], tile[:, :2, 3:])


def test_later_uses_and_maps_with_channels_last():
    tiles = images(3, 40)
    found = strongest_activations(odd("convnext"), "blocks.0.pwconv1", tiles.split(2), 2, [3])
    maps = layer_outputs(odd("convnext"), tiles)["blocks.0.pwconv1"][..., 3]
    assert np.allclose(found.values[0], maps.flatten(1).amax(1).sort(descending=True).values[:2])
    row, column = found.rows[0, 0], found.columns[0, 0]
    assert maps[found.tiles[0, 0], row, column] == pytest.approx(found.values[0, 0])
    found = strongest_activations(odd("odd"), "relu (3)", [tiles], 1)
    maps = layer_outputs(odd("odd"), tiles)["relu (3)"]
    assert np.allclose(found.values[:, 0], maps.amax((0, 2, 3)))
    with pytest.raises(ValueError, match="layer is 'pair'; it does not run, or returns no tensor"):
        strongest_activations(odd("odd"), "pair", [tiles], 1)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet", "layer2.1.relu (2)"), ("strided", "block3.2"), ("alexnet", "features.9")],
)
def test_the_last_relu_whose_output_is_a_map(name, layer):
    net = NETS[name]()
    assert last_map(graph_of(net, images()), receptive_fields(net, images())) == layer


@pytest.mark.parametrize(
    ("name", "layer"), [("convnext", "blocks.1"), ("gated", "conv2"), ("dense", "relu (2)")]
)
def test_the_last_map_of_other_networks(name, layer):
    net = odd(name)
    assert last_map(graph_of(net, images()), receptive_fields(net, images())) == layer


@pytest.mark.parametrize("box", [Box(-5, 1, -2, 3), Box(1, -4, 3, -1), Box(9, 9, 12, 11)])
def test_a_field_in_the_padding_alone_shows_no_pixel(box):
    """Positions at the border of a wide padding see no pixel of the tile."""
    patch = crop(np.ones((3, 6, 6), np.float32), box)
    assert patch.shape == (3, box.bottom - box.top, box.right - box.left)
    assert np.isnan(patch).all()
