"""Layer-wise relevance propagation: conservation, agreement with Captum, and refusals."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LRP as CaptumLrp
from captum.attr._utils.lrp_rules import EpsilonRule, GammaRule
from torch import nn

from tests.helpers.nets import NETS, randomised, road
from vbp_lightning.attribution import Lrp, UnsupportedNetworkError
from vbp_lightning.models import RoadNetwork

ALL_NETS = NETS | {"maxpool, gap": lambda: road("maxpool", "gap")}
RULES = [
    {"epsilon": 0.0},
    {"epsilon": 1e-6},
    {"epsilon": 0.3},
    {"gamma": 0.25},
    {"gamma": math.inf, "epsilon": 0.01},
]


def images(count=2, size=32, bands=3, seed=1):
    return 255 * torch.rand(count, bands, size, size, generator=torch.Generator().manual_seed(seed))


def added_up(found):
    return found.pixels.flatten(1).sum(1) + found.biases + found.absorbed


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("net", ALL_NETS)
def test_relevance_is_conserved(net, rule):
    model = ALL_NETS[net]().double()
    x = images(size=72).double() if net == "alexnet" else images().double()
    output = model(x).detach()
    for target in (0, 1):
        found = Lrp(model, **rule).relevance(x, target)
        score = output[:, target] if output.shape[1] > 1 else (2 * target - 1) * output[:, 0]
        torch.testing.assert_close(found.score, score)
        torch.testing.assert_close(added_up(found), score, rtol=1e-9, atol=1e-9)
        if rule.get("epsilon") == 0:
            assert not found.absorbed.any()


@pytest.mark.parametrize("net", ALL_NETS)
def test_without_a_rule_it_is_gradient_times_standardised_pixel(net):
    model = ALL_NETS[net]().double()
    x = images(size=72).double() if net == "alexnet" else images().double()
    if isinstance(model, RoadNetwork):
        x, model = model.normalize(x), nn.Sequential(*list(model)[1:])
    x.requires_grad_()
    score = model(x)[:, -1]
    (gradient,) = torch.autograd.grad(score.sum(), x)
    found = Lrp(model, epsilon=0.0).relevance(x, 1)
    torch.testing.assert_close(found.pixels, (x * gradient).detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", ["strided", "maxpool"])
def test_preprocessing_leaves_relevance_at_its_pixel(architecture):
    model = road(architecture).double()
    rest = nn.Sequential(*list(model)[1:])
    x = images().double()
    whole = Lrp(model, gamma=0.5).attribute(x)
    assert torch.equal(whole, Lrp(rest, gamma=0.5).attribute(model.normalize(x)))


class Chain(nn.Module):
    """A chain of layers for which Captum's rules are correct."""

    def __init__(self, bias=True):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, bias=bias)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(32, 10, bias=bias)
        self.relu3 = nn.ReLU()
        self.out = nn.Linear(10, 4, bias=bias)

    def forward(self, x):
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        return self.out(self.relu3(self.hidden(torch.flatten(x, 1))))


@pytest.mark.parametrize("target", range(4))
@pytest.mark.parametrize("epsilon", [1e-9, 0.05])
def test_equals_captum_on_a_chain_with_the_epsilon_rule(target, epsilon):
    torch.manual_seed(0)
    model = Chain().double()
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    theirs = copy.deepcopy(model)
    for module in theirs.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.rule = EpsilonRule(epsilon)
    expected = CaptumLrp(theirs).attribute(x.clone().requires_grad_(), target=target).detach()
    made = Lrp(model, epsilon=epsilon)
    torch.testing.assert_close(made.relevance(x, target).pixels, expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(made.attribute(x, target), made.relevance(x, target).pixels.sum(1, True))


@pytest.mark.parametrize("target", range(4))
def test_equals_captum_on_a_chain_with_the_gamma_rule(target):
    # Captum's rule assumes positive inputs and does not change biases.
    torch.manual_seed(0)
    model = Chain(bias=False).double()
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    theirs = copy.deepcopy(model)
    for module in theirs.modules():
        if isinstance(module, nn.Conv2d):
            module.rule = GammaRule(0.7)
    expected = CaptumLrp(theirs).attribute(x.clone().requires_grad_(), target=target).detach()
    made = Lrp(model, epsilon=0.0, gamma=0.7).relevance(x, target).pixels
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-7)


def distributed(contributions, value, relevance, epsilon, gamma):
    """The relevance of each contribution to one sum, by the formula of the rule."""
    kept = [c * (1 + gamma * (c * value > 0)) / (1 + gamma) for c in contributions]
    whole = sum(kept)
    whole += epsilon if whole >= 0 else -epsilon
    return [relevance * each / whole for each in kept]


