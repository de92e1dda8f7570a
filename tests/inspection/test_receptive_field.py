"""Receptive fields against values computed by hand and against gradients."""

import pytest
import torch
from torch import nn

from tests.helpers.examples import NETS, images
from tests.helpers.hooks import hooked_outputs
from tests.helpers.nets import randomised
from tests.helpers.odd_nets import ODD_NETS, odd
from vbp_lightning.inspection.receptive_field import Box, Unfollowed, receptive_fields


def transparent(net):
    """The same geometry with positive weights and average pooling, so that no gradient vanishes."""
    for name, module in list(net.named_modules()):
        parent = net.get_submodule(name.rpartition(".")[0])
        key = name.rpartition(".")[2]
        if isinstance(module, nn.MaxPool2d):
            pool = nn.AvgPool2d(module.kernel_size, module.stride, module.padding)
            setattr(parent, key, pool)
        elif isinstance(module, nn.AdaptiveMaxPool2d):
            setattr(parent, key, nn.AdaptiveAvgPool2d(module.output_size))
        elif isinstance(module, nn.ReLU):
            setattr(parent, key, nn.Identity())
    for parameter in net.parameters():
        parameter.data = parameter.data.abs() + 0.1
    return net.double()


def probe(net, layer, position, pixels):
    """The box of pixels on which a position of a layer's output depends."""
    pixels = pixels.clone().requires_grad_()
    output = hooked_outputs(net, pixels)[layer]
    score = output.sum() if output.ndim == 2 else output[0, :, position[0], position[1]].sum()
    (gradient,) = torch.autograd.grad(score, pixels)
    return touched(gradient)


def touched(gradient):
    """The box of pixels with a gradient."""
    pixels = gradient[0].abs().sum(dim=0) > 0
    rows, columns = pixels.any(dim=1).nonzero(), pixels.any(dim=0).nonzero()
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


@pytest.mark.parametrize("name", NETS)
def test_every_layer_of_every_net_by_its_gradient(name):
    net = transparent(NETS[name]())
    size = 96 if name == "alexnet" else 40
    pixels = images(1, size).double()
    fields = receptive_fields(net, pixels)
    kept = hooked_outputs(net, pixels)
    assert set(fields) == set(kept)
    for layer, output in kept.items():
        height, width = output.shape[-2:] if output.ndim == 4 else (1, 1)
        for position in {(0, 0), (height // 2, width // 3), (height - 1, width - 1)}:
            expected = probe(net, layer, position, pixels)
            assert fields[layer].box(*position).clipped(size, size) == expected, (layer, position)


def test_by_hand():
    fields = receptive_fields(NETS["strided"](), images(1))
    sizes = {name: fields[name].size for name in ("block0", "block1", "block2", "block3")}
    assert sizes == {"block0": (1, 1), "block1": (3, 3), "block2": (7, 7), "block3": (15, 15)}
    assert fields["block3.2"].box(0, 1) == Box(-7, 1, 8, 16)
    assert fields["prob"].box(0, 0).clipped(96, 96) == Box(0, 0, 96, 96)
    pooled = receptive_fields(NETS["maxpool"](), images(1))
    # 3×3, then (pool 2, 3×3) twice, then the last pool: 3, 3+1+4, 8+2+8, 18+4
    assert [pooled[name].size[0] for name in ("block1", "block2", "block3", "pool3")] == [
        3,
        8,
        18,
        22,
    ]


def test_dilated_uneven_and_padded_windows():
    net = nn.Sequential(
        nn.ZeroPad2d((2, 0, 2, 0)),
        nn.Conv2d(3, 2, (3, 5), stride=(1, 2), dilation=(2, 1)),
        nn.Conv2d(2, 2, 3, padding="same", padding_mode="zeros"),
    )
    net = transparent(randomised(net))
    fields = receptive_fields(net, images(1).double())
    for position in ((0, 0), (11, 13)):
        for layer in ("1", "2"):
            clipped = fields[layer].box(*position).clipped(96, 96)
            assert clipped == probe(net, layer, position, images(1).double())
    assert fields["1"].box(0, 0) == Box(-2, -2, 3, 3)


def test_branches_of_different_size_are_joined_and_gates_depend_on_all_pixels():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.near = nn.Conv2d(3, 4, 1)
            self.far = nn.Conv2d(3, 4, 7, padding=3)
            self.gate = nn.AdaptiveAvgPool2d(1)
            self.after = nn.Conv2d(8, 1, 1)

        def forward(self, pixels):
            both = torch.cat([self.near(pixels), self.far(pixels)], 1)
            return self.after(both), self.gate(both) * both

    fields = receptive_fields(Gated(), images(1))
    assert fields["near"].size == (1, 1)
    assert fields["after"].box(50, 50) == Box(47, 47, 54, 54)
    assert fields["gate"].box(0, 0).clipped(96, 96) == Box(0, 0, 96, 96)


def test_unknown_operations_are_named_and_earlier_layers_are_known():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 2, 2), nn.ReLU())
    fields = receptive_fields(net, images(1))
    assert fields["0"].size == (3, 3)
    assert isinstance(fields["2"], Unfollowed)
    assert "convolution" in str(fields["2"])


