"""The family of Grad-CAM, compared with its formulas written as loops, and the heads of CAM."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers.nets import NETS
from vbp_lightning.attribution import (
    Cam,
    EigenCam,
    GradCam,
    HiResCam,
    LayerCam,
    UnsupportedNetworkError,
)


def images(count=2, size=32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(3)).double()


def maps_and_gradients(model, layer, x, target):
    """The output of a module and its gradient, by hooks."""
    kept = []
    hook = model.get_submodule(layer).register_forward_hook(
        lambda m, i, out: kept.append(out) or 1 * out  # the next layer may work in place
    )
    scores = model(x)
    hook.remove()
    (gradient,) = torch.autograd.grad(scores[:, target].sum(), kept[-1])
    return kept[-1].detach(), gradient


def by_loops(maps, weights):
    """The sum over channels of maps ``(K, h, w)`` times weights."""
    return sum(weight * channel for weight, channel in zip(weights, maps, strict=True))


FORMULAS = {
    GradCam: lambda gradient: gradient.mean((1, 2), keepdim=True).expand_as(gradient),
    HiResCam: lambda gradient: gradient,
    LayerCam: lambda gradient: torch.where(gradient > 0, gradient, 0.0),
}


@cache
def network(name):
    """The same network in every test, since each is exported once."""
    return NETS[name]().double()


LAYERS = {"resnet": "layer2", "densenet": "norm", "maxpool": "pool2"}


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("net", LAYERS)
@pytest.mark.parametrize("method", FORMULAS, ids=lambda method: method.__name__)
def test_sums_of_maps_by_their_formulas(method, net, relu):
    model, x = network(net), images()
    target = -1
    maps, gradients = maps_and_gradients(model, LAYERS[net], x, target)
    made = method(model, LAYERS[net], relu).attribute(x, 1)
    for sample in range(2):
        small = by_loops(maps[sample], FORMULAS[method](gradients[sample]))
        small = small.clamp(min=0) if relu else small
        expected = F.interpolate(small[None, None], size=(32, 32), mode="bilinear")
        torch.testing.assert_close(made[sample : sample + 1], expected, rtol=1e-9, atol=1e-12)


def test_hires_cam_adds_up_to_the_score_behind_a_linear_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    x, model = images(size=8), model.double()
    made = HiResCam(model, "1", relu=False)
    maps, gradient = maps_and_gradients(model, "1", x, 1)
    small = made.combined(maps, gradient)
    torch.testing.assert_close(small.sum((1, 2, 3)) + model[3].bias[1], model(x)[:, 1])


@pytest.mark.parametrize("net", LAYERS)
def test_eigen_cam_by_power_iteration(net):
    model, x = network(net), images()
    made = EigenCam(model, LAYERS[net], relu=False).attribute(x)
    assert torch.equal(EigenCam(model, LAYERS[net], relu=False).attribute(x, 0), made)
    maps, _ = maps_and_gradients(model, LAYERS[net], x, -1)
    for sample in range(2):
        places = maps[sample].flatten(1).T
        direction = torch.ones(places.shape[1], dtype=torch.float64)
        for _ in range(1500):
            direction = places.T @ (places @ direction)
            direction = direction / direction.norm()
        projected = places @ direction
        small = (projected if projected.sum() >= 0 else -projected).view(maps.shape[2:])
        expected = F.interpolate(small[None, None], size=(32, 32), mode="bilinear")
        torch.testing.assert_close(made[sample : sample + 1], expected, rtol=1e-6, atol=1e-9)


def test_the_sign_of_eigen_cam_makes_its_sum_positive():
    maps = torch.randn(5, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    made = EigenCam(nn.Identity()).combined(maps, maps)
    assert (made.sum((1, 2, 3)) > 0).all()
    torch.testing.assert_close(EigenCam(nn.Identity()).combined(-maps, maps), made)


class Head(nn.Module):
    """Two convolutions and a head that is a function of the maps and a linear layer."""

    def __init__(self, head):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU())
        self.linear = nn.Linear(5, 3)
        self.head = head

    def forward(self, x):
        return self.head(self.features(x), self.linear)


def places_last(maps, linear):
    return linear(maps.permute(0, 2, 3, 1).mean((1, 2)))


HEADS = {
    "module": lambda maps, linear: linear(nn.AdaptiveAvgPool2d(1)(maps).flatten(1)),
    "mean": lambda maps, linear: linear(maps.mean((2, 3))),
    "mean twice": lambda maps, linear: linear(maps.mean(-1).mean(-1)),
    "flat": lambda maps, linear: linear(maps.flatten(2).mean(2)),
    "adaptive": lambda maps, linear: linear(F.adaptive_avg_pool2d(maps, 1).flatten(1)),
    "avg_pool2d": lambda maps, linear: linear(F.avg_pool2d(maps, maps.shape[2:]).squeeze(3, 2)),
    "sum": lambda maps, linear: linear(maps.sum((2, 3)) / maps[0, 0].numel()),
    "dropout": lambda maps, linear: linear(F.dropout(maps.mean((2, 3)), 0.5, False)),
    "matmul": lambda maps, linear: maps.mean((2, 3)) @ linear.weight.T + linear.bias,
    "1x1": lambda maps, linear: F.conv2d(
        maps.mean((2, 3), keepdim=True), linear.weight[..., None, None], linear.bias
    ).flatten(1),
    "channels last": places_last,
}


@pytest.mark.parametrize("head", HEADS)
def test_heads_of_cam_are_found_by_their_operations(head):
    model, x = Head(HEADS[head]).double().eval(), images(size=12)
    maps = model.features(x).detach()
    made = Cam(model).attribute(x, torch.tensor([2, 0]))
    for sample, target in enumerate((2, 0)):
        weight = model.linear.weight[target].detach()
        small = by_loops(maps[sample], weight[:, None, None].expand_as(maps[sample]))
        expected = F.interpolate(small[None, None], size=(12, 12), mode="bilinear")
        torch.testing.assert_close(made[sample : sample + 1], expected, rtol=1e-9, atol=1e-12)


CROPS = {
    "slice": lambda maps: maps[:, :, 2:5, 1:7],
    "pad": lambda maps: F.pad(maps, (-1, -1, -2, -3)),
}


@pytest.mark.parametrize("crop", CROPS)
def test_cropped_maps_stay_at_their_places(crop):
    model = Head(lambda maps, linear: linear(CROPS[crop](maps).mean((2, 3)))).double()
    x = images(size=12)
    maps = model.features(x).detach()
    small = torch.einsum("nkij,k->nij", maps, model.linear.weight[1].detach())[:, None]
    inside = torch.zeros_like(small)
    inside[:, :, 2:5, 1:7] = 1
    expected = F.interpolate(small * inside, size=(12, 12), mode="bilinear")
    torch.testing.assert_close(Cam(model).attribute(x, 1), expected)
    named = GradCam(model, "features").attribute(x, 1)
    torch.testing.assert_close(GradCam(model).attribute(x, 1), named)


OTHER_HEADS = {
    "max": lambda maps, linear: linear(maps.amax((2, 3))),
    "flat": lambda maps, linear: linear(maps.flatten(1)[:, :5]),
    "weighted": lambda maps, linear: linear((maps.flatten(2) * torch.arange(64.0)).mean(2)),
    "square": lambda maps, linear: linear(maps.mean((2, 3)) * maps.mean((2, 3))),
    "norm": lambda maps, linear: linear(F.layer_norm(maps.mean((2, 3)), (5,))),
    "hidden": lambda maps, linear: linear(torch.relu(maps.mean((2, 3)))),
    "reciprocal": lambda maps, linear: linear(1 / (1 + maps.mean((2, 3)))),
    "softmax": lambda maps, linear: linear(maps.mean((2, 3))).softmax(1),
}


@pytest.mark.parametrize("head", OTHER_HEADS)
def test_other_heads_are_refused(head):
    model = Head(OTHER_HEADS[head]).eval()
    with pytest.raises(UnsupportedNetworkError, match=r"model\.head=gap\), unlike Head; grad_cam"):
        Cam(model).attribute(images(size=12).float(), 1)


class ChannelsLast(nn.Module):
    """A block that computes in ``(N, H, W, C)``, as ConvNeXt does, and a head with such a norm."""

    def __init__(self, inner):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 3)
        self.mix = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 2)
        self.inner = inner

    def forward(self, x):
        x = self.stem(x)
        if self.inner:
            x = torch.relu(self.mix(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        else:
            x = torch.relu(F.conv2d(x, self.mix.weight[..., None, None], self.mix.bias))
        pooled = F.adaptive_avg_pool2d(x, 1).permute(0, 2, 3, 1)
        return self.head(self.norm(pooled).flatten(1))


@cache
def channels_last(inner):
    return ChannelsLast(inner).double()


@pytest.mark.parametrize("method", [*FORMULAS, EigenCam])
def test_maps_with_channels_last(method):
    x = images(size=12)
    last, first = channels_last(True), channels_last(False)
    torch.testing.assert_close(last(x), first(x))
    expected = method(first).attribute(x, 1)
    assert expected.any()
    torch.testing.assert_close(method(last).attribute(x, 1), expected)
    assert method(last, "mix", relu=False).attribute(x, 1).shape == (2, 1, 12, 12)


def test_layers_without_places_are_named():
    model = ChannelsLast(True)
    with pytest.raises(UnsupportedNetworkError, match=r"head \(Linear\): its output is no feature"):
        GradCam(model, "head").attribute(images(size=12).float(), 1)