@pytest.mark.parametrize("negative", [False, True], ids=["scale > 0", "scale < 0"])
@pytest.mark.parametrize(("epsilon", "gamma"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.5), (0.1, 2.0)])
def test_a_residual_net_by_naive_loops(epsilon, gamma, negative):
    """A convolution with folded batch norm, a shortcut, a ReLU and a linear layer."""
    torch.manual_seed(5)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)
            self.bn = nn.BatchNorm2d(2)
            self.relu = nn.ReLU(inplace=True)
            self.out = nn.Linear(18, 1)

        def forward(self, x):
            y = self.bn(self.conv(x))
            y += x
            return self.out(self.relu(y).flatten(1))

    net = randomised(Net()).double()
    if negative:
        net.bn.weight.data.neg_()
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    net.requires_grad_(False)
    scale = net.bn.weight / (net.bn.running_var + net.bn.eps).sqrt()
    weight = net.conv.weight * scale.view(-1, 1, 1, 1)
    bias = (net.conv.bias - net.bn.running_mean) * scale + net.bn.bias
    z = F.conv2d(x, weight, bias, padding=1).detach()
    total = z + x
    top = total.clamp(min=0).flatten().tolist()
    score = float(net(x).detach())

    expected = torch.zeros_like(x)
    contributions = [float(w) * a for w, a in zip(net.out.weight[0], top, strict=True)]
    from_top = distributed([*contributions, float(net.out.bias)], score, score, epsilon, 0.0)
    biases = from_top.pop()
    for index, relevance in enumerate(from_top):
        channel, row, column = index // 9, index // 3 % 3, index % 3
        if top[index] == 0:
            continue
        value, shortcut = float(z[0, channel, row, column]), float(x[0, channel, row, column])
        expected[0, channel, row, column] += relevance * shortcut / (value + shortcut)
        relevance *= value / (value + shortcut)
        places = [
            (c, i, j)
            for c in range(2)
            for i in range(3)
            for j in range(3)
            if 0 <= row + i - 1 < 3 and 0 <= column + j - 1 < 3
        ]
        terms = [
            float(weight[channel, c, i, j] * x[0, c, row + i - 1, column + j - 1])
            for c, i, j in places
        ]
        *shares, taken = distributed(
            [*terms, float(bias[channel])], value, relevance, epsilon, gamma
        )
        biases += taken
        for (c, i, j), share in zip(places, shares, strict=True):
            expected[0, c, row + i - 1, column + j - 1] += share
    found = Lrp(net, epsilon, gamma).relevance(x)
    torch.testing.assert_close(found.pixels, expected, rtol=1e-9, atol=1e-12)
    assert float(found.biases) == pytest.approx(biases, rel=1e-9)


