"""Networks of any kind, split at their global pooling, against their own layers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers.nets import randomised
from tests.scene_maps.test_seamless import assert_close, map_of_blocks, reader, scene_of
from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.graph import network_graph
from vbp_lightning.models import RoadNetwork
from vbp_lightning.models.networks import Normalize
from vbp_lightning.scene_maps.block_maps import block_maps
from vbp_lightning.scene_maps.output_grid import Block
from vbp_lightning.scene_maps.seamless import SeamlessMapper
from vbp_lightning.scene_maps.split_network import (
    NotConvolutionalError,
    sliding_max,
    sliding_mean,
    split_network,
)
from vbp_lightning.scene_maps.tilewise import TileMapper


class Residual(nn.Module):
    """A stem, residual stages that halve the map, and the mean or the maximum of all places."""

    def __init__(self, halvings, pool=F.adaptive_avg_pool2d):
        super().__init__()
        self.normalize = Normalize([120.0, 100.0], [40.0, 50.0])
        self.stem = nn.Conv2d(2, 4, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.ModuleList([nn.Conv2d(4, 4, 3, 2, 1) for _ in range(halvings - 1)])
        self.second = nn.ModuleList([nn.Conv2d(4, 4, 3, 1, 1) for _ in range(halvings - 1)])
        self.shorter = nn.ModuleList([nn.Conv2d(4, 4, 1, 2) for _ in range(halvings - 1)])
        self.pool = pool
        self.fc = nn.Linear(4, 2)

    def features(self, images):
        x = F.relu(self.norm(self.stem(self.normalize(images))))
        for first, second, shorter in zip(self.first, self.second, self.shorter, strict=True):
            x = F.relu(second(F.relu(first(x))) + shorter(x))
        return x

    def head(self, pooled):
        found = self.fc(pooled.flatten(1))
        return found[:, 1:] - found[:, :1]

    def forward(self, images):
        return self.head(self.pool(self.features(images), 1))


class Plain(nn.Module):
    """Two convolutions with the given settings between the normalisation and the head."""

    def __init__(self, first=(), second=(), pool=None, channels=5, head=None, between=None):
        super().__init__()
        self.normalize = Normalize([120.0, 100.0], [40.0, 50.0])
        self.conv1 = nn.Conv2d(2, channels, **{"kernel_size": 3, "stride": 2, **dict(first)})
        self.between = between or nn.Identity()
        self.conv2 = nn.Conv2d(
            channels, channels, **{"kernel_size": 3, "stride": 2, **dict(second)}
        )
        self.pool = pool or (lambda x: x.mean((2, 3)))
        self.head = head or nn.Linear(channels, 1)

    def features(self, images):
        return self.conv2(self.between(self.conv1(self.normalize(images)).relu())).relu()

    def forward(self, images):
        return self.head(self.pool(self.features(images)).flatten(1))


def made(kind, *args, **options):
    torch.manual_seed(0)
    return randomised(kind(*args, **options))


def windows_of_one_pass(network, read, shape, window, step):
    """P(road) of all windows, from the features of one pass over the padded scene."""
    size = [side + -side % step for side in shape]
    whole = torch.from_numpy(read(0, 0, *size)[0])[None]
    with torch.no_grad():
        count = network.features(whole[:, :, :window, :window]).shape[2]
        features = network.features(whole)
        rows, cols = ((side - window) // step + 1 for side in shape)
        found = np.empty((rows, cols))
        for row in range(rows):
            for col in range(cols):
                own = features[:, :, row : row + count, col : col + count]
                pooled = (
                    network.pool(own, 1) if isinstance(network, Residual) else network.pool(own)
                )
                found[row, col] = network.head(pooled.flatten(1)).sigmoid()
    mask = VisualBackProp(network, fuse=False).attribute(whole, normalize=False)[0, 0].numpy()
    return found, mask[: shape[0], : shape[1]]


@pytest.mark.parametrize(
    ("halvings", "window", "pool"),
    [
        (5, 96, F.adaptive_max_pool2d),
        (5, 64, F.adaptive_avg_pool2d),
        (4, 128, F.adaptive_max_pool2d),
    ],
)
def test_blocks_of_a_residual_network_give_what_one_pass_gives(halvings, window, pool):
    step, shape = 2**halvings, (230, 170)
    network, read = made(Residual, halvings, pool), reader(scene_of(*shape))
    mapper = SeamlessMapper(network, 2, window=window)
    assert (mapper.step, mapper.window, mapper.exact) == (step, window, False)
    expected, mask = windows_of_one_pass(network, read, shape, window, step)
    skipped = window // 2 // step
    rows, cols = (slice(skipped, skipped + count) for count in expected.shape)
    found, relevance = map_of_blocks(mapper, read, shape, 128)
    assert_close(relevance, mask)
    assert_close(found[rows, cols], expected)
    found[rows, cols] = np.nan
    assert np.isnan(found).all()


POOLS = {
    "of flattened places": lambda x: x.flatten(2).mean(-1),
    "row by row": lambda x: x.mean(3).mean(2),
    "channels last": lambda x: x.permute(0, 2, 3, 1).mean((1, 2)),
    "window": nn.AvgPool2d(23),
    "amax": lambda x: x.amax((2, 3), keepdim=True),
    "max of max": lambda x: x.max(3)[0].max(2)[0],
    "max window": nn.MaxPool2d(23),
    "max of view": lambda x: x.view(x.size(0), x.size(1), -1).max(2).values,
}


@pytest.mark.parametrize("pool", POOLS)
def test_every_global_pooling_slides(pool):
    """Without padding, the logits of the windows of an image are those of its tiles."""
    network = made(Plain, pool=POOLS[pool])
    image = torch.from_numpy(scene_of(104, 108))[None]
    split = split_network(network, image[:, :, :96, :96])
    corners = [(row, col) for row in (0, 4, 8) for col in (0, 4, 8, 12)]
    tiles = torch.cat([image[:, :, row : row + 96, col : col + 96] for row, col in corners])
    with torch.no_grad():
        logits = split.window_logits(split.trunk(image))
        torch.testing.assert_close(logits.flatten(), network(tiles)[:, 0])
    assert (split.step, logits.shape) == (4, (3, 4))


@pytest.mark.parametrize(
    ("first", "second", "options"),
    [
        ({"dilation": 3}, {"stride": 1, "dilation": 2}, {}),
        ({"kernel_size": 4, "stride": 4}, {"stride": 1}, {"window": 64}),
        ({}, {}, {"tta": True}),
        ({"padding": 8}, {}, {"pool": lambda x: x[:, :, 2:-2, 2:-2].amax((2, 3))}),
        # valid convolutions as in older networks, down to a single place
        (
            {"kernel_size": 8, "stride": 8},
            {"kernel_size": 12, "stride": 1},
            {"pool": nn.Identity()},
        ),
    ],
)
def test_other_geometries_give_what_they_give_for_tiles(first, second, options):
    shape = (118, 109)
    pool = options.pop("pool", None)
    network, read = made(Plain, first, second, pool), reader(scene_of(*shape))
    mapper = SeamlessMapper(network, 2, **options)
    found, _ = map_of_blocks(mapper, read, shape, 16 * mapper.step)
    tiles, _ = map_of_blocks(TileMapper(network, mapper.step, **options), read, shape, 256)
    assert mapper.exact
    assert_close(np.nan_to_num(found), np.nan_to_num(tiles))
    assert np.isfinite(found).any()
    options["pool"] = pool


def test_the_halo_is_that_of_the_receptive_field():
    """Without padding and with a window that outweighs the mask, up to one step."""
    shape, block = (400, 400), Block(144, 144, 128, 128)
    network, scene = made(Plain, pool=lambda x: x.amax((2, 3))), scene_of(400, 400)
    mapper = SeamlessMapper(network, 2)
    assert mapper.halo == 48
    before = block_maps(mapper, reader(scene), shape, block)
    for reach in (48, 44):
        changed = np.full_like(scene, 900)
        inside = np.s_[:, 144 - reach : 272 + reach, 144 - reach : 272 + reach]
        changed[inside] = scene[inside]
        after = block_maps(mapper, reader(changed), shape, block)
        same = np.abs(after.probability - before.probability).max() <= 1e-6
        assert same == (reach == 48)
        assert_close(after.mask, before.mask)


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Conv2d(5, 5, 1)

    def forward(self, x):
        return x * self.fc(F.adaptive_avg_pool2d(x, 1)).sigmoid()


class Resized(nn.Module):
    def forward(self, x):
        return F.interpolate(x, (48, 48), mode="bilinear")


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, 5, 47, 47))

    def forward(self, x):
        return x + self.places


class Coordinates(nn.Module):
    def forward(self, x):
        return x * torch.linspace(0, 1, x.shape[3])


class BySize(nn.Module):
    def forward(self, x):
        return x / x.shape[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"between": Gate()}, r"^between \(Gate\): .*mixes all places"),
        ({"between": nn.GroupNorm(1, 5)}, r"^between \(GroupNorm\): .*mixes all places"),
        ({"between": nn.LayerNorm((47, 47))}, r"^between \(LayerNorm\): .*mixes all places"),
        ({"between": nn.InstanceNorm2d(5)}, r"^between \(InstanceNorm2d\): "),
        ({"between": nn.BatchNorm2d(5, track_running_stats=False)}, r"^between \(BatchNorm2d\): "),
        ({"between": Resized()}, r"^between \(Resized\): "),
        (
            {"first": {"padding": 1}, "between": nn.AdaptiveAvgPool2d(6)},
            r"^between \(AdaptiveAvgPool2d\): .*fixed number",
        ),
        ({"between": Positions()}, r"^between \(Positions\): add uses values that depend on the"),
        ({"between": Coordinates()}, r"^between \(Coordinates\): mul uses values that depend"),
        ({"between": BySize()}, r"^between \(BySize\): div uses values that depend"),
        ({"second": {"stride": (2, 1)}}, r"^Plain: .*4 px in rows and 2 px in columns"),
        ({"first": {"stride": 5}}, r"^Plain: .*10 px apart, .*tile of 96 px"),
        (
            {"pool": nn.Identity(), "head": nn.Linear(5 * 23 * 23, 1)},
            r"^head \(Linear\): linear mixes all places of the image, and is not the one global",
        ),
        (
            {"pool": lambda x: x.mean((2, 3)) + x.amax((2, 3))},
            r"^Plain: mean mixes all places of the image, and is not the one global",
        ),
        ({"pool": lambda x: x.std((2, 3))}, r"^Plain: std mixes all places of the image"),
    ],
)
def test_other_networks_are_refused_with_the_layer_and_the_reason(options, message):
    network = made(Plain, **options)
    network(torch.rand(1, 2, 96, 96))  # the network itself is in order
    with pytest.raises(NotConvolutionalError, match=message):
        SeamlessMapper(network, 2)


def test_a_margin_that_the_step_does_not_divide_is_refused():
    with pytest.raises(NotConvolutionalError, match="margin of 6 px"):
        SeamlessMapper(made(Plain), 2, window=84, context=6)


@pytest.mark.parametrize(
    ("architecture", "head", "context"),
    [("strided", "gap", 0), ("maxpool", "hidden", 8), ("strided", "hidden", 0)],
)
def test_the_parts_share_the_parameters_of_the_network(architecture, head, context):
    """Together with the crop and the pooling between them they give the network's logits."""
    torch.manual_seed(0)
    model = RoadNetwork(architecture, head, [100.0] * 3, [50.0] * 3, context=context).eval()
    tiles = 200 * torch.rand(2, 3, 96 + 2 * context, 96 + 2 * context)
    cut = context // 8
    split = split_network(model, tiles)
    with torch.no_grad():
        features = split.trunk(tiles)
        assert features.shape == (2, 64, 12 + 2 * cut, 12 + 2 * cut)
        own = features[:, :, cut : cut + 12, cut : cut + 12]
        pooled = own.mean((2, 3)) if head == "gap" else own.amax((2, 3))
        logits = split.head(pooled.view(2, *split.pooled))
        torch.testing.assert_close(logits, model(tiles))
    assert (split.pooling, split.step, split.cropped, split.features) == (
        {"gap": "mean", "hidden": "max"}[head], 8, cut, 12,
    )  # fmt: skip
    shared = {id(each) for part in (split.trunk, split.head) for each in part.parameters()}
    assert shared == {id(each) for each in model.parameters()}


