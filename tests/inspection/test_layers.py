"""Layers by name, their outputs and their units."""

import re

import pytest
import torch
from torch import nn

from tests.helpers.examples import NETS, images, road
from tests.helpers.hooks import hooked_outputs
from tests.helpers.odd_nets import ODD_NETS, odd
from vbp_lightning import RoadClassifier
from vbp_lightning.graph.network_graph import graph_of
from vbp_lightning.inspection.layers import (
    UnitScore,
    executed_modules,
    features_and_outputs,
    last_linear,
    layer_outputs,
    resolve_layer,
    results,
)


@pytest.mark.parametrize("name", NETS)
def test_every_layer_is_recorded_and_the_last_output_is_that_of_the_network(name):
    net = NETS[name]()
    outputs = layer_outputs(net, images())
    leaves = {key for key, module in net.named_modules() if not list(module.children())}
    assert {key.split(" (")[0] for key in outputs} == leaves
    assert torch.equal(list(outputs.values())[-1], net(images()))
    assert not net.training
    assert not any(module._forward_hooks for module in net.modules())


def test_outputs_are_those_before_a_relu_in_place():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    outputs = layer_outputs(net, images())
    assert outputs["0"].min() < 0
    assert torch.equal(outputs["1"], outputs["0"].relu())


def test_a_module_used_twice_is_recorded_twice():
    relu = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu)
    assert list(layer_outputs(net, images())) == ["0", "1", "2", "1 (2)"]


def test_hooks_and_modes_are_restored_after_an_exception():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(7, 2)).train()
    with pytest.raises(RuntimeError):
        layer_outputs(net, images())
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


def test_a_layer_may_be_named_by_its_end():
    model = RoadClassifier()
    assert resolve_layer(model, "block2", images()) == "network.block2"
    assert resolve_layer(model, "network.block2.0", images()) == "network.block2.0"
    with pytest.raises(ValueError, match=r"layer is 'blok'; choose one of .*network\.block0\.0"):
        resolve_layer(model, "blok", images())
    assert "logits" not in executed_modules(model, images())


def test_the_score_of_a_unit():
    net = NETS["vgg"]()
    maps = layer_outputs(net, images())["0.2"]
    assert torch.equal(UnitScore(net, "0.2", 3, (5, 7))(images()), maps[:, 3, 5, 7])
    assert torch.equal(UnitScore(net, "0.2", 3)(images()), maps[:, 3, 48, 48])
    flat = UnitScore(net, "3", 0)
    assert torch.equal(flat(images()), net(images())[:, 0])
    with pytest.raises(ValueError, match=r"unit is 8; 0\.2 has units 0 to 7"):
        UnitScore(net, "0.2", 8)(images())
    with pytest.raises(ValueError, match=r"the maps of 0\.2 are 96 × 96"):
        UnitScore(net, "0.2", 0, (96, 0))(images())


@pytest.mark.parametrize(("name", "width"), [("strided", 512), ("alexnet", 20), ("resnet", 16)])
def test_features_are_the_inputs_of_the_last_linear_layer(name, width):
    net = NETS[name]()
    layer = last_linear(net, images())
    features, outputs = features_and_outputs(net, layer, images())
    assert features.shape == (2, width)
    assert torch.allclose(net.get_submodule(layer)(features), outputs, atol=1e-5)
    assert torch.equal(outputs, net(images()))


def test_features_of_the_hidden_layer_are_its_relus_output():
    net = road("maxpool").eval()
    features, _ = features_and_outputs(net, last_linear(net, images()), images())
    assert torch.equal(features, layer_outputs(net, images())["hidden.2"])
    with pytest.raises(ValueError, match="no linear layer"):
        last_linear(nn.Sequential(nn.Conv2d(3, 1, 3)), images())


@pytest.mark.parametrize("name", ODD_NETS)
def test_outputs_of_all_modules_are_those_that_hooks_get(name):
    net = odd(name)
    graph = graph_of(net, images(2, 40))
    found = results(graph, images(2, 40), list(graph.outputs.values()))
    expected = hooked_outputs(net, images(2, 40))
    assert list(graph.outputs) == list(expected)
    for values, (layer, wanted) in zip(found, expected.items(), strict=True):
        assert torch.equal(values, wanted), layer
    leaves = hooked_outputs(net, images(2, 40), leaves=True)
    assert list(layer_outputs(net, images(2, 40))) == list(leaves)


def test_a_hook_of_the_user_changes_the_output_of_its_module():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    net[0].register_forward_hook(lambda module, args, output: output + 1)
    outputs = layer_outputs(net, images())
    assert torch.equal(outputs["0"], net[0](images()))
    assert torch.equal(outputs["1"], net(images()))


def test_layers_that_return_several_tensors_or_do_not_run_are_named():
    net = odd("odd")
    for layer in ("pair", "unused", "body.5.conv (2)"):
        with pytest.raises(ValueError, match=rf"layer is '{re.escape(layer)}'; it does not run"):
            UnitScore(net, layer, 0)(images(1, 40))


def test_units_of_later_uses_and_of_maps_with_channels_last():
    net = odd("odd")
    outputs = layer_outputs(net, images(2, 40))
    unit = UnitScore(net, "relu (3)", 2, (5, 7))
    assert torch.equal(unit(images(2, 40)), outputs["relu (3)"][:, 2, 5, 7])
    assert resolve_layer(net, "relu (3)", images(2, 40)) == "relu (3)"
    net = odd("convnext")
    outputs = layer_outputs(net, images(2, 40))
    unit = UnitScore(net, "blocks.1.act", 11, (5, 7))
    assert torch.equal(unit(images(2, 40)), outputs["blocks.1.act"][:, 5, 7, 11])
    with pytest.raises(ValueError, match="units 0 to 15"):
        UnitScore(net, "blocks.1.act", 16)(images(2, 40))


@pytest.mark.parametrize(("name", "width"), [("convnext", 8), ("gated", 8), ("dense", 12)])
def test_features_of_other_networks(name, width):
    net = odd(name)
    layer = last_linear(net, images(2, 40))
    features, outputs = features_and_outputs(net, layer, images(2, 40))
    assert features.shape == (2, width)
    assert torch.allclose(net.get_submodule(layer)(features), outputs, atol=1e-6)
    assert torch.equal(outputs, net(images(2, 40)))
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(width, 3))
    stack = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, width), parametrized)
    assert last_linear(stack, images()) == "3"
