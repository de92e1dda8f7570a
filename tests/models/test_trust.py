"""Checkpoints of networks of other packages: nothing runs without consent."""

import copy

import pytest
import torch

from tests.helpers import backbones
from tests.helpers.backbones import Residual
from tests.helpers.checkpoints import saved
from vbp_lightning.models import CheckpointError, RoadClassifier, read_checkpoint
from vbp_lightning.models.fine_tuning import initialize_from

TARGET = "tests.helpers.backbones.residual"


@pytest.fixture
def trained():
    torch.manual_seed(1)
    return RoadClassifier(network={"_target_": TARGET, "depth": 1, "width": 4}).eval()


@pytest.fixture
def checkpoint(tmp_path, trained):
    return saved(tmp_path / "custom.ckpt", trained)


def forged(path, /, **network):
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["network"].update(network)
    torch.save(content, path)
    return path


def test_a_network_of_another_package_is_built_with_consent_only(checkpoint, trained, monkeypatch):
    called = []
    monkeypatch.setattr(backbones, "residual", lambda **given: called.append(given))
    for trust in (None, "tests.helpers.backbones", "tests.helpers.backbones.Residual", ["x.y"]):
        with pytest.raises(CheckpointError) as caught:
            RoadClassifier.load_from_checkpoint(checkpoint, trust=trust)
        (line,) = caught.value.lines
        assert line == (
            f"{checkpoint}: its network is what {TARGET}(depth=1, width=4) returns, which is not of"
            f" this package, and nothing was run (ckpt): if you trust both, add trust={TARGET}"
        )
    assert not called
    monkeypatch.undo()
    tiles = torch.randn(2, 3, 16, 16)
    for trust in (TARGET, ["x.y", TARGET]):
        loaded = RoadClassifier.load_from_checkpoint(checkpoint, trust=trust)
        assert torch.equal(loaded(tiles), trained(tiles))
        assert loaded.hparams["network"] == trained.hparams["network"]


def test_what_a_forged_checkpoint_adds_is_dropped_or_refused(checkpoint, tmp_path):
    dropped = {"pretrained": True, "path": "/etc/passwd", "url": "x", "weights": "DEFAULT"}
    forged(checkpoint, **dropped)
    RoadClassifier.load_from_checkpoint(checkpoint, trust=TARGET)
    for added in (
        {"depth": {"_target_": "tests.helpers.backbones.secret"}},
        {"_args_": [1]},
        {"_partial_": True},
        {"_recursive_": False},
        {"_target_": "builtins"},
        {"_target_": 5},
    ):
        before = checkpoint.read_bytes()
        with pytest.raises(CheckpointError, match="does not fit this version of the project"):
            RoadClassifier.load_from_checkpoint(forged(checkpoint, **added), trust=TARGET)
        checkpoint.write_bytes(before)
    other = forged(checkpoint, width=5)
    with pytest.raises(CheckpointError, match=r"does not fit this version.*size mismatch"):
        RoadClassifier.load_from_checkpoint(other, trust=TARGET)


@pytest.mark.parametrize(
    "change", [{"network": None}, {"architecture": "strided"}, {"network": 5}, {"network": {}}]
)
def test_a_custom_network_has_an_architecture_and_a_name(checkpoint, change):
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"].update(change)
    torch.save(content, checkpoint)
    with pytest.raises(CheckpointError, match=r"hyper_parameters\.network"):
        RoadClassifier.load_from_checkpoint(checkpoint, trust=TARGET)


def test_a_network_that_python_gave_is_given_again(tmp_path):
    network = Residual(width=5)
    model = RoadClassifier(network=network).eval()
    path = saved(tmp_path / "given.ckpt", model)
    for trust in (None, "tests.helpers.backbones.Residual"):
        with pytest.raises(CheckpointError, match=r"was given in Python .*network=…") as caught:
            RoadClassifier.load_from_checkpoint(path, trust=trust)
        assert "tests.helpers.backbones.Residual" in str(caught.value)
    loaded = RoadClassifier.load_from_checkpoint(path, network=Residual(width=5))
    tiles = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded(tiles), model(tiles))
    with pytest.raises(CheckpointError, match="size mismatch"):
        RoadClassifier.load_from_checkpoint(path, network=Residual(width=6))


def test_weights_are_taken_without_building_the_network_of_the_file(checkpoint, trained):
    forged(checkpoint, _target_="tests.helpers.backbones.secret")
    fresh = RoadClassifier(network={"_target_": TARGET, "depth": 1, "width": 4})
    assert initialize_from(fresh, checkpoint) == f"starting from {checkpoint}"
    for name, value in trained.network.backbone.state_dict().items():
        assert torch.equal(fresh.network.backbone.state_dict()[name], value)
    wider = RoadClassifier(network={"_target_": TARGET, "depth": 1, "width": 5})
    with pytest.raises(CheckpointError, match="belongs to another network"):
        initialize_from(wider, checkpoint)
    five = RoadClassifier(network={"_target_": TARGET, "width": 4}, mean=[0.0] * 5, std=[1.0] * 5)
    before = copy.deepcopy(five.network.backbone[0].stem.weight)
    assert "it had 3 bands, the data has 5" in initialize_from(five, checkpoint)
    assert torch.equal(five.network.backbone[0].stem.weight, before)


def test_a_resumed_run_has_the_network_of_its_checkpoint(checkpoint, trained):
    content = torch.load(checkpoint, weights_only=True)
    trained.on_load_checkpoint(content)
    with pytest.raises(CheckpointError, match=r"residual\(depth=1, width=4\), not strided"):
        RoadClassifier().on_load_checkpoint(content)
    assert read_checkpoint(checkpoint)["hyper_parameters"]["network"]["width"] == 4
