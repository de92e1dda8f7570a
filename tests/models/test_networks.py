"""The two networks against the table in ``docs/architecture.md``, entry by entry."""

import pytest
import torch
from torch import nn

from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.models import RoadNetwork

MAPS = {"block0": (8, 96), "block1": (32, 48), "block2": (32, 24), "block3": (64, 12)}


def network(architecture="strided", head="hidden", bands=3):
    torch.manual_seed(0)
    return RoadNetwork(architecture, head, [100.0] * bands, [50.0] * bands).eval()


@pytest.mark.parametrize("architecture", ["strided", "maxpool"])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_every_block_has_the_shape_of_the_table(architecture, bands):
    model = network(architecture, bands=bands)
    values = torch.rand(2, bands, 96, 96)
    shapes = {}
    for name, module in model.named_children():
        values = module(values)
        shapes[name.replace("pool", "block")] = tuple(values.shape)
    assert {name: shapes[name] for name in MAPS} == {
        name: (2, channels, size, size) for name, (channels, size) in MAPS.items()
    }
    assert shapes["hidden"] == (2, 512)
    assert shapes["prob"] == (2, 1)


@pytest.mark.parametrize("architecture", ["strided", "maxpool"])
@pytest.mark.parametrize("head", ["hidden", "gap"])
def test_parameters_are_counted_by_hand(architecture, head):
    convolutions = 3 * 8 + 8 * 32 * 9 + 32 * 32 * 9 + 32 * 64 * 9
    batch_norms = 2 * (8 + 32 + 32 + 64)
    heads = {"hidden": 64 * 512 + 2 * 512 + 512 + 1, "gap": 64 + 1}
    parameters = sum(p.numel() for p in network(architecture, head).parameters())
    assert parameters == convolutions + batch_norms + heads[head]


@pytest.mark.parametrize("architecture", ["strided", "maxpool"])
def test_layers_are_those_of_the_table(architecture):
    model = network(architecture)
    for index in range(4):
        convolution, norm, relu = getattr(model, f"block{index}")
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(relu, nn.ReLU)
        kernel = 1 if index == 0 else 3
        stride = 2 if index > 0 and architecture == "strided" else 1
        assert convolution.kernel_size == (kernel, kernel)
        assert convolution.stride == (stride, stride)
        assert convolution.padding == (kernel // 2, kernel // 2)
    pools = [module for module in model.modules() if isinstance(module, nn.MaxPool2d)]
    assert [(p.kernel_size, p.stride) for p in pools] == [(2, 2)] * (
        3 if architecture == "maxpool" else 0
    )


def test_gap_head_is_a_linear_map_of_the_mean_of_block3():
    model = network(head="gap")
    tiles = torch.rand(4, 3, 96, 96) * 255
    maps = model.block3(model.block2(model.block1(model.block0(model.normalize(tiles)))))
    expected = maps.mean((2, 3)) @ model.prob.weight.T + model.prob.bias
    torch.testing.assert_close(model(tiles), expected)


def test_normalisation_is_stored_in_the_state_dict():
    one = RoadNetwork("strided", "hidden", [10.0, 20.0], [1.0, 2.0])
    other = RoadNetwork("strided", "hidden", [0.0, 0.0], [1.0, 1.0])
    other.load_state_dict(one.state_dict())
    tiles = torch.full((1, 2, 4, 4), 30.0)
    normalised = other.normalize(tiles)
    assert normalised[0, 0].unique().tolist() == [20.0]
    assert normalised[0, 1].unique().tolist() == [5.0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("resnet", "hidden", [0.0], [1.0]),
        ("strided", "cam", [0.0], [1.0]),
        ("strided", "hidden", [0.0], [1.0, 1.0]),
        ("strided", "hidden", [], []),
    ],
)
def test_settings_outside_of_the_table_are_refused(arguments):
    with pytest.raises(ValueError, match=r"choose|give"):
        RoadNetwork(*arguments)


