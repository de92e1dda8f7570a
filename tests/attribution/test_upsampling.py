"""The upsamplings: flat maps, positions, and each one implemented a second time."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vbp_lightning.attribution import UPSAMPLINGS, VisualBackProp
from vbp_lightning.attribution.upsampling import (
    bilinear,
    nearest,
    resize_conv,
    spread,
    unpool,
)
from vbp_lightning.graph.geometry import Layer, Window, both, shares_of_maxima


def window_between(below, above, *geometry):
    """The window of a layer with these input and output maps."""
    sizes = [tuple(features.shape[-2:]) for features in (below, above)]
    return Window(*map(both, geometry), *sizes)


def windows(*layers, size):
    """The arguments of an upsampling for some layers, and the output size of the last one."""
    features = torch.zeros(1, 1, *size)
    out = []
    for layer in layers:
        above = layer(features)
        dilation = getattr(layer, "dilation", 1)
        geometry = (layer.kernel_size, layer.stride, layer.padding, dilation)
        out.append(Layer(window_between(features, above, *geometry)))
        features = above
    return out, features.shape[-2:]


def constant(*layers):
    """A network whose activations are one everywhere for every input."""
    net = nn.Sequential(*layers).double().eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            nn.init.ones_(module.bias)
    return net


def strided(kernel=3, padding=1):
    return [nn.Conv2d(1, 1, 1), nn.ReLU()] + 3 * [
        nn.Conv2d(1, 1, kernel, 2, padding),
        nn.ReLU(),
    ]


def pooled():
    block = [nn.Conv2d(1, 1, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)]
    return [nn.Conv2d(1, 1, 1), nn.ReLU(), *block, *block, nn.Conv2d(1, 1, 3, 1, 1), nn.ReLU()]


class Operations(TorchDispatchMode):
    """Records the names of the operations that are executed."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.append(operation.overloadpacket.__name__)
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", sorted(set(UPSAMPLINGS) - {"unpool"}))
def test_a_repeated_call_copies_nothing_to_the_device(name, device, dtype):
    layers, above = windows(
        nn.MaxPool2d(2), nn.Conv2d(1, 1, 3, 1), nn.Conv2d(1, 1, 3, 2, 1), size=(24, 27)
    )
    mask = torch.rand(1, 1, *above, dtype=dtype).to(device)
    with torch.inference_mode():
        UPSAMPLINGS[name](mask.clone(), layers)
    with Operations() as executed:
        UPSAMPLINGS[name](mask.clone(), layers)
    assert not {"_to_copy", "arange", "lift_fresh"} & set(executed.names)


