import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from vbp_lightning.attribution import Saliency, VisualBackProp
from vbp_lightning.evaluation.sanity import cascade, cascade_similarity, rank_correlation
from vbp_lightning.models import RoadNetwork


def maps_by(method, tiles):
    return lambda model: method(model).attribute(tiles, 1)[:, 0].double().numpy()


def network():
    torch.manual_seed(0)
    return RoadNetwork("strided", "hidden", [0.0] * 3, [1.0] * 3).eval()


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 5, (3, 6, 7)), rng.random((3, 6, 7))
    expected = [spearmanr(first[i].ravel(), second[i].ravel()).statistic for i in range(3)]
    np.testing.assert_allclose(rank_correlation(first, second), expected)
    np.testing.assert_allclose(rank_correlation(first, np.exp(first)), 1)
    np.testing.assert_allclose(rank_correlation(first, -first), -1)
    assert rank_correlation(np.ones((1, 3, 3)), rng.random((1, 3, 3))).tolist() == [0]


def test_layers_are_randomised_from_the_output_down():
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    stages = cascade(net, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert [stage.layer for stage in stages] == [
        "prob", "hidden.0", "block3.0", "block2.0", "block1.0", "block0.0"
    ]  # fmt: skip
    assert [stage.part for stage in stages] == ["head"] * 2 + ["convolutional"] * 4
    done = set()
    for stage in stages:
        done.add(stage.layer)
        for name, value in stage.model.state_dict().items():
            if name.endswith("weight") and name.removesuffix(".weight") in done | {stage.layer}:
                assert not torch.equal(value, before[name])
            elif name.endswith("weight") and value.ndim > 1:
                assert torch.equal(value, before[name])
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    again = cascade(net, seed=1)
    assert torch.equal(again[-1].model.block0[0].weight, stages[-1].model.block0[0].weight)


def test_batch_norms_are_initialised_with_their_layer():
    net = network()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(3)
            module.bias.data.fill_(2)
    stage = cascade(net)[2]
    assert stage.layer == "block3.0"
    assert stage.model.block3[1].running_mean.abs().max() == 0
    assert stage.model.block2[1].running_mean.min() == 3


def test_visual_backprop_does_not_depend_on_the_head_and_saliency_does():
    net = network()
    stages = cascade(net)
    tiles = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    head = [stage.part == "head" for stage in stages]
    of_vbp, of_vbp_sizes = cascade_similarity(maps_by(VisualBackProp, tiles), net, stages)
    assert of_vbp.shape == (6, 3)
    np.testing.assert_array_equal(of_vbp, of_vbp_sizes)  # never negative
    np.testing.assert_allclose(of_vbp[head], 1)
    assert of_vbp[-1].max() < 0.99
    of_saliency = cascade_similarity(maps_by(Saliency, tiles), net, stages)[0]
    assert of_saliency[head].max() < 0.99


def test_random_signs_hide_places_that_stay_the_same():
    """With unchanged absolute values and random signs, only the absolute values correlate."""
    net = network()
    stages = cascade(net)
    sizes = np.random.default_rng(0).random((2, 96, 96))

    def explain(model):
        number = [net, *(stage.model for stage in stages)].index(model)
        return sizes * np.random.default_rng(number + 1).choice([-1, 1], sizes.shape)

    signed, of_sizes = cascade_similarity(explain, net, stages)
    np.testing.assert_allclose(signed, 0, atol=0.05)
    np.testing.assert_allclose(of_sizes, 1)


def test_a_network_without_layers_is_refused():
    with pytest.raises(ValueError, match="no convolution"):
        cascade(nn.Sequential(nn.ReLU()))