@pytest.mark.parametrize(("epsilon", "gamma"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.5), (0.1, 2.0)])
def test_a_dense_net_by_naive_loops(epsilon, gamma):
    """A layer that reads the image, one that reads the image and its features, a linear layer."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(6)
            self.first = nn.Conv2d(2, 2, 1)
            self.second = nn.Conv2d(4, 1, 1)
            self.out = nn.Linear(5, 1)

        def forward(self, x):
            features = torch.cat([x, torch.relu(self.first(x))], 1)
            features = torch.cat([features, torch.relu(self.second(features))], 1)
            return self.out(features.flatten(1))

    net = Net().double().requires_grad_(False)
    net.first.bias.fill_(1.5)  # every ReLU is active
    net.second.bias.fill_(1.5)
    x = torch.randn(1, 2, 1, 1, dtype=torch.float64)
    values, biases, relevance = x.flatten().tolist(), 0.0, [0.0] * 5

    def weights_of(layer, row):
        return layer.weight.flatten(1)[row].tolist(), float(layer.bias[row])

    def total(layer, row):
        weights, bias = weights_of(layer, row)
        return sum(w * a for w, a in zip(weights, values[: len(weights)], strict=True)) + bias

    values += [total(net.first, 0), total(net.first, 1)]
    values += [total(net.second, 0)]
    assert min(values[2:]) > 0

    def pass_down(layer, row, arriving, gamma):
        nonlocal biases
        weights, bias = weights_of(layer, row)
        terms = [w * a for w, a in zip(weights, values[: len(weights)], strict=True)]
        *shares, taken = distributed([*terms, bias], sum(terms) + bias, arriving, epsilon, gamma)
        biases += taken
        for place, share in enumerate(shares):
            relevance[place] += share

    pass_down(net.out, 0, float(net(x)), 0.0)
    pass_down(net.second, 0, relevance[4], gamma)
    pass_down(net.first, 0, relevance[2], gamma)
    pass_down(net.first, 1, relevance[3], gamma)
    found = Lrp(net, epsilon, gamma).relevance(x)
    assert found.pixels.flatten().tolist() == pytest.approx(relevance[:2], rel=1e-9)
    assert float(found.biases) == pytest.approx(biases, rel=1e-9)


def test_every_form_of_addition_is_split_in_proportion():
    """By calculation: 3 · 2 through the branch, 2 through the shortcut, 8 in total."""

    class Net(nn.Module):
        def __init__(self, add):
            super().__init__()
            self.conv = nn.Conv2d(2, 1, 1, bias=False)
            self.conv.weight.data = torch.tensor([3.0, 0.0]).view(1, 2, 1, 1)
            self.add = add

        def forward(self, x):
            return self.add(self.conv(x), 1 * x[:, 1:]).flatten(1)

    def in_place(a, b):
        a += b
        return a

    x = torch.tensor([2.0, 2.0]).view(1, 2, 1, 1)
    ways = [torch.add, in_place, lambda a, b: a.add_(b), lambda a, b: sum([a, b])]
    ways += [lambda a, b: torch.cat([a, b], 1).sum(1), lambda a, b: a - (-b)]
    for add in ways:
        found = Lrp(Net(add), epsilon=0.0).relevance(x)
        assert found.pixels.flatten().tolist() == [6, 2]
        assert float(found.score) == 8


def test_constants_that_are_added_count_as_biases():
    class Net(nn.Module):
        def forward(self, x):
            return (2 * x.mean(dim=(2, 3)) + torch.tensor([5.0])) - 3

    found = Lrp(Net()).relevance(torch.ones(2, 1, 4, 4))
    assert found.biases.tolist() == [2, 2]
    assert found.score.tolist() == [4, 4]


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU6(), nn.LeakyReLU(), nn.GELU(), nn.SiLU(inplace=True), nn.Tanh(), nn.Hardtanh(-1, 0.1)],
    ids=lambda module: type(module).__name__,
)
def test_activations_propagate_their_relevance_unchanged(activation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.Flatten(), nn.Linear(144, 2)).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = Lrp(model, epsilon=0.0).relevance(x, 0)
    torch.testing.assert_close(added_up(found), found.score, rtol=1e-9, atol=1e-9)
    top = model[1](model[0](x)).flatten(1) * model[3].weight[0]
    torch.testing.assert_close(
        found.biases - model[3].bias[0].detach() + found.pixels.sum((1, 2, 3)),
        top.sum(1).detach(),
    )


def hooked(x):
    x.register_hook(lambda gradient: gradient / 2)
    return x


def test_lost_relevance_is_noticed(monkeypatch):
    def halved(value, source):
        return source / 2 + (value - source / 2).detach()

    monkeypatch.setattr("vbp_lightning.attribution.relevance._standing_for", halved)
    with pytest.raises(UnsupportedNetworkError, match="relevance is not conserved"):
        Lrp(Odd(nn.ReLU())).attribute(images(2, 12), 1)


class Odd(nn.Module):
    """One operation between a convolution and the head."""

    def __init__(self, act):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.act = act
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.act(self.conv(x)).mean(dim=(2, 3)))


def detached(x):
    with torch.no_grad():
        return torch.relu(x)


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (nn.Sigmoid(), r"act \(Sigmoid\): there is no rule for sigmoid"),
        (nn.Softmax(1), r"act \(Softmax\): there is no rule for softmax"),
        (nn.GroupNorm(2, 4), r"act \(GroupNorm\): there is no rule for group_norm"),
        (nn.BatchNorm2d(4, track_running_stats=False), "statistics of the batch"),
        (lambda x: x * x.mean(dim=(2, 3), keepdim=True), "mul multiplies or divides features"),
        (lambda x: 1 / (x.abs() + 1), "there is no rule for abs"),
        (lambda x: x.detach(), "there is no rule for detach"),
        (lambda x: x.data, "torch.export cannot follow it"),
        (hooked, "torch.export cannot follow it"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_operations_without_a_rule_are_refused_by_name(act, reason):
    torch.manual_seed(0)
    model = Odd(act)
    with pytest.raises(UnsupportedNetworkError, match=reason):
        Lrp(model).attribute(images(2, 12), 1)
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.training


def test_a_value_may_change_after_its_use_and_be_computed_without_gradients():
    class Net(Odd):
        def forward(self, x):
            y = detached(self.conv(x))
            z = self.conv.weight.sum() * y.amax(dim=(2, 3), keepdim=True)
            y += 1
            return self.out((y + z).mean(dim=(2, 3)))

    found = Lrp(Net(None).double(), epsilon=0.0).relevance(images(2, 12).double(), 1)
    torch.testing.assert_close(added_up(found), found.score, rtol=1e-9, atol=1e-9)


def test_invalid_settings_are_refused():
    for wrong in ({"epsilon": -1.0}, {"gamma": -0.1}, {"epsilon": math.inf}):
        with pytest.raises(ValueError, match=r"must be (at least 0|a finite number)$"):
            Lrp(nn.Identity(), **wrong)


def test_a_maximum_with_zeros_passes_relevance_as_a_relu_does():
    class Largest(nn.Module):
        def forward(self, values):
            return torch.max(values, torch.zeros_like(values))

    def net(activation):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), activation, nn.Flatten(), nn.Linear(4 * 36, 2)
        ).eval()

    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = Lrp(net(nn.ReLU())).attribute(image, target=0)
    torch.testing.assert_close(Lrp(net(Largest())).attribute(image, target=0), expected)
