"""Which networks are followed, and which are refused with an error that names the operation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers.nets import Block, images, randomised
from vbp_lightning.attribution import UnsupportedNetworkError, VisualBackProp


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


FUNCTIONAL = {
    "F.relu": lambda net, x: net.pool(F.relu(x)),
    "F.relu in place": lambda net, x: net.pool(F.relu(x, inplace=True)),
    "torch.relu": lambda net, x: net.pool(torch.relu(x)),
    "Tensor.relu_": lambda net, x: net.pool(x.relu_()),
    "between module and pooling": lambda net, x: F.relu(net.pool(net.relu1(x))),
    "clamp": lambda net, x: net.pool(x.clamp(min=0)),
    "clamp in place": lambda net, x: net.pool(x.clamp_(min=0)),
    "clamp_min": lambda net, x: net.pool(torch.clamp_min(x, 0)),
    "relu6": lambda net, x: net.pool(F.relu6(x)),
    "hardtanh": lambda net, x: net.pool(F.hardtanh(x, 0, 1)),
    "threshold": lambda net, x: net.pool(F.threshold(x, 0, 0)),
    "leaky": lambda net, x: net.pool(F.leaky_relu(x)),
    "gelu": lambda net, x: net.pool(F.gelu(x)),
    "sigmoid": lambda net, x: net.pool(torch.sigmoid(x)),
    "abs": lambda net, x: net.pool(x.abs()),
    "max with zero": lambda net, x: net.pool(torch.maximum(x, torch.zeros(()))),
    "max with zeros": lambda net, x: net.pool(torch.maximum(x, torch.zeros_like(x))),
    "where": lambda net, x: net.pool(torch.where(x > 0, x, torch.zeros(()))),
    "times its sign": lambda net, x: net.pool(x * (x > 0)),
    "masked_fill": lambda net, x: net.pool(x.masked_fill(x < 0, 0.0)),
    "index assignment": lambda net, x: net.pool(assigned(x)),
    "mean of x and |x|": lambda net, x: net.pool((x + x.abs()) / 2),
    "through a view": lambda net, x: net.pool(x.flatten(1).relu().view_as(x)),
    "in place through a view": lambda net, x: (x.view(-1).relu_(), net.pool(x))[1],
    "in place on a channel": lambda net, x: (x[:, :2].relu_(), net.pool(x))[1],
    "detached": lambda net, x: net.pool(F.relu(x.detach())),
    "out=": lambda net, x: net.pool(torch.clamp(x, min=0, out=torch.empty_like(x))),
}


def assigned(features):
    features = features.clone()
    features[features < 0] = 0
    return features


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_functional_relu_is_refused(name):
    refused(Net(FUNCTIONAL[name]), "VisualBackProp cannot follow")


def test_the_error_names_the_operation_and_the_module():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, features):
            return F.relu(self.conv(features))

    net = nn.Sequential(nn.Sequential(Inner(), nn.Conv2d(4, 4, 3), nn.ReLU()))
    refused(net, "0.0 (Inner)", "calls relu as a function", "nn.ReLU")


def test_last_relu_as_a_function_is_refused():
    """No later operation would show that its map is missing."""

    class Last(Net):
        def forward(self, images):
            features = self.pool(self.relu1(self.conv1(images)))
            return self.fc(F.relu(self.conv2(features)).amax((2, 3)))

    refused(Last(), "Last", "relu as a function")

    class Flat(Net):
        def forward(self, images):
            features = self.conv2(self.pool(self.relu1(self.conv1(images))))
            return F.relu(features.flatten(1)).sum(1)

    refused(Flat(), "Flat", "relu")


def test_relu_in_a_convolutions_own_forward_is_refused():
    class ConvRelu(nn.Conv2d):
        def forward(self, images):
            return F.relu(super().forward(images))

    net = nn.Sequential(ConvRelu(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU())
    refused(net, "0 (ConvRelu)", "relu as a function")


def test_relu_in_a_hook_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU())
    net[0].register_forward_hook(lambda module, args, output: F.relu(output))
    refused(net, "relu")


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
def test_other_padding_modes_are_refused_by_name(mode):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode), nn.ReLU())
    refused(net, "0 (Conv2d)", f"padding_mode='{mode}'")


def test_operations_without_a_rule_are_refused_by_name():
    refused(
        Net(lambda net, x: net.up(net.relu1(x)), up=nn.Upsample(scale_factor=2)), "up (Upsample)"
    )
    refused(
        Net(lambda net, x: net.up(net.relu1(x)), up=nn.ConvTranspose2d(4, 4, 2)),
        "up (ConvTranspose2d)",
    )
    refused(Net(lambda net, x: net.act(x), act=nn.LeakyReLU()), "act (LeakyReLU)")
    refused(Net(lambda net, x: net.act(x), act=nn.SiLU()), "act (SiLU)")
    refused(Net(lambda net, x: net.pool(torch.flip(net.relu1(x), (3,)))), "flip")
    refused(
        Net(lambda net, x: net.pool(net.relu1(x).transpose(2, 3))), "pool (MaxPool2d)", "Net put"
    )
    refused(Net(lambda net, x: torch.cat([net.relu1(x)] * 2, 1)[:, :4]), "cat")
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())
    refused(Net(lambda net, x: x * net.gate(net.relu1(x)), gate=gate), "mul")


def test_adaptive_pooling_within_the_convolutional_part_is_refused():
    net = Net(lambda net, x: net.adapt(net.relu1(x)), adapt=nn.AdaptiveMaxPool2d(7))
    refused(net, "relu2 (ReLU)", "AdaptiveMaxPool2d")


def test_batch_statistics_in_eval_mode_are_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU())
    refused(net, "1 (BatchNorm2d)", "statistics of the batch")


def test_a_network_without_relu_is_refused():
    refused(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 1)), "no nn.ReLU")


def test_a_map_that_does_not_depend_on_the_input_is_refused():
    class Detour(Net):
        def forward(self, images):
            features = torch.from_numpy(self.conv1(images).numpy().copy())
            return self.relu1(features).mean((2, 3))

    refused(Detour(), "relu1 (ReLU)", "cannot be traced")


def test_residual_main_path_has_the_most_convolutions():
    """The mask of a block is that of its main path; the shortcut only adds to the activations."""
    net = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Block(4, 6, 2))).double()
    block = net[2]
    mask = VisualBackProp(net, fuse=False).attribute(images().double(), normalize=False)
    with torch.no_grad():
        first = net[:2](images().double())
        inner = block.relu(block.bn1(block.conv1(first)))
        last = block(first)
        ones = torch.ones(1, 1, 3, 3).double()
        expected = F.conv_transpose2d(last.mean(1, keepdim=True), ones, padding=1)
        expected = expected * inner.mean(1, keepdim=True)
        expected = F.conv_transpose2d(expected, ones, stride=2, padding=1, output_padding=1)
        expected = F.conv_transpose2d(expected * first.mean(1, keepdim=True), ones)
    torch.testing.assert_close(mask, expected)


def test_equal_branches_and_maps_beside_the_main_path_are_refused():
    twins = {"a": nn.Conv2d(4, 4, 3, padding=1), "b": nn.Conv2d(4, 4, 1)}
    refused(Net(lambda net, x: net.a(net.relu1(x)) + net.b(net.relu1(x)), **twins), "2 branches")

    def shortcut(net, features):
        features = net.relu1(features)
        return net.b(net.a(features)) + net.act(features)

    refused(Net(shortcut, **twins, act=nn.ReLU()), "act (ReLU)", "beside the main path")


def test_preparation_before_the_first_convolution_is_followed():
    class Prepared(Net):
        def forward(self, images):
            images = (images[:, :2] - images[:, :2].mean((2, 3), keepdim=True)).clamp(-1, 1)
            index = (images[:, :1] - images[:, 1:]) / 2
            return super().forward(torch.cat([images, index], 1))

    mask = VisualBackProp(Prepared()).attribute(images())
    assert mask.max() == 1
