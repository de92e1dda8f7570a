"""Networks are inspected inside ``torch.inference_mode`` too, and are left as they were."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.examples import images
from tests.helpers.odd_nets import odd
from vbp_lightning.evaluation.faithfulness import deletion
from vbp_lightning.evaluation.sanity import cascade
from vbp_lightning.inspection.class_model import LogOdds, ScoreModel, ascend, fool
from vbp_lightning.inspection.filters import filters_of
from vbp_lightning.inspection.layer_gradients import layer_gradients
from vbp_lightning.inspection.layers import (
    UnitScore,
    features_and_outputs,
    layer_outputs,
    resolve_layer,
)
from vbp_lightning.inspection.maximal_patches import strongest_activations
from vbp_lightning.inspection.receptive_field import receptive_fields

RELEVANCE = np.arange(2 * 40 * 40, dtype=np.float32).reshape(2, 40, 40)

INSPECTIONS = {
    "layer_outputs": lambda net, tiles: list(layer_outputs(net, tiles).values()),
    "resolve_layer": lambda net, tiles: resolve_layer(net, "0.conv1", tiles),
    "features": lambda net, tiles: list(features_and_outputs(net, "0.fc", tiles)),
    "filters": lambda net, tiles: torch.from_numpy(filters_of(net, tiles, "0.conv1").weights),
    "fields": lambda net, tiles: receptive_fields(net, tiles)["0.conv1"].size,
    "patches": lambda net, tiles: strongest_activations(net, "0.conv2", [tiles], 1).values,
    "gradients": lambda net, tiles: layer_gradients(net, [tiles], 1)["0.conv1"].norms,
    "ascend": lambda net, tiles: ascend(ScoreModel(net, 1), tiles[0], range(2), 2, jitter=1).image,
    "unit": lambda net, tiles: ascend(UnitScore(net, "0.far", 1), tiles[0], range(2), 2).image,
    "fool": lambda net, tiles: fool(LogOdds(net, 1), tiles[0], range(2)).image,
    "deletion": lambda net, tiles: deletion(net, tiles, RELEVANCE, 1, 2),
    "cascade": lambda net, tiles: [stage.layer for stage in cascade(net)],
}


class Noise(nn.Module):
    """Draws random numbers in eval mode too, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, output):
        self.calls += 1
        return output + 0 * torch.randn_like(output)


def network():
    """With modules in both modes, some frozen parameters, and random numbers."""
    net = nn.Sequential(odd("gated"), nn.BatchNorm1d(2), Noise()).train()
    net[0].conv1.eval()
    net[0].near.requires_grad_(False)
    return net


@pytest.mark.parametrize("name", INSPECTIONS)
def test_nothing_is_left_behind(name):
    net, tiles = network(), images(2, 40)
    modules = dict(net.named_modules())
    before = [dict(vars(module)) for module in modules.values()]
    own = {key: (id(value), value.clone()) for key, value in net.state_dict(keep_vars=True).items()}
    flags = [parameter.requires_grad for parameter in net.parameters()]
    random = torch.get_rng_state()
    with torch.inference_mode():
        found = INSPECTIONS[name](net, tiles)
    usual = INSPECTIONS[name](net, tiles)
    assert str(found) == str(usual)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(tiles, images(2, 40))
    assert dict(net.named_modules()) == modules
    for module, attributes in zip(modules.values(), before, strict=True):
        assert vars(module).keys() == attributes.keys()
        assert all(vars(module)[key] is value for key, value in attributes.items())
        assert not module._forward_hooks
    for key, value in net.state_dict(keep_vars=True).items():
        assert id(value) == own[key][0]
        assert torch.equal(value, own[key][1]), key
    assert [parameter.requires_grad for parameter in net.parameters()] == flags
    assert all(parameter.grad is None for parameter in net.parameters())