def test_values_beyond_a_stretch_are_clipped():
    plain = RoadNetwork("strided", "hidden", [50.0], [25.0]).eval()
    clipped = RoadNetwork("strided", "hidden", [50.0], [25.0], [25.0], [75.0]).eval()
    clipped.load_state_dict(plain.state_dict(), strict=False)
    tiles = torch.linspace(-100, 200, 96 * 96).view(1, 1, 96, 96)
    assert torch.equal(clipped(tiles), plain(tiles.clamp(25, 75)))
    assert clipped.normalize(tiles).aminmax() == (-1.0, 1.0)


@pytest.mark.parametrize("architecture", ["strided", "maxpool"])
def test_masks_of_a_stretched_network_are_those_of_clipped_tiles(architecture):
    torch.manual_seed(0)
    clipped = RoadNetwork(architecture, "hidden", [50.0], [25.0], [25.0], [75.0]).eval()
    plain = RoadNetwork(architecture, "hidden", [50.0], [25.0]).eval()
    plain.load_state_dict(clipped.state_dict(), strict=False)
    tiles = 100 * torch.rand(2, 1, 96, 96)
    assert torch.equal(
        VisualBackProp(clipped, "deconv").attribute(tiles),
        VisualBackProp(plain, "deconv").attribute(tiles.clamp(25, 75)),
    )


@pytest.mark.parametrize("architecture", ["strided", "maxpool"])
@pytest.mark.parametrize("head", ["hidden", "gap"])
def test_context_changes_neither_the_weights_nor_what_follows_the_tiles_own_features(
    architecture, head
):
    torch.manual_seed(0)
    plain = RoadNetwork(architecture, head, [100.0], [50.0]).eval()
    wide = RoadNetwork(architecture, head, [100.0], [50.0], context=16).eval()
    wide.load_state_dict(plain.state_dict())
    tiles = 200 * torch.rand(2, 1, 128, 128)
    features = tiles
    for name, module in plain.named_children():
        if name == "global_pool":
            break
        features = module(features)
    expected = features[:, :, 2:-2, 2:-2]
    for module in list(plain.children())[-4 if head == "hidden" else -3 :]:
        expected = module(expected)
    torch.testing.assert_close(wide(tiles), expected)


@pytest.mark.parametrize("architecture", ["strided", "maxpool"])
def test_pixels_beyond_a_context_of_8_px_have_no_influence(architecture):
    torch.manual_seed(0)
    near = RoadNetwork(architecture, "gap", [100.0], [50.0], context=8).eval()
    far = RoadNetwork(architecture, "gap", [100.0], [50.0], context=24).eval()
    far.load_state_dict(near.state_dict())
    tiles = 200 * torch.rand(2, 1, 144, 144)
    torch.testing.assert_close(near(tiles[:, :, 16:-16, 16:-16]), far(tiles))
    none = RoadNetwork(architecture, "gap", [100.0], [50.0]).eval()
    none.load_state_dict(near.state_dict())
    assert not torch.allclose(none(tiles[:, :, 24:-24, 24:-24]), far(tiles))


@pytest.mark.parametrize("architecture", ["strided", "maxpool"])
def test_masks_cover_the_context_too(architecture):
    torch.manual_seed(0)
    plain = RoadNetwork(architecture, "hidden", [100.0], [50.0]).eval()
    wide = RoadNetwork(architecture, "hidden", [100.0], [50.0], context=16).eval()
    wide.load_state_dict(plain.state_dict())
    tiles = 200 * torch.rand(4, 1, 128, 128)
    assert torch.equal(
        VisualBackProp(wide).attribute(tiles), VisualBackProp(plain).attribute(tiles)
    )


@pytest.mark.parametrize("context", [-8, 4, 12])
def test_a_context_that_features_cannot_be_cropped_by_is_refused(context):
    with pytest.raises(ValueError, match="multiple of 8"):
        RoadNetwork("strided", "hidden", [0.0], [1.0], context=context)
