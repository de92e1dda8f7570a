"""``deconv`` against the definition: a sum over all paths, written out one path at a time."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from vbp_lightning.attribution import VisualBackProp

Size = tuple[int, int]


def taps(layer: nn.Module, above: Size, below: Size) -> list[tuple[Size, Size]]:
    """All pairs of an output pixel and an input pixel in its window."""

    def both(value: int | Size) -> Size:
        return (value, value) if isinstance(value, int) else value

    kernel, stride = both(layer.kernel_size), both(layer.stride)
    dilation = both(getattr(layer, "dilation", 1))
    if layer.padding == "same":
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    else:
        padding = both(layer.padding)
    pairs = []
    for y, x in product(range(above[0]), range(above[1])):
        for i, j in product(range(kernel[0]), range(kernel[1])):
            row = y * stride[0] - padding[0] + i * dilation[0]
            column = x * stride[1] - padding[1] + j * dilation[1]
            if 0 <= row < below[0] and 0 <= column < below[1]:
                pairs.append(((y, x), (row, column)))
    return pairs


def path_sum(net: nn.Sequential, image: Tensor) -> Tensor:
    """Σ over paths of positions and channels of Π of the activations on them, over Π of widths.

    From every position and channel of the last map, each path through the windows to the input is
    followed separately, and the ReLU outputs on it are multiplied.
    """
    features = image[None]
    links, activations, sizes = [], [], [features.shape[-2:]]
    for layer in net:
        features = layer(features)
        if isinstance(layer, nn.ReLU):
            activations[-1] = features[0].clone()
        elif isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            links.append(taps(layer, tuple(features.shape[-2:]), tuple(sizes[-1])))
            sizes.append(features.shape[-2:])
            activations.append(None)
    down: list[dict[Size, list[Size]]] = []
    for pairs in links:
        ways: dict[Size, list[Size]] = {}
        for above, below in pairs:
            ways.setdefault(above, []).append(below)
        down.append(ways)
    mask = torch.zeros(*sizes[0], dtype=image.dtype)

    def follow(level: int, pixel: Size, product_so_far: float) -> None:
        if level == 0:
            mask[pixel] += product_so_far
            return
        here = activations[level - 1]
        channels = [1.0] if here is None else [float(each[pixel]) for each in here]
        for value in channels:
            if value == 0:
                continue
            for below in down[level - 1].get(pixel, []):
                follow(level - 1, below, product_so_far * value)

    top = max(level for level, each in enumerate(activations, 1) if each is not None)
    for pixel in product(*map(range, sizes[top])):
        follow(top, pixel, 1.0)
    for each in activations:
        if each is not None:
            mask /= len(each)
    return mask


def conv(*args: object, **kwargs: object) -> nn.Conv2d:
    return nn.Conv2d(*args, **kwargs)


NETS = {
    "padding": lambda: [conv(2, 2, 3, padding=1), nn.ReLU(), conv(2, 2, 3, padding=1), nn.ReLU()],
    "stride": lambda: [
        conv(2, 2, 3, stride=2, padding=1),
        nn.ReLU(),
        conv(2, 3, 3, stride=2, padding=1),
        nn.ReLU(),
    ],
    "not square": lambda: [
        conv(2, 2, (3, 2), stride=(1, 2), padding=(1, 0)),
        nn.ReLU(),
        conv(2, 2, (1, 3), stride=(2, 1), padding=(0, 2)),
        nn.ReLU(),
    ],
    "dilation": lambda: [
        conv(2, 2, 3, padding=(2, 1), dilation=(2, 1)),
        nn.ReLU(),
        conv(2, 2, (2, 3), stride=3, dilation=(3, 2)),
        nn.ReLU(),
    ],
    "max pooling": lambda: [
        conv(2, 2, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        conv(2, 2, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ],
    "overlapping pooling": lambda: [
        conv(2, 2, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
        conv(2, 2, 2),
        nn.ReLU(),
    ],
    "dilated pooling with ceil_mode": lambda: [
        conv(2, 2, 1),
        nn.ReLU(),
        nn.MaxPool2d(2, (3, 2), dilation=(2, 1), ceil_mode=True),
        conv(2, 2, 2),
        nn.ReLU(),
    ],
    "average pooling": lambda: [
        conv(2, 2, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d((2, 3), (2, 2), padding=(0, 1), ceil_mode=True),
        conv(2, 2, 1),
        nn.ReLU(),
    ],
    "pooling before the ReLU": lambda: [
        conv(2, 2, 3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        conv(2, 2, 2, padding=1),
        nn.ReLU(),
    ],
    "same padding": lambda: [
        conv(2, 2, 3, padding="same"),
        nn.ReLU(),
        conv(2, 2, (2, 4), padding="same", dilation=(3, 1)),
        nn.ReLU(),
    ],
    "groups and batch norm": lambda: [
        conv(2, 4, 3, groups=2, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        conv(4, 2, 2, stride=2),
        nn.ReLU(inplace=True),
    ],
    "stride beyond the kernel": lambda: [
        conv(2, 2, 2, stride=3),
        nn.ReLU(),
        conv(2, 2, 1),
        nn.ReLU(),
    ],
    "two convolutions between ReLUs": lambda: [
        conv(2, 2, 2, padding=1),
        nn.ReLU(),
        conv(2, 3, 3, stride=2),
        conv(3, 2, 2, padding=1),
        nn.ReLU(),
    ],
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even")  # of its speed
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("size", [(6, 7), (7, 6)])
def test_deconv_is_the_sum_over_all_paths(name, size):
    torch.manual_seed(3)
    net = nn.Sequential(*NETS[name]()).double().eval()
    for parameter in net.parameters():
        nn.init.uniform_(parameter, -0.4, 0.8)
    image = torch.rand(2, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = path_sum(net, image)
    mask = VisualBackProp(net, "deconv").attribute(image[None], normalize=False)
    assert expected.max() > 0
    torch.testing.assert_close(mask[0, 0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "name", ["padding", "stride", "not square", "dilation", "max pooling", "groups and batch norm"]
)
@pytest.mark.parametrize("size", [(11, 12), (12, 11), (13, 13)])
def test_deconv_is_a_chain_of_transposed_convolutions(name, size):
    """With the output padding of the formula for even padding."""
    torch.manual_seed(4)
    net = nn.Sequential(*NETS[name]()).double().eval()
    image = torch.rand(3, 2, *size, dtype=torch.float64)
    features, averages, layers = image, [None], [[]]
    with torch.no_grad():
        for layer in net:
            before = tuple(features.shape[2:])
            features = layer(features)
            if isinstance(layer, nn.ReLU):
                averages.append(features.mean(1, keepdim=True))
                layers.append([])
            elif not isinstance(layer, nn.BatchNorm2d):
                layers[-1].append((layer, before))
        mask = averages[-1]
        for average, between in zip(averages[-2::-1], layers[-2::-1], strict=True):
            for layer, below in reversed(between):
                mask = transposed(mask, layer, below)
            mask = mask if average is None else mask * average
    result = VisualBackProp(net, "deconv").attribute(image, normalize=False)
    torch.testing.assert_close(result, mask, rtol=1e-10, atol=1e-10)


def transposed(mask: Tensor, layer: nn.Module, below: Size) -> Tensor:
    def both(value: int | Size) -> Size:
        return (value, value) if isinstance(value, int) else tuple(value)

    kernel, stride, padding = both(layer.kernel_size), both(layer.stride), both(layer.padding)
    dilation = both(getattr(layer, "dilation", 1))
    extra = [
        (size + 2 * p - d * (k - 1) - 1) % s
        for size, p, d, k, s in zip(below, padding, dilation, kernel, stride, strict=True)
    ]
    ones = mask.new_ones(1, 1, *kernel)
    return nn.functional.conv_transpose2d(
        mask, ones, stride=stride, padding=padding, output_padding=extra, dilation=dilation
    )
