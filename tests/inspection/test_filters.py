"""Filters: folding against the layers themselves, colours against a search."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.examples import NETS, images, road
from tests.helpers.odd_nets import odd
from vbp_lightning.inspection.filters import exciting_colours, filters_of
from vbp_lightning.inspection.layers import layer_outputs


@pytest.mark.parametrize(
    ("name", "layer", "conv", "folded"),
    [
        ("strided", None, "block0.0", "block0.1"),
        ("maxpool", "block2", "block2.0", "block2.1"),
        ("alexnet", None, "features.0", None),
        ("vgg", "0.3", "0.3", "0.4"),
        ("resnet", "layer2.0.downsample", "layer2.0.downsample.0", "layer2.0.downsample.1"),
    ],
)
def test_folded_filters_give_the_layers_output(name, layer, conv, folded):
    net = NETS[name]()
    found = filters_of(net, images(), layer)
    assert (found.layer, found.folded) == (conv, folded)
    assert found.first == (layer is None)
    module = net.get_submodule(conv)
    kept = {}
    handle = module.register_forward_pre_hook(
        lambda _, args: kept.setdefault("read", args[0].clone())
    )
    net(images())
    handle.remove()
    outputs = layer_outputs(net, images())
    mine = nn.functional.conv2d(
        kept["read"],
        torch.from_numpy(found.weights),
        torch.from_numpy(found.offsets),
        module.stride,
        module.padding,
        groups=module.groups,
    )
    assert torch.allclose(mine, outputs[folded or conv], atol=1e-4)


def test_for_other_layers_all_convolutions_are_listed():
    with pytest.raises(ValueError, match=r"choose a convolution: block0\.0, block1\.0"):
        filters_of(road("strided").eval(), images(), "prob")
    with pytest.raises(ValueError, match="no convolution"):
        filters_of(nn.Sequential(nn.Flatten(), nn.Linear(3 * 96 * 96, 1)), images())


def test_no_colour_at_the_same_distance_has_a_larger_response():
    weights = np.random.default_rng(0).normal(size=(5, 3, 1, 1)).astype(np.float32)
    weights[4] = 0
    colours = exciting_colours(weights)
    others = np.random.default_rng(1).normal(size=(1000, 3))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    responses = others @ weights[:, :, 0, 0].T
    assert (responses.max(axis=0) <= (colours * weights[:, :, 0, 0]).sum(axis=1) + 1e-6).all()
    assert not colours[4].any()


def test_a_batch_norm_that_reads_more_than_the_convolution_is_not_folded():
    net = odd("dense")
    assert filters_of(net, images(2, 40), "conv0").folded is None
    assert filters_of(net, images(2, 40), "conv1").folded is None
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.BatchNorm2d(4), nn.ReLU())
    assert filters_of(chain, images(2, 40)).folded == "2"
