"""Features of tiles against an independent forward pass, and the choice of evenly spread tiles."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.examples import images
from vbp_lightning.errors import UserError
from vbp_lightning.explaining import tile_sources
from vbp_lightning.explaining.features import features_of
from vbp_lightning.explaining.tile_sources import compared_tiles, evenly_spread, in_batches


class Stack:
    """Tiles in memory that remember which were read at once."""

    def __init__(self, tiles):
        self.tiles = tiles
        self.reads = []

    def read(self, numbers):
        self.reads.append(list(numbers))
        return self.tiles[list(numbers)]


def subject(model):
    return SimpleNamespace(model=model, device=torch.device("cpu"))


def test_features_are_the_inputs_of_the_last_linear_layer():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
    net = nn.Sequential(*layers, nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 2))
    tiles = images(70, 8)
    source = Stack(tiles)
    numbers = [69, 0, *range(1, 67)]
    features, outputs = features_of(subject(net), source, numbers)
    assert source.reads == [numbers[:64], numbers[64:]]
    net.eval()
    with torch.no_grad():
        expected = torch.cat([net[:6](tile[None]) for tile in tiles[numbers]])
    assert np.allclose(features, expected.numpy(), atol=1e-6)
    scores = expected.numpy() @ net[6].weight.detach().numpy().T + net[6].bias.detach().numpy()
    assert np.allclose(outputs, scores, atol=1e-6)
    assert features.dtype == outputs.dtype == np.float32


def test_a_network_without_a_linear_layer_is_one_line():
    with pytest.raises(UserError, match="the network has no linear layer"):
        features_of(subject(nn.Conv2d(3, 1, 1)), Stack(images(2)), [0])


def test_numbers_are_evenly_spread():
    assert evenly_spread(5, 8).tolist() == [0, 1, 2, 3, 4]
    assert evenly_spread(9, 5).tolist() == [0, 2, 4, 6, 8]
    spread = evenly_spread(100_001)
    assert len(set(spread.tolist())) == 20_000
    assert (spread[0], spread[-1]) == (0, 100_000)
    assert set(np.diff(spread)) == {5, 6}


def test_a_line_says_that_not_all_tiles_are_compared(capsys, monkeypatch):
    assert compared_tiles(range(10)) == list(range(10))
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(tile_sources, "MOST_TILES", 3)
    monkeypatch.setattr(evenly_spread, "__defaults__", (3,))
    assert compared_tiles([7, 8, 20, 21, 30]) == [7, 20, 30]
    assert capsys.readouterr().out == "3 evenly spread tiles of 5 are used\n"


def test_batches_come_in_the_order_of_the_numbers():
    tiles = torch.arange(130).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    order = list(range(129, -1, -1))
    batches = list(in_batches(Stack(tiles), order, "Reading"))
    assert [len(batch) for batch in batches] == [64, 64, 2]
    assert torch.cat(batches)[:, 0, 0, 0].tolist() == order
