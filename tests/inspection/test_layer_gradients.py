"""Gradients by layer against autograd and examples computed by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.examples import NETS, images
from tests.helpers.odd_nets import ODD_NETS, odd
from vbp_lightning.inspection.layer_gradients import diagnoses, layer_gradients


@pytest.mark.parametrize("name", NETS)
def test_every_layer_of_every_net(name):
    net = NETS[name]().train()
    flow = layer_gradients(net, images(4).split(3), 1)
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    leaves = {key for key, module in net.named_modules() if not list(module.children())}
    assert {key.split(" (")[0] for key in flow} == leaves
    for gradient in flow.values():
        assert gradient.norms.shape == (4,)
        assert np.isfinite(gradient.norms).all()


def test_against_autograd_where_something_is_added_in_place():
    net = NETS["resnet"]()
    pixels = images(3)
    flow = layer_gradients(net, [pixels], 1)
    features = net.maxpool(net.relu(net.bn1(net.conv1(pixels)))).detach().requires_grad_()
    score = net.fc(torch.flatten(net.avgpool(net.layer2(net.layer1(features))), 1))[:, 1].sum()
    (gradient,) = torch.autograd.grad(score, features)
    assert np.allclose(flow["maxpool"].norms, gradient.flatten(1).norm(dim=1), rtol=1e-4)


def test_by_hand():
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(8, 1, bias=False))
    net[0].weight.data = torch.tensor([3.0, 0.0]).view(2, 1, 1, 1)
    net[2].weight.data = torch.tensor([[0.0, 0.0, 0.0, 0.01, 0.0, 0.0, 0.0, 0.0]])
    flow = layer_gradients(net, [torch.ones(2, 1, 2, 2)])
    first = flow["0"]
    assert np.allclose(first.norms, [0.01, 0.01])
    assert first.zeros == 14
    assert first.zero_share == pytest.approx(14 / 16)
    assert (first.dead_channels, first.channels) == (1, 2)
    assert first.quantile(0.5) == pytest.approx(0.01, rel=0.13)
    assert flow["2"].norms == pytest.approx([1, 1])


def test_layers_are_named_by_the_rule():
    norms = {"a": 1.0, "b": 2.0, "c": 0.5, "d": 0.0, "e": 150.0, "f": 0.009, "g": float("nan")}
    named = {"d": "dead", "e": "exploding", "f": "vanishing", "g": "exploding"}
    assert diagnoses(norms) == named
    assert diagnoses({"a": 0.0, "b": 0.0}) == {"a": "dead", "b": "dead"}


def test_dead_and_vanishing_layers_are_found():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)) for _ in range(4)),
        nn.Flatten(),
        nn.Linear(3 * 64, 1),
    ).eval()
    net[3][1].weight.data.fill_(0)
    flow = layer_gradients(net, [torch.rand(2, 3, 8, 8)])
    found = diagnoses({name: float(each.norms.mean()) for name, each in flow.items()})
    before = ("0.0", "0.1", "1.0", "1.1", "2.0", "2.1", "3.0")
    assert found == dict.fromkeys(before, "dead")
    net[3][1].weight.data.fill_(1e6)
    flow = layer_gradients(net, [torch.rand(2, 3, 8, 8)])
    found = diagnoses({name: float(each.norms.mean()) for name, each in flow.items()})
    assert found == dict.fromkeys(("3.1", "4", "5"), "vanishing")


@pytest.mark.parametrize("name", ODD_NETS)
def test_gradients_are_those_that_hooks_get(name):
    net = odd(name)
    flow = layer_gradients(net, [images(2, 40)], 1)
    expected, handles = {}, []
    for module_name, module in net.named_modules():
        if not list(module.children()):

            def hook(module, args, output, key=module_name):
                uses = [each for each in expected if each.split(" (")[0] == key]
                key = f"{key} ({len(uses) + 1})" if uses else key
                expected[key] = None
                output.register_hook(lambda gradient: expected.__setitem__(key, gradient.clone()))

            handles.append(module.register_forward_hook(hook))
    pixels = images(2, 40).requires_grad_()
    torch.autograd.grad(net(pixels)[:, 1].sum(), pixels)
    for handle in handles:
        handle.remove()
    expected = {layer: gradient for layer, gradient in expected.items() if gradient is not None}
    assert list(flow) == list(expected)
    for layer, gradient in expected.items():
        norms = gradient.flatten(1).double().norm(dim=1)
        assert np.allclose(flow[layer].norms, norms, rtol=1e-5), layer


def test_channels_that_come_last_are_counted():
    net = odd("convnext")
    net.blocks[1].pwconv2.weight.data[:, :5] = 0
    flow = layer_gradients(net, [images(2, 40)], 1)["blocks.1.act"]
    assert (flow.dead_channels, flow.channels) == (5, 16)