@pytest.mark.parametrize("name", ODD_NETS)
def test_every_layer_of_other_networks_by_its_gradient(name):
    net = transparent(odd(name))
    pixels = images(1, 40).double()
    fields = receptive_fields(net, pixels)
    kept = hooked_outputs(net, pixels.requires_grad_())
    assert list(fields) == list(kept)
    for layer, output in kept.items():
        if output.ndim == 4 and output.shape[1] == output.shape[2]:  # channels last
            output = output.permute(0, 3, 1, 2)
        height, width = output.shape[-2:] if output.ndim == 4 else (1, 1)
        assert fields[layer].count.tolist() == [height, width], layer
        for row, column in {(0, 0), (height // 2, width // 3), (height - 1, width - 1)}:
            values = output[0] if output.ndim == 2 else output[0, :, row, column]
            score = (values * torch.arange(1, len(values) + 1)).sum()  # a norm makes the sum zero
            (gradient,) = torch.autograd.grad(score, pixels, retain_graph=True)
            assert fields[layer].box(row, column).clipped(40, 40) == touched(gradient), layer


@pytest.mark.parametrize(
    ("layer", "whole"),
    [
        (nn.BatchNorm2d(4), False),
        (nn.GroupNorm(2, 4), True),
        (nn.InstanceNorm2d(4), True),
        (nn.LayerNorm([4, 10, 10]), True),
        (nn.Softmax2d(), False),
        (nn.Softmax(-1), True),
        (nn.Softmax(2), True),
        (nn.ChannelShuffle(2), False),
    ],
)
def test_statistics_over_places_depend_on_the_whole_image(layer, whole):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), layer, nn.Conv2d(4, 2, 1)).eval()
    fields = receptive_fields(net, images(1, 10))
    assert [fields[layer].count.tolist() for layer in "12"] == [[10, 10], [10, 10]]
    field = fields["2"]
    box = field.box(5, 5).clipped(10, 10)
    assert box == (Box(0, 0, 10, 10) if whole else Box(4, 4, 7, 7))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "zeros"])
def test_padding_with_pixels_from_near_the_border(mode):
    net = nn.Sequential(nn.Conv2d(3, 4, (3, 5), padding=(1, 2), padding_mode=mode), nn.ReLU())
    field = receptive_fields(net, images(1, 10))["1"]
    assert field.box(0, 4) == Box(-1, 2, 2, 7)
    assert field.count.tolist() == [10, 10]


def test_blocks_of_pixels_as_channels_and_crops():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.PixelUnshuffle(2)
            self.conv = nn.Conv2d(12, 4, 3)
            self.crop = nn.ZeroPad2d(-1)
            self.end = nn.Conv2d(4, 1, 1)

        def forward(self, pixels):
            return self.end(self.crop(self.conv(self.blocks(pixels)))[:, :, 1:, ::2]).mean((2, 3))

    fields = receptive_fields(Net(), images(1, 16))
    assert fields["blocks"].box(1, 2) == Box(2, 4, 4, 6)
    assert fields["conv"].box(0, 0) == Box(0, 0, 6, 6)
    assert fields["crop"].box(0, 0) == Box(2, 2, 8, 8)
    assert fields["end"].box(0, 1) == Box(4, 6, 10, 12)


def test_a_map_of_one_place_that_is_added_to_all_places():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Conv2d(3, 4, 10)
            self.all = nn.Conv2d(3, 4, 1)
            self.end = nn.Conv2d(4, 1, 1)

        def forward(self, pixels):
            return self.end(self.all(pixels) + self.one(pixels)).mean((2, 3))

    field = receptive_fields(Net(), images(1, 10))["end"]
    assert isinstance(field, Unfollowed) or field.box(5, 5).clipped(10, 10) == Box(0, 0, 10, 10)
