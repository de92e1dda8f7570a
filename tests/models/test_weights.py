"""Starting from a file of weights: what fits, what is missing, what is left over."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.helpers.backbones import Residual
from vbp_lightning.errors import UserError
from vbp_lightning.models.custom_network import fit_bands, weights_for_bands
from vbp_lightning.models.weights import start_from_weights


def drawn(seed, **arguments):
    torch.manual_seed(seed)
    return Residual(**arguments)


@pytest.fixture
def start(tmp_path):
    """Starts a network from a state dict in a file; returns the line."""

    def begin(network, state, name="weights.pt"):
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file({key: value.contiguous() for key, value in state.items()}, path)
        else:
            torch.save(state, path)
        return start_from_weights(network, path, "model.weights").replace(str(path), "FILE")

    return begin


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "network.backbone."])
def test_all_fits(start, name, prefix):
    source, network = drawn(1), drawn(2)
    state = {f"{prefix}{key}": value for key, value in source.state_dict().items()}
    line = start(network, state, name)
    assert line == "starting from FILE (model.weights): 10 of 10 tensors fit"
    for key, value in source.state_dict().items():
        assert torch.equal(network.state_dict()[key], value)


def test_a_head_of_another_size_and_other_bands(start):
    source, network = drawn(1, num_classes=1000), drawn(2)
    fit_bands(network, 5)
    before = copy.deepcopy(network.state_dict())
    line = start(network, {"state_dict": source.state_dict(), "epoch": 3})
    assert line == (
        "starting from FILE (model.weights): 8 of 10 tensors fit; stem.weight fitted from 3 to 5"
        " bands; head.weight left out, 1000×8 instead of 1×8; head.bias left out, 1000 instead"
        " of 1"
    )
    expected = weights_for_bands(source.state_dict()["stem.weight"], 5)
    assert torch.equal(network.state_dict()["stem.weight"], expected)
    for key in ("head.weight", "head.bias"):
        assert torch.equal(network.state_dict()[key], before[key])


def test_what_is_missing_and_left_over_is_said(start):
    state = drawn(1).state_dict()
    del state["conv.bias"], state["norm.num_batches_tracked"]
    state["neck.weight"] = torch.ones(3)
    line = start(drawn(2), state)
    assert line.endswith(
        "8 of 10 tensors fit; not in the file, so initial: conv.bias;"
        " not in the network: neck.weight"
    )


def test_only_names_of_a_long_list_are_shown(start):
    state = drawn(1).state_dict() | {f"extra{number}": torch.ones(1) for number in range(9)}
    assert "extra0, extra1, extra2, extra3 and 5 more" in start(drawn(2), state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"conv.weight": torch.ones(9, 8, 3, 3)}, "conv.weight 9×8×3×3 instead of 8×8×3×3"),
        ({"norm.weight": torch.ones(8, dtype=torch.long)}, "norm.weight 8 of int64 instead of 8"),
        ({"conv.weight": torch.full((8, 8, 3, 3), float("nan"))}, "not finite"),
    ],
)
def test_weights_that_do_not_fit_leave_the_network_as_it_was(start, change, said):
    network = drawn(2)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(UserError, match=said) as caught:
        start(network, drawn(1).state_dict() | change)
    assert "(model.weights" in str(caught.value)
    for key, value in before.items():
        assert torch.equal(network.state_dict()[key], value)


def test_weights_of_another_network_are_refused(start):
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 1))
    with pytest.raises(UserError, match=r"belongs to another network .*it holds 0\.weight"):
        start(drawn(2), other.state_dict())
    with pytest.raises(
        UserError, match=r"it holds nothing, the network stem\.weight, norm\.weight, "
    ):
        start(drawn(2), {})
