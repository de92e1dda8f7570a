"""Layers by name, their outputs and their units."""

import pytest
import torch
from torch import nn

from tests.helpers.examples import NETS, images, road
from vbp_lightning import RoadClassifier
from vbp_lightning.inspection.layers import (
    UnitScore,
    executed_modules,
    features_and_outputs,
    last_linear,
    layer_outputs,
    resolve_layer,
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