SIZES = [(24, 24), (23, 25), (29, 22), (31, 31), (16, 27), (9, 10)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layers", [strided, pooled])
def test_normalised_deconvolution_of_ones_is_flat(layers, size):
    """Including the borders, if every pixel is covered."""
    if layers is pooled:
        size = tuple(4 * (each // 4) for each in size)  # an odd map's last row is in no window
    inputs = torch.rand(1, 1, *size).double()
    method = VisualBackProp(constant(*layers()), "deconv_normalized")
    mask = method.attribute(inputs, normalize=False)
    torch.testing.assert_close(mask, torch.ones_like(mask), rtol=1e-12, atol=0)
    # A mask that is flat up to rounding counts as constant; its noise is not scaled to [0, 1].
    assert method.attribute(inputs).count_nonzero() == 0


def test_normalised_deconvolution_is_zero_where_nothing_is_covered():
    net = constant(nn.Conv2d(1, 1, 2, stride=3), nn.ReLU())
    mask = VisualBackProp(net, "deconv_normalized").attribute(
        torch.rand(1, 1, 8, 8).double(), normalize=False
    )
    covered = torch.tensor([1, 1, 0, 1, 1, 0, 1, 1]).double()
    assert torch.equal(mask[0, 0], covered[:, None] * covered)


@pytest.mark.parametrize("name", ["nearest", "bilinear", "resize_conv"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layers", [strided, pooled])
def test_resampling_of_ones_is_flat(layers, size, name):
    method = VisualBackProp(constant(*layers()), name)
    mask = method.attribute(torch.rand(1, 1, *size).double(), normalize=False)
    torch.testing.assert_close(mask, torch.ones_like(mask), rtol=1e-12, atol=0)


def test_deconv_causes_a_grid_of_known_strength():
    """After three 3×3 stride 2 layers of ones the interior coefficient of variation is 0.57."""
    inputs = torch.rand(1, 1, 192, 192).double()
    mask = VisualBackProp(constant(*strided()), "deconv").attribute(inputs, normalize=False)
    inner = mask[..., 64:128, 64:128]
    assert float(inner.std() / inner.mean()) == pytest.approx(0.57, abs=0.01)


@pytest.mark.parametrize("name", UPSAMPLINGS)
@pytest.mark.parametrize("size", [(33, 33), (32, 37), (34, 35), (36, 40), (39, 38), (41, 48)])
@pytest.mark.parametrize("layers", [strided, pooled])
def test_bright_point_stays_in_place(layers, size, name):
    """The mask of one bright pixel in the last map is centred on its receptive field."""
    chain = [each for each in layers() if not isinstance(each, nn.ReLU)]
    between, top = windows(*chain, size=size)
    ones = torch.ones(1, 1, *size, dtype=torch.float64)
    for index, layer in enumerate(between):
        below, above = ones.new_ones(1, 1, *layer.window.below), layer.window.above
        if name == "unpool" and layer.window.kernel == (2, 2):
            shares = shares_of_maxima(
                below, below.new_ones(1, 1, *above), layer.window, below.dtype
            )
            between[index] = Layer(layer.window, shares)
    mask = torch.zeros(1, 1, *top, dtype=torch.float64)
    point = (top[0] // 2, top[1] // 2)
    mask[0, 0, point[0], point[1]] = 1
    # Layer by layer, as with maps in between.
    for layer in reversed(between):
        mask = UPSAMPLINGS[name](mask, [layer])
    # Receptive-field centres: 2i for a 3×3 layer of stride 2 and padding 1, 2i + ½ for a pooling.
    expected = [8 * each if layers is strided else 4 * each + 1.5 for each in point]
    for axis, centre in enumerate(expected):
        profile = mask[0, 0].sum(1 - axis)
        position = (profile * torch.arange(len(profile))).sum() / profile.sum()
        assert float(position) == pytest.approx(centre, abs=1e-9)
        # and symmetric about it
        mirrored = (2 * centre - torch.arange(len(profile))).long()
        inside = (mirrored >= 0) & (mirrored < len(profile))
        torch.testing.assert_close(profile[inside], profile[mirrored[inside]])


@pytest.mark.parametrize("name", UPSAMPLINGS)
@pytest.mark.parametrize("size", range(40, 48))
def test_bright_pixel_of_the_image_stays_in_place(name, size):
    """Identity kernels propagate one bright pixel forwards, the mask propagates it back."""
    net = nn.Sequential(*strided()).double().eval()
    for module in net:
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight)
            nn.init.zeros_(module.bias)
    image = torch.zeros(1, 1, size, size, dtype=torch.float64)
    image[..., 24, 16] = 1
    mask = VisualBackProp(net, name).attribute(image)
    assert mask.argmax() == 24 * size + 16
    assert mask.count_nonzero() == 1


def test_bilinear_at_stride_two_is_a_transposed_convolution_with_a_triangle():
    between, top = windows(nn.Conv2d(1, 1, 3, 2, 1), size=(31, 33))
    mask = torch.rand(2, 1, *top, dtype=torch.float64)
    triangle = torch.tensor([0.5, 1, 0.5], dtype=torch.float64)
    kernel = (triangle[:, None] * triangle)[None, None]
    expected = F.conv_transpose2d(mask, kernel, stride=2, padding=1)
    torch.testing.assert_close(bilinear(mask, between), expected)


def test_resize_conv_through_a_pool_and_a_convolution_by_torch_alone():
    between, top = windows(nn.Conv2d(1, 1, 3, 1, 1), nn.MaxPool2d(2), size=(14, 18))
    mask = torch.rand(2, 1, *top, dtype=torch.float64)
    resized = F.interpolate(mask, size=(14, 18), mode="bilinear", align_corners=False)
    expected = F.avg_pool2d(resized, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(resize_conv(mask, between), expected)


def test_nearest_through_a_pooling_repeats_pixels():
    between, top = windows(nn.MaxPool2d(2), size=(12, 14))
    mask = torch.rand(2, 1, *top)
    expected = mask.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(nearest(mask, between), expected)


def test_nearest_averages_two_equally_near_values():
    between, _ = windows(nn.Conv2d(1, 1, (1, 3), (1, 2), (0, 1)), size=(1, 5))
    mask = torch.tensor([2.0, 4.0, 8.0])[None, None, None]
    assert nearest(mask, between).flatten().tolist() == [2, 3, 4, 6, 8]


@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pad=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    small=st.sampled_from([0, 10**6]),
)
@settings(max_examples=80, deadline=None)
def test_spread_is_the_adjoint_of_a_sum_over_windows(sizes, kernel, stride, dilation, pad, small):
    """⟨spread(m), x⟩ = ⟨m, windowed sum of x⟩ both for small and for large masks."""
    size = [each + d * (k - 1) for each, d, k in zip(sizes, dilation, kernel, strict=True)]
    layer = nn.Conv2d(1, 1, kernel, stride, pad, dilation, bias=False).double()
    nn.init.ones_(layer.weight)
    between, top = windows(layer.float(), size=size)
    layer.double()
    generator = torch.Generator().manual_seed(0)
    mask = torch.randn(2, 1, *top, generator=generator, dtype=torch.float64)
    image = torch.randn(2, 1, *size, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        sums = layer(image)
    with patch("vbp_lightning.attribution.upsampling._SMALL_MASK", small):
        back = spread(mask, between[0].window)
    assert back.shape == image.shape
    torch.testing.assert_close((back * image).sum((1, 2, 3)), (mask * sums).sum((1, 2, 3)))


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d((2, 3), (1, 2), (1, 0)),
        nn.MaxPool2d(2, 2, dilation=2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
    ],
)
def test_unpool_places_the_mask_at_the_maxima(pool):
    """Window by window and channel by channel; equal values share, nearly equal ones in part."""
    torch.manual_seed(0)
    features = torch.relu(torch.randn(2, 3, 7, 8, dtype=torch.float64) - 0.8)  # many empty windows
    features[:, :, 3:] = features[:, :, 3:].round(decimals=2)  # many nearly equal values
    pooled_map = pool(features)
    width = pooled_map.mean(1) / 256
    window = window_between(
        features, pooled_map, pool.kernel_size, pool.stride, pool.padding, pool.dilation
    )
    shares = shares_of_maxima(features, pooled_map, window, torch.float64)
    torch.testing.assert_close(shares.sum(1), torch.ones(2, *pooled_map.shape[2:]).double())
    mask = torch.rand(2, 1, *pooled_map.shape[2:], dtype=torch.float64)
    expected = torch.zeros(2, 7, 8, dtype=torch.float64)
    for n in range(2):
        for c in range(3):
            for y in range(mask.shape[2]):
                for x in range(mask.shape[3]):
                    inside = [
                        (row, column)
                        for i in range(window.kernel[0])
                        for j in range(window.kernel[1])
                        if 0
                        <= (
                            row := y * window.stride[0] - window.padding[0] + i * window.dilation[0]
                        )
                        < 7
                        and 0
                        <= (
                            column := x * window.stride[1]
                            - window.padding[1]
                            + j * window.dilation[1]
                        )
                        < 8
                    ]
                    highest = max(features[n, c, row, column] for row, column in inside)
                    weights = {
                        at: max(0, 1 - float((highest - features[n, c][at]) / width[n, y, x]))
                        if features[n, c][at] < highest
                        else 1
                        for at in inside
                    }
                    for at, weight in weights.items():
                        expected[n][at] += mask[n, 0, y, x] * weight / sum(weights.values()) / 3
    result = unpool(mask, [Layer(window, shares)])
    torch.testing.assert_close(result[:, 0], expected)


def test_rounding_moves_no_unpooled_mask():
    """Equal maxima that rounding makes different still share, and so do those that nearly are."""
    torch.manual_seed(0)
    features = torch.rand(2, 8, 16, 16).round(decimals=2)
    noise = 1 + 1e-7 * torch.randn(2, 8, 16, 16)
    window = Window((2, 2), (2, 2), (0, 0), (1, 1), (16, 16), (8, 8))
    exact, rounded = (
        shares_of_maxima(each, F.max_pool2d(each, 2), window, torch.float32)
        for each in (features, features * noise)
    )
    torch.testing.assert_close(rounded, exact, rtol=0, atol=1e-4)


def test_unpool_without_ties_is_the_mean_of_max_unpool2d():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1)
    )
    net = nn.Sequential(*net, nn.ReLU()).double().eval()
    nn.init.constant_(net[0].bias, 2.0)  # no empty windows
    for parameter in net.parameters():
        parameter.data.abs_()
    image = 100 * torch.rand(2, 1, 4, 6, dtype=torch.float64)
    with torch.no_grad():
        first = net[:2](image)
        pooled_map, where = F.max_pool2d(first, 2, return_indices=True)
        two = F.unfold(first.flatten(0, 1)[:, None], 2, stride=2).topk(2, dim=1).values
        assert (
            (two[:, 0] - two[:, 1]) / pooled_map.flatten(0, 1).amax((1, 2))[:, None]
        ).min() > 4e-3
        top = net[3:](pooled_map).mean(1, keepdim=True)
        unpooled = F.max_unpool2d(top.expand(-1, 4, -1, -1), where, 2).mean(1, keepdim=True)
        mask = unpooled * first.mean(1, keepdim=True)
        expected = F.conv_transpose2d(mask, torch.ones(1, 1, 3, 3).double(), padding=1)
    result = VisualBackProp(net, "unpool").attribute(image, normalize=False)
    torch.testing.assert_close(result, expected)
