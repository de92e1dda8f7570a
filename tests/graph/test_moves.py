"""Operations that only move values, against the gradient of the same moves on one channel."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from vbp_lightning.attribution import VisualBackProp

# Of any (N, C, H, W), of one channel as of many.
OVER_PLACES = {
    "rolled": lambda x: torch.roll(x, (1, -2), (2, 3)),
    "mirrored": lambda x: x.flip(3),
    "rotated": lambda x: torch.rot90(x, 1, (2, 3)),
    "transposed": lambda x: x.transpose(2, 3),
    "every second": lambda x: x[:, :, 1::2, ::2],
    "cropped": lambda x: x[:, :, 2:-1, 1:],
    "padded": lambda x: F.pad(x, (1, 2, 0, 3), value=7.0),
    "mirrored at the border": lambda x: F.pad(x, (2, 1, 1, 2), mode="reflect"),
    "wrapped": lambda x: F.pad(x, (1, 1, 2, 2), mode="circular"),
    "cut by padding": lambda x: F.pad(x, (-1, 1, 2, -2)),
    "tiled": lambda x: x.repeat(1, 1, 2, 1),
    "repeated": lambda x: x.repeat_interleave(2, 3),
    "enlarged": lambda x: F.interpolate(x, size=(11, 9)),
    "rows picked": lambda x: x.index_select(2, torch.arange(4)),
    "columns picked": lambda x: x[..., torch.tensor([-1, 0, 0])],
    "with its mirror image": lambda x: x + x.flip(2),
}
# Round trips, and permutations of channels: places stay where they are.
STILL = {
    "channels last": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "tokens": lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2).reshape(x.shape),
    "flat": lambda x: x.flatten(1).view_as(x),
    "shuffled": lambda x: F.channel_shuffle(x, 2) if x.shape[1] == 4 else x,
    "channels reversed": lambda x: x.flip(1),
    "channels picked": lambda x: x[:, [2, 0, 1, 3]] if x.shape[1] == 4 else x,
    "columns first": lambda x: x.permute(0, 3, 2, 1).clone().permute(0, 3, 2, 1),
    "windows": lambda x: (
        (x.unflatten(2, (2, -1)).permute(2, 0, 1, 3, 4).flatten(0, 1).unflatten(0, (2, -1)))
        .permute(1, 2, 0, 3, 4)
        .flatten(2, 3)
        if x.shape[2] % 2 == 0
        else x
    ),
}
MOVES = {**OVER_PLACES, **STILL}


class Net(nn.Module):
    def __init__(self, moves):
        super().__init__()
        torch.manual_seed(0)
        self.moves = moves
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 2, padding=1)

    def forward(self, images):
        features = self.conv1(images).relu()
        for name in self.moves:
            features = MOVES[name](features)
        return self.conv2(features).relu().amax((2, 3))


def expected_mask(net, images):
    """The gradient of the network with sums for convolutions and averages for activations."""
    with torch.no_grad():
        first = net.conv1(images).relu()
        moved = first
        for name in net.moves:
            moved = MOVES[name](moved)
        second = net.conv2(moved).relu().mean(1, keepdim=True)
    pixels = torch.ones_like(images[:, :1]).requires_grad_()
    values = F.conv2d(pixels, torch.ones(1, 1, 3, 3).double(), padding=1)
    values = values * first.mean(1, keepdim=True)
    zero = values.detach() * 0
    for name in net.moves:  # what is padded does not depend on the pixels
        values, zero = MOVES[name](values), MOVES[name](zero)
    values = F.conv2d(values - zero, torch.ones(1, 1, 2, 2).double(), padding=1) * second
    return torch.autograd.grad(values.sum(), pixels)[0]


def agrees(moves):
    net = Net(moves).double().eval()
    images = torch.rand(2, 3, 24, 20, dtype=torch.float64)
    mask = VisualBackProp(net, "deconv").attribute(images, normalize=False)
    torch.testing.assert_close(mask, expected_mask(net, images))


@pytest.mark.parametrize("name", MOVES)
def test_one_move(name):
    agrees([name])


@given(st.lists(st.sampled_from(sorted(MOVES)), min_size=2, max_size=3))
@settings(max_examples=8, deadline=None)
def test_several_moves(moves):
    features = torch.zeros(2, 4, 24, 20)
    for name in moves:
        assume(min(features.shape[2:]) > 4)
        features = MOVES[name](features)
    assume(min(features.shape[2:]) > 0)
    agrees(moves)


def test_places_that_become_channels_are_averaged_with_them():
    """Blocks of 2 × 2 pixels as channels, averaged, and the mask goes to the whole block."""

    class Blocks(nn.Module):
        def forward(self, images):
            return F.pixel_unshuffle(images, 2).relu().mean((2, 3))

    class Slices(nn.Module):
        def forward(self, images):
            parts = [images[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
            return torch.cat(parts, 1).relu().mean((2, 3))

    image = torch.arange(16.0).view(1, 1, 4, 4)
    expected = F.avg_pool2d(image, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    for net in (Blocks(), Slices()):
        assert torch.equal(
            VisualBackProp(net, "deconv").attribute(image, normalize=False), expected
        )


class SpaceToDepth(nn.Module):
    """Blocks of 2 × 2 pixels as channels, written in three ways."""

    def __init__(self, way):
        super().__init__()
        self.way, self.first = way, nn.Conv2d(3, 2, 1)
        self.second, self.third = nn.Linear(8, 5), nn.Conv2d(5, 4, 3, padding=1)

    def features(self, images):
        first = self.first(images).relu()
        blocks = first.unflatten(2, (-1, 2)).unflatten(4, (-1, 2))  # n, c, h, 2, w, 2
        if self.way == "unshuffle":
            blocks = F.pixel_unshuffle(first, 2).permute(0, 2, 3, 1)
        elif self.way == "channels first":
            blocks = blocks.permute(0, 1, 3, 5, 2, 4).flatten(1, 3).permute(0, 2, 3, 1)
        else:
            blocks = blocks.permute(0, 2, 4, 3, 5, 1).flatten(3)
        second = self.second(blocks).relu().permute(0, 3, 1, 2)
        return first, second, self.third(second).relu()

    def forward(self, images):
        return self.features(images)[-1].mean((2, 3))


@pytest.mark.parametrize(
    ("way", "size"),
    [("channels last", (8, 6)), ("channels last", (6, 2)), ("channels first", (2, 6)),
     ("channels first", (8, 6)), ("unshuffle", (6, 2)), ("unshuffle", (2, 6))],
)  # fmt: skip
def test_blocks_of_pixels_as_channels_in_any_layout(way, size):
    net, images = SpaceToDepth(way).eval().double(), torch.rand(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        first, second, third = (each.mean(1, keepdim=True) for each in net.features(images))
    mask = second * F.conv_transpose2d(third, third.new_ones(1, 1, 3, 3), padding=1)
    expected = first * mask.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(
        VisualBackProp(net, "deconv").attribute(images, normalize=False), expected
    )
