"""Networks of other packages: their settings, bands and logits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.helpers.backbones import Dense, Gated, LayerNormed, Residual
from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.errors import UserError
from vbp_lightning.models import Normalize, RoadClassifier
from vbp_lightning.models.custom_network import (
    CustomNetwork,
    build,
    described,
    fit_bands,
    plain_settings,
    setting_errors,
    weights_for_bands,
)

KINDS = (Residual, Dense, Gated, LayerNormed)


@given(before=st.integers(1, 6), bands=st.integers(1, 9))
def test_an_image_with_equal_bands_gives_what_it_gave(before, bands):
    weight = torch.randn(4, before, 3, 3, dtype=torch.float64)
    grey = torch.randn(1, 1, 5, 5, dtype=torch.float64)
    fitted = weights_for_bands(weight, bands)
    assert fitted.shape == (4, bands, 3, 3)
    expected = nn.functional.conv2d(grey.expand(-1, before, -1, -1), weight)
    found = nn.functional.conv2d(grey.expand(-1, bands, -1, -1), fitted)
    torch.testing.assert_close(found, expected)


def test_filters_are_repeated_and_shared_in_numbers():
    weight = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1)
    assert weights_for_bands(weight, 4).flatten().tolist() == [0.5, 2, 4, 0.5]
    assert weights_for_bands(weight, 2).flatten().tolist() == [3, 4]
    assert weights_for_bands(weight, 1).flatten().tolist() == [7]
    assert torch.equal(weights_for_bands(weight, 3), weight)


def test_a_first_convolution_in_groups_is_refused_by_name():
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.ReLU())
    with pytest.raises(ValueError, match="0 takes 4 bands in 2 groups, the data has 3"):
        fit_bands(network, 3)
    fit_bands(network, 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_p_of_road_is_the_sigmoid_or_softmax_of_standardised_tiles(kind, bands):
    tiles = 50 + 20 * torch.randn(3, bands, 32, 32)
    mean, std = [40.0 + band for band in range(bands)], [9.0 + band for band in range(bands)]
    for classes in (1, 2):
        backbone = kind(num_classes=classes)
        model = RoadClassifier(network=backbone, mean=mean, std=std).eval()
        shape = (1, bands, 1, 1)
        scores = backbone((tiles - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape))
        expected = scores.sigmoid()[:, 0] if classes == 1 else scores.softmax(1)[:, 1]
        torch.testing.assert_close(model.probability(tiles).float(), expected)
        assert model(tiles).shape == (3, 1)
        assert VisualBackProp(model).attribute(tiles).shape == (3, 1, 32, 32)


def test_bands_are_clipped_before_the_network():
    model = RoadClassifier(network=Residual(), low=[0.0] * 3, high=[9.0] * 3).eval()
    tiles = torch.rand(2, 3, 16, 16) * 30 - 10
    torch.testing.assert_close(model(tiles), model(tiles.clamp(0, 9)))


def test_the_hyperparameters_name_the_network_as_text():
    target = "tests.helpers.backbones.residual"
    network = {"_target_": target, "depth": 3, "pretrained": False, "path": None, "width": 4}
    model = RoadClassifier(network=network)
    assert model.hparams["network"] == {"_target_": target, "depth": 3, "width": 4}
    assert (model.hparams["architecture"], model.hparams["head"]) == ("custom", None)
    assert described(network) == f"{target}(depth=3, width=4)"
    given_in_python = RoadClassifier(network=Residual())
    assert given_in_python.hparams["network"] == "tests.helpers.backbones.Residual"
    assert RoadClassifier().hparams["network"] is None


def test_paths_addresses_and_weights_are_no_part_of_the_text():
    kept = {"depth": 3, "name": "resnet18.a1_in1k", "wide": True, "drop": 0.1, "sizes": [3, [4]]}
    dropped = {
        "pretrained": True,
        "weights_backbone": "DEFAULT",
        "checkpoint_path": "x",
        "start": "/home/me/x",
        "other": "c:\\x",
        "address": "https://x.y",
        "hub": "hf-hub:me/it",
        "file": "weights",
        "init": "best.pth",
        "many": ["a", "b/c"],
        "nested": {"a": "../x"},
        "long": "x" * 101,
    }
    assert plain_settings({"_target_": "a.b", **kept, **dropped}) == {"_target_": "a.b", **kept}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (None, "model.network=None: must name a callable"),
        ({}, "model.network._target_: is not set; name a callable"),
        ({"_target_": "???"}, "model.network._target_: is not set"),
        ({"_target_": "open"}, "model.network._target_=open: must be the full name of a callable"),
        ({"_target_": 5}, "model.network._target_=5: must be"),
        ({"_target_": "a.b; c"}, "must be the full name"),
        ({"_target_": "a.b", "x": {"_target_": "os.getcwd"}}, "model.network.x: must be a number"),
        ({"_target_": "a.b", "x": [{"_target_": "os.getcwd"}]}, "model.network.x: must be"),
        ({"_target_": "a.b", "_args_": [1]}, "model.network._args_: must be"),
        ({"_target_": "a.b", "_partial_": True}, "model.network._partial_: must be"),
        ({"_target_": "a.b", "x": 1 + 2j}, "model.network.x: must be"),
    ],
)
def test_wrong_settings_are_one_line_each(settings, said):
    (line,) = setting_errors(settings, "model.network")
    assert said in line


def test_right_settings():
    plain = {"a": 1, "b": [1.5, True, "x"], "c": {"d": None}, "e": "/any/text"}
    assert setting_errors({"_target_": "a.b", **plain}, "model.network") == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"_target_": "nowhere.net"}, "nowhere.net: cannot be built (.*nowhere"),
        ({"_target_": "tests.helpers.backbones.Nothing"}, "cannot be built (.*Nothing"),
        ({"_target_": "tests.helpers.backbones.Residual", "wdth": 3}, "(.*wdth.*as key.NAME"),
        ({"_target_": "tests.helpers.backbones.number"}, "returns a int, not a network"),
        ({"_target_": "tests.helpers.backbones.secret"}, "cannot be built (.*was called"),
    ],
)
def test_a_network_that_cannot_be_built_is_one_line(settings, said):
    with pytest.raises(UserError, match=said.replace("(", r"\(")) as caught:
        build(settings, "key")
    (line,) = caught.value.lines
    assert line.startswith(f"key._target_={settings['_target_']}")


def test_a_context_and_missing_networks_are_refused():
    with pytest.raises(ValueError, match=r"data\.context=0"):
        RoadClassifier(network=Residual(), context=8)
    with pytest.raises(ValueError, match="network: is not given"):
        RoadClassifier("custom")


def test_scores_of_other_shapes_are_left_as_they_are():
    network = CustomNetwork(Residual(num_classes=3), Normalize([0.0] * 3, [1.0] * 3)).eval()
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 3)
