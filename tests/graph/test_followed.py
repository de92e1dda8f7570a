"""Which networks are followed, and which are refused with an error that names the layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers.nets import images
from vbp_lightning.attribution import Saliency, UnsupportedNetworkError, VisualBackProp
from vbp_lightning.graph.network_graph import graph_of


class Net(nn.Module):
    """Two blocks and a head; ``between`` replaces the activation and pooling of the first."""

    def __init__(self, between=None, **modules):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2, self.relu2 = nn.Conv2d(4, 4, 3), nn.ReLU()
        self.fc = nn.Linear(4, 2)
        for name, module in modules.items():
            self.add_module(name, module)
        self.between = between or (lambda net, features: net.pool(net.relu1(features)))

    def forward(self, images):
        features = self.between(self, self.bn1(self.conv1(images)))
        features = self.relu2(self.conv2(features))
        return self.fc(features.amax((2, 3)))


def refused(net, *words, inputs=None):
    """Asserts that a network is refused, fused or not, with all words in the message."""
    inputs = images() if inputs is None else inputs
    for fuse in (True, False):
        for mode in (True, False):
            net.train(mode)
            with pytest.raises(UnsupportedNetworkError) as caught:
                VisualBackProp(net, fuse=fuse).attribute(inputs)
            assert net.training is mode
            assert "\n" not in str(caught.value)
            for word in words:
                assert word in str(caught.value)


SAME = {
    "F.relu": lambda net, x: net.pool(F.relu(x)),
    "F.relu in place": lambda net, x: net.pool(F.relu(x, inplace=True)),
    "torch.relu": lambda net, x: net.pool(torch.relu(x)),
    "Tensor.relu_": lambda net, x: net.pool(x.relu_()),
    "clamp": lambda net, x: net.pool(x.clamp(min=0)),
    "clamp in place": lambda net, x: net.pool(x.clamp_(min=0)),
    "clamp_min": lambda net, x: net.pool(torch.clamp_min(x, 0)),
    "threshold": lambda net, x: net.pool(F.threshold(x, 0, 0)),
    "max with zero": lambda net, x: net.pool(torch.maximum(x, torch.zeros(()))),
    "max with zeros": lambda net, x: net.pool(torch.maximum(x, torch.zeros_like(x))),
    "torch.max with zeros": lambda net, x: net.pool(torch.max(x, torch.zeros_like(x))),
    "times its sign": lambda net, x: net.pool(x * (x > 0)),
    "detached": lambda net, x: net.pool(F.relu(x.detach())),
    "channels last": lambda net, x: net.pool(
        F.relu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()
    ),
    "tokens": lambda net, x: net.pool(
        F.relu(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
    ),
    "shuffled channels": lambda net, x: net.pool(
        F.relu(x.view(len(x), 2, 2, *x.shape[2:]).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
    ),
    "split and joined": lambda net, x: net.pool(torch.cat(F.relu(x).split([1, 3], 1), 1)),
    "gate": lambda net, x: net.pool(F.relu(x)) * torch.sigmoid(x.mean((2, 3), keepdim=True)) * 2,
}


@pytest.mark.parametrize("name", SAME)
def test_a_relu_in_any_form_is_followed(name):
    """The mask is that of the same network with a ReLU module."""
    if name != "gate":
        expected = VisualBackProp(Net()).attribute(images())
        made = VisualBackProp(Net(SAME[name])).attribute(images())
        torch.testing.assert_close(made, expected)
    assert VisualBackProp(Net(SAME[name])).chain(images()).names == ("Net", "relu2")


OTHER = {
    "relu6": (F.relu6, F.relu6),
    "hardtanh": (lambda x: F.hardtanh(x, 0, 1), lambda x: F.hardtanh(x, 0, 1)),
    "leaky": (F.leaky_relu, lambda x: F.leaky_relu(x).clamp(min=0)),
    "gelu": (F.gelu, lambda x: F.gelu(x).clamp(min=0)),
    "silu": (F.silu, lambda x: F.silu(x).clamp(min=0)),
    "silu as a product": (lambda x: x * torch.sigmoid(x), lambda x: F.silu(x).clamp(min=0)),
    "hardswish as a product": (
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: 6 * F.hardswish(x).clamp(min=0),
    ),
    "swish as a quotient": (lambda x: x / (1 + torch.exp(-x)), lambda x: F.silu(x).clamp(min=0)),
    "softsign": (F.softsign, lambda x: F.softsign(x).clamp(min=0)),
    "glu": (
        lambda x: F.glu(torch.cat([x.relu(), x], 1), 1) * 1.0,
        lambda x: x.clamp(min=0),
    ),
    "root mean square": (
        lambda x: (lambda y: y * torch.rsqrt(y.pow(2).mean(1, keepdim=True)))(x.relu()),
        lambda x: x.clamp(min=0),
    ),
    "sigmoid": (torch.sigmoid, torch.sigmoid),
    "tanh": (torch.tanh, lambda x: torch.tanh(x).clamp(min=0)),
    "elu": (F.elu, lambda x: F.elu(x).clamp(min=0)),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_activations_count_with_their_positive_part(name):
    act, positive = OTHER[name]
    net = Net(lambda net, x: net.pool(act(x))).double().eval()
    chain = VisualBackProp(net).chain(images().double())
    with torch.no_grad():
        features = positive(net.bn1(net.conv1(images().double())))
    assert len(chain.maps) == 2
    torch.testing.assert_close(chain.maps[-2], features.mean(1, keepdim=True))


IN_THE_POOL = ("attention without a shortcut",)
REFUSED = {
    "abs": lambda net, x: net.pool(x.abs()),
    "where": lambda net, x: net.pool(torch.where(x > 0, x, torch.zeros(()))),
    "masked_fill": lambda net, x: net.pool(x.masked_fill(x < 0, 0.0)),
    "index assignment": lambda net, x: net.pool(assigned(x)),
    "mean of x and |x|": lambda net, x: net.pool((x + x.abs()) / 2),
    "through a view": lambda net, x: net.pool(x.flatten(1).relu().view_as(x)),
    "in place through a view": lambda net, x: (x.view(-1).relu_(), net.pool(x))[1],
    "in place on a channel": lambda net, x: (x[:, :2].relu_(), net.pool(x))[1],
    "largest of the batch": lambda net, x: net.pool(net.relu1(x) / x.amax()),
    "statistics of the batch": lambda net, x: net.pool(net.relu1(x - x.mean(0))),
    "attention": lambda net, x: net.pool(x + attention(net.relu1(x))),
    "attention without a shortcut": lambda net, x: net.pool(attention(net.relu1(x))),
    "attention over patches": lambda net, x: net.pool(patches(net.relu1(x))),
    "mean of all places": lambda net, x: net.pool(net.relu1(x) + x.mean((2, 3), keepdim=True)),
    "depends on data": lambda net, x: net.pool(net.relu1(x) if x.sum() > 0 else x),
    "indexed by data": lambda net, x: net.pool(net.relu1(x)[:, x.mean((0, 2, 3)).argsort()]),
}


def test_networks_that_the_mask_cannot_follow_have_a_saliency():
    net = Net(REFUSED["attention"]).double().eval()
    refused(net, "attention", inputs=images().double())
    pixels = images().double().requires_grad_()
    (expected,) = torch.autograd.grad(net(pixels)[:, 1].sum(), pixels)
    made = Saliency(net, "signed").attribute(images().double(), 1)
    torch.testing.assert_close(made, expected.sum(1, keepdim=True))


def patches(features):
    rows = features.reshape(-1, 6, features.shape[3])
    weights = (rows @ rows.transpose(1, 2)).softmax(-1)
    return (rows + weights @ rows).reshape(features.shape)


def attention(features):
    tokens = features.flatten(2).transpose(1, 2)
    weights = (tokens @ tokens.transpose(1, 2)).softmax(-1)
    return (weights @ tokens).transpose(1, 2).reshape(features.shape)


def assigned(features):
    features = features.clone()
    features[features < 0] = 0
    return features


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused(name):
    refused(Net(REFUSED[name]), "pool" if name in IN_THE_POOL else "Net")


def test_the_error_names_the_operation_and_the_module():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, features):
            return self.conv(features).abs()

    net = nn.Sequential(nn.Sequential(Inner(), nn.Conv2d(4, 4, 3), nn.ReLU()))
    refused(net, "0.0 (Inner)", "abs")

    class Branching(Inner):
        def forward(self, features):
            return self.conv(features) * (1 if features.sum() > 0 else 2)

    refused(nn.Sequential(nn.Sequential(Branching()), nn.ReLU()), "0.0 (Branching)", "torch.export")


def test_relus_in_a_convolutions_own_forward_and_in_a_hook_are_followed():
    class ConvRelu(nn.Conv2d):
        def forward(self, images):
            return F.relu(super().forward(images))

    own = nn.Sequential(ConvRelu(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU())
    hooked = nn.Sequential(nn.Conv2d(3, 4, 3), own[1], nn.ReLU())
    hooked[0].load_state_dict(own[0].state_dict())
    hooked[0].register_forward_hook(lambda module, args, output: F.relu(output))
    plain = nn.Sequential(hooked[0], nn.ReLU(), own[1], nn.ReLU())
    expected = VisualBackProp(own).attribute(images())
    torch.testing.assert_close(VisualBackProp(hooked).attribute(images()), expected)
    assert len(VisualBackProp(plain).chain(images()).names) == 3


def test_relu_function_in_the_head_does_not_matter():
    class Head(Net):
        def forward(self, images):
            features = self.relu2(self.conv2(self.pool(self.relu1(self.conv1(images)))))
            return F.relu(self.fc(F.relu(features.mean((2, 3)))))

    assert VisualBackProp(Head().eval()).attribute(images()).isfinite().all()


def test_functional_pooling_and_convolution_are_followed():
    expected = VisualBackProp(Net()).attribute(images())
    pooled = Net(lambda net, x: F.max_pool2d(net.relu1(x), 2))
    torch.testing.assert_close(VisualBackProp(pooled).attribute(images()), expected)
    unpooled = VisualBackProp(Net(), "unpool").attribute(images())
    torch.testing.assert_close(VisualBackProp(pooled, "unpool").attribute(images()), unpooled)

    class Functional(Net):
        def forward(self, images):
            features = F.conv2d(images, self.conv1.weight, self.conv1.bias)
            features = self.pool(self.relu1(self.bn1(features)))
            return self.relu2(self.conv2(features)).mean((2, 3))

    torch.testing.assert_close(VisualBackProp(Functional()).attribute(images()), expected)


def test_layers_created_during_the_pass_and_shared_layers_are_followed():
    expected = VisualBackProp(Net()).attribute(images())
    made = Net(lambda net, x: nn.MaxPool2d(2)(nn.ReLU()(x)))
    torch.testing.assert_close(VisualBackProp(made).attribute(images()), expected)
    shared = Net(lambda net, x: net.pool(net.relu2(x)))
    assert VisualBackProp(shared).chain(images()).names == ("relu2", "relu2 (2)")
    torch.testing.assert_close(VisualBackProp(shared).attribute(images()), expected)


def test_pixelwise_layers_between_change_no_geometry():
    for layer in (
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4),
        nn.LocalResponseNorm(2),
        nn.Dropout2d(),
        nn.Identity(),
    ):
        net = Net(lambda net, x: net.pool(net.relu1(net.extra(x))), extra=layer)
        chain = VisualBackProp(net).chain(images())
        assert [each.shape[-1] for each in chain.maps] == [30, 13]
    scaled = Net(lambda net, x: net.pool(net.relu1(0.5 * x + 0.1)))
    assert VisualBackProp(scaled).attribute(images()).max() == 1


def test_zero_padding_layers_are_followed():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU()
    )
    expected = VisualBackProp(net).attribute(images())
    padded = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ZeroPad2d(1))
    padded += nn.Sequential(nn.Conv2d(4, 4, 3, 2), nn.ReLU())
    padded[1].load_state_dict(net[0].state_dict())
    padded[4].load_state_dict(net[2].state_dict())
    for name in ("deconv", "nearest", "bilinear"):
        expected = VisualBackProp(net, name).attribute(images())
        torch.testing.assert_close(VisualBackProp(padded, name).attribute(images()), expected)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_padding_modes_are_undone_by_their_adjoint(mode):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode), nn.ReLU()).double()
    image = images().double()
    chain = VisualBackProp(net, "deconv").chain(image, normalize=False)
    pixels = torch.ones_like(image[:, :1]).requires_grad_()
    padded = F.pad(pixels, (1, 1, 1, 1), mode=mode)
    sums = F.conv2d(padded, torch.ones(1, 1, 3, 3).double()) * chain.maps[0]
    (expected,) = torch.autograd.grad(sums.sum(), pixels)
    torch.testing.assert_close(chain.mask, expected)


def test_batch_statistics_in_eval_mode_are_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU())
    refused(net, "1 (BatchNorm2d)", "statistics of the batch")


def test_a_network_without_relu_is_refused():
    refused(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 1)), "no activation")


def test_a_map_that_does_not_depend_on_the_input_is_refused():
    class Detour(Net):
        def forward(self, images):
            features = torch.from_numpy(self.conv1(images).numpy().copy())
            return self.relu1(features).mean((2, 3))

    refused(Detour(), "Detour", "torch.export")


def test_preparation_before_the_first_convolution_is_followed():
    class Prepared(Net):
        def forward(self, images):
            images = (images[:, :2] - images[:, :2].mean((2, 3), keepdim=True)).clamp(-1, 1)
            index = (images[:, :1] - images[:, 1:]) / 2
            return super().forward(torch.cat([images, index], 1))

    mask = VisualBackProp(Prepared()).attribute(images())
    assert mask.max() == 1


class Strided(nn.Module):
    """Three layers with the given strides and a gate or a shortcut."""

    def __init__(self, *strides, shortcut=None, resized=False):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 3, 3, stride, 1) for stride in strides])
        self.shortcut, self.resized = shortcut, resized

    def forward(self, images):
        x = images
        for conv in self.convs:
            x = conv(x).relu()
        if self.resized:
            x = F.interpolate(x, (9, 9), mode="bilinear")
        x = x * x.mean((2, 3), keepdim=True).sigmoid()
        if self.shortcut:
            x = x + F.max_pool2d(images, self.shortcut)
        return x.amax((2, 3))


@pytest.mark.parametrize(
    ("net", "stride"),
    [
        (Strided(2, 2, 2), 8),
        (Strided(2, 1, 3), 6),
        (Strided(1), 1),
        (Strided(2, 2, shortcut=4), 4),
        (Strided(2, (2, 1)), None),
        (Strided(2, 2, resized=True), None),
    ],
)
def test_the_stride_is_that_of_the_last_maps(net, stride):
    assert graph_of(net.eval(), torch.zeros(1, 3, 48, 48)).stride == stride
