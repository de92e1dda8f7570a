"""The mask of branching networks against the sum over all paths, written out one path at a time."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vbp_lightning.attribution import VisualBackProp


class Toy(nn.Module):
    """A network from a list of steps: ``name: (operation, names of what it reads)``.

    Args:
        steps: In forward order; ``x`` is the image. Operations are modules, or ``cat``, ``add``,
            ``gate`` (the second operand is a factor) and ``half`` (the first half of the channels).
        ends: The activations from which the head is reached without passing another one.
    """

    def __init__(self, steps, ends):
        super().__init__()
        self.steps, self.ends = steps, ends
        self.layers = nn.ModuleList(op for op, *_ in steps.values() if isinstance(op, nn.Module))

    def features(self, image):
        known = {"x": image}
        for name, (operation, *read) in self.steps.items():
            values = [known[each] for each in read]
            if operation == "cat":
                known[name] = torch.cat(values, 1)
            elif operation == "add":
                known[name] = values[0] + values[1]
            elif operation == "gate":
                known[name] = values[0] * values[1]
            elif operation == "half":
                known[name] = values[0].chunk(2, 1)[0]
            else:
                known[name] = operation(values[0])
        return known

    def forward(self, image):
        return list(self.features(image).values())[-1].mean((2, 3))


def below(layer, pixel, size):
    """The pixels of the input map from which an edge leads to a pixel of the output."""
    if isinstance(layer, nn.Upsample):
        return [(pixel[0] // 2, pixel[1] // 2)]
    if isinstance(layer, nn.ZeroPad2d):
        left, _, top, _ = layer.padding
        found = [(pixel[0] - top, pixel[1] - left)]
    elif isinstance(layer, nn.PixelShuffle):
        found = [(pixel[0] // layer.upscale_factor, pixel[1] // layer.upscale_factor)]
    elif isinstance(layer, nn.ConvTranspose2d):
        found = [
            (row, column)
            for row, column in product(range(size[0]), range(size[1]))
            if all(
                0 <= at - each * layer.stride[0] + layer.padding[0] < layer.kernel_size[0]
                for at, each in zip(pixel, (row, column), strict=True)
            )
        ]
    elif isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        kernel, stride, padding = (
            each if isinstance(each, tuple) else (each, each)
            for each in (layer.kernel_size, layer.stride, layer.padding)
        )
        found = [
            (pixel[0] * stride[0] - padding[0] + i, pixel[1] * stride[1] - padding[1] + j)
            for i, j in product(range(kernel[0]), range(kernel[1]))
        ]
    else:
        return [pixel]
    return [each for each in found if 0 <= each[0] < size[0] and 0 <= each[1] < size[1]]


def path_sum(net, image):
    with torch.no_grad():
        known = net.features(image[None])
    mask = torch.zeros(image.shape[1:], dtype=image.dtype)

    def follow(name, pixel, so_far):
        if name == "x":
            mask[pixel] += so_far
            return
        operation, *read = net.steps[name]
        factors = [1.0]
        if name in activations:
            values = known[name][0, :, pixel[0], pixel[1]].clamp(min=0)
            factors = [float(value) / len(values) for value in values]
        for factor in factors:
            if factor == 0:
                continue
            for each in read[:1] if operation == "gate" else read:
                size = known[each].shape[2:]
                for under in below(operation, pixel, size):
                    follow(each, under, so_far * factor)

    kinds = (nn.ReLU, nn.SiLU, nn.LeakyReLU)
    activations = {name for name, (op, *_) in net.steps.items() if isinstance(op, kinds)}
    for name in net.ends:
        for pixel in product(*map(range, known[name].shape[2:])):
            follow(name, pixel, 1.0)
    return mask


def conv(*args, **kwargs):
    return nn.Conv2d(*args, **kwargs)


TOYS = {
    "residual": lambda: Toy(
        {
            "a": (conv(1, 2, 3, padding=1), "x"),
            "f": (nn.ReLU(), "a"),
            "b": (conv(2, 2, 3, stride=2, padding=1), "f"),
            "g": (nn.ReLU(), "b"),
            "c": (conv(2, 2, 1), "g"),
            "s": (conv(2, 2, 1, stride=2), "f"),
            "sum": ("add", "c", "s"),
            "h": (nn.ReLU(), "sum"),
        },
        ends=["h"],
    ),
    "pre-activation residual, whose last sum reaches the head": lambda: Toy(
        {
            "a": (conv(1, 2, 3, padding=1), "x"),
            "f": (nn.ReLU(), "a"),
            "b": (conv(2, 2, 3, padding=1), "f"),
            "g": (nn.ReLU(), "b"),
            "c": (conv(2, 2, 1), "g"),
            "sum": ("add", "c", "f"),
        },
        ends=["g", "f"],
    ),
    "dense": lambda: Toy(
        {
            "a": (conv(1, 2, 2), "x"),
            "f": (nn.ReLU(), "a"),
            "b": (conv(2, 1, 3, padding=1), "f"),
            "g": (nn.ReLU(), "b"),
            "one": ("cat", "f", "g"),
            "c": (conv(3, 2, 3, padding=1), "one"),
            "h": (nn.ReLU(), "c"),
            "two": ("cat", "one", "h"),
            "pool": (nn.AvgPool2d(2), "two"),
        },
        ends=["h", "g", "f"],
    ),
    "inception": lambda: Toy(
        {
            "a": (conv(1, 1, 1), "x"),
            "f": (nn.ReLU(), "a"),
            "b1": (conv(1, 1, 1), "f"),
            "g1": (nn.ReLU(), "b1"),
            "b2": (conv(1, 1, (1, 3), padding=(0, 1)), "f"),
            "g2": (nn.LeakyReLU(), "b2"),
            "c2": (conv(1, 1, (3, 1), padding=(1, 0)), "g2"),
            "h2": (nn.ReLU(), "c2"),
            "p": (nn.MaxPool2d(3, 1, 1), "f"),
            "all": ("cat", "g1", "h2", "p"),
            "d": (conv(3, 2, 2), "all"),
            "k": (nn.ReLU(), "d"),
        },
        ends=["k"],
    ),
    "gated": lambda: Toy(
        {
            "a": (conv(1, 2, 3, padding=1), "x"),
            "f": (nn.SiLU(), "a"),
            "m": (nn.AdaptiveAvgPool2d(1), "f"),
            "n": (conv(2, 2, 1), "m"),
            "r": (nn.ReLU(), "n"),
            "w": (nn.Sigmoid(), "r"),
            "e": ("gate", "f", "w"),
            "t": (conv(2, 1, 3, padding=1), "e"),
            "v": (nn.Sigmoid(), "t"),
            "y": ("gate", "e", "v"),
            "b": (conv(2, 2, 2), "y"),
            "g": (nn.ReLU(), "b"),
        },
        ends=["g"],
    ),
    "u-net": lambda: Toy(
        {
            "a": (conv(1, 2, 3, padding=1), "x"),
            "f": (nn.ReLU(), "a"),
            "p": (nn.MaxPool2d(2), "f"),
            "b": (conv(2, 2, 1), "p"),
            "g": (nn.ReLU(), "b"),
            "up": (nn.ConvTranspose2d(2, 1, 2, 2), "g"),
            "skip": ("cat", "up", "f"),
            "c": (conv(3, 2, 1), "skip"),
            "h": (nn.ReLU(), "c"),
            "q": (nn.AvgPool2d(2), "h"),
            "u": (nn.Upsample(scale_factor=2), "q"),
            "d": (conv(2, 2, 2), "u"),
            "k": (nn.ReLU(), "d"),
        },
        ends=["k"],
    ),
    "pixel shuffle, crop and split": lambda: Toy(
        {
            "z": (nn.ZeroPad2d((0, -1, -1, 2)), "x"),
            "a": (conv(1, 8, 2, stride=2), "z"),
            "f": (nn.ReLU(), "a"),
            "s": (nn.PixelShuffle(2), "f"),
            "l": ("half", "s"),
            "b": (conv(1, 2, 3, padding=1), "l"),
            "g": (nn.ReLU(), "b"),
        },
        ends=["g"],
    ),
}


def toy(name):
    torch.manual_seed(2)
    net = TOYS[name]().double().eval()
    for parameter in net.parameters():
        nn.init.uniform_(parameter, -0.4, 0.8)
    return net


@pytest.mark.parametrize("name", TOYS)
def test_the_mask_is_the_sum_over_all_paths_to_the_head(name):
    net = toy(name)
    image = torch.rand(1, 6, 8, dtype=torch.float64)
    expected = path_sum(net, image)
    assert expected.max() > 0
    mask = VisualBackProp(net, "deconv").attribute(image[None], normalize=False)
    torch.testing.assert_close(mask[0, 0], expected, rtol=1e-10, atol=1e-12)
    faster = VisualBackProp(net.float(), "deconv").attribute(image[None].float(), normalize=False)
    torch.testing.assert_close(faster[0, 0].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("upsampling", ["deconv_normalized", "nearest", "bilinear", "resize_conv"])
@pytest.mark.parametrize("name", ["inception", "gated", "u-net"])
def test_flat_maps_stay_flat_through_every_branch(name, upsampling):
    """If each step keeps the mean, every pixel gets the number of ways to the head."""
    net = toy(name).eval()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    for layer in net.layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.ones_(layer.bias)
    image = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    mask = VisualBackProp(net, upsampling).attribute(image, normalize=False)
    inner = mask[..., 3:5, 3:5]
    torch.testing.assert_close(inner, inner.mean().expand_as(inner))


def test_a_residual_block_by_hand():
    """Activations x, 2x and 3x; paths x · 2x · 3x and x · 3x."""

    class Block(nn.Module):
        def forward(self, image):
            first = F.relu(image)
            return F.relu(first + F.relu(2 * first)).mean((2, 3))

    image = torch.tensor([[[[1.0, 2.0], [0.0, 3.0]]]])
    expected = 6 * image**3 + 3 * image**2
    mask = VisualBackProp(Block(), "deconv").attribute(image, normalize=False)
    torch.testing.assert_close(mask, expected)


def test_skip_leaves_out_activations_by_their_depth():
    net = toy("inception")
    image = torch.rand(1, 1, 6, 8, dtype=torch.float64)
    chain = VisualBackProp(net, "deconv", skip=1).chain(image)
    assert len(chain.names) == 4
    assert len(VisualBackProp(net, "deconv", skip=2).chain(image).names) == 2
    with pytest.raises(ValueError, match="the network has 4 feature maps"):
        VisualBackProp(net, "deconv", skip=4).attribute(image)