def test_one_export_serves_blocks_of_every_size(monkeypatch):
    """Also if the network was explained for tiles before, with fixed sizes."""
    made_for = []
    original = network_graph.export_of

    def counted(model, present, example, name, free_size):
        made_for.append(free_size)
        return original(model, present, example, name, free_size)

    monkeypatch.setattr(network_graph, "export_of", counted)
    network, read = made(Residual, 3), reader(scene_of(200, 232))
    VisualBackProp(network).attribute(torch.rand(1, 2, 96, 96))
    mapper = SeamlessMapper(network, 2)
    for size in (64, 128, 256):
        map_of_blocks(mapper, read, (200, 232), size)
    assert made_for == [False, True]


def test_tensors_that_are_replaced_are_followed():
    """Moving a network to a device replaces its buffers."""
    shape = (128, 128)
    network, read = made(Residual, 3), reader(scene_of(*shape))
    mapper = SeamlessMapper(network, 2)
    map_of_blocks(mapper, read, shape, 128)
    network.norm.running_mean = network.norm.running_mean + 1
    found, _ = map_of_blocks(mapper, read, shape, 128)
    expected, _ = windows_of_one_pass(network, read, shape, 96, 8)
    assert_close(found[6:11, 6:11], expected)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 12])
def test_sliding_windows_are_poolings_of_every_window(size):
    features = torch.randn(1, 3, 20, 17)
    windows = features.unfold(2, size, 1).unfold(3, size, 1)
    assert torch.equal(sliding_max(features, size), windows.amax((4, 5)))
    torch.testing.assert_close(sliding_mean(features, size), windows.mean((4, 5)))
