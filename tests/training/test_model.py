"""The classifier of a run and the checkpoint that it starts from."""

from types import SimpleNamespace

import pytest
import torch

from tests.helpers import backbones
from tests.helpers.checkpoints import saved
from tests.helpers.composed import composed
from vbp_lightning.data.tiles.corrections import Corrections
from vbp_lightning.errors import UserError
from vbp_lightning.models import RoadClassifier
from vbp_lightning.models.checkpoint import CheckpointError
from vbp_lightning.training.model import build_model
from vbp_lightning.training.resumption import add_origin

PACKAGE = "tests.helpers.backbones"

DATA = SimpleNamespace(
    context=0,
    tile_size=96,
    mean=[100.0] * 3,
    std=[50.0] * 3,
    normalisation=SimpleNamespace(low=None, high=None),
    data_config={},
    scene_splits={},
    scene_digests={},
    corrections=Corrections(),
    imagery={},
)


def first_weight(model):
    return model.state_dict()["network.block0.0.weight"]


@pytest.fixture
def start(tmp_path):
    """A checkpoint to start from, and the settings of a run that does."""
    torch.manual_seed(1)
    path = saved(tmp_path / "start.ckpt", RoadClassifier())
    cfg = composed("train", f"init_from={path}")
    add_origin(cfg)
    return path, cfg


def test_a_run_starts_from_its_checkpoint(start):
    path, cfg = start
    weights = torch.load(path, weights_only=True)["state_dict"]["network.block0.0.weight"]
    assert torch.equal(first_weight(build_model(cfg, DATA)), weights)


def test_a_run_that_goes_on_needs_the_checkpoint_only_if_it_has_none_of_its_own(start):
    path, cfg = start
    saved(path, RoadClassifier())
    with pytest.raises(CheckpointError, match=r"start\.ckpt: is not the file that the run"):
        build_model(cfg, DATA)
    build_model(cfg, DATA, is_continued=True)
    path.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        build_model(cfg, DATA)
    build_model(cfg, DATA, is_continued=True)


def built(target, *settings, **arguments):
    """The classifier of a run with a network of another package."""
    given = (f"++model.network.{name}={value}" for name, value in arguments.items())
    cfg = composed("train", "model=custom", f"model.network._target_={PACKAGE}.{target}", *given)
    return build_model(cfg, DATA)


@pytest.mark.parametrize("target", ["Residual", "Dense", "Gated", "LayerNormed", "residual"])
@pytest.mark.parametrize("classes", [1, 2])
def test_every_kind_of_network_is_taken_and_left_as_it_was_built(target, classes):
    torch.manual_seed(3)
    model = built(target, num_classes=classes)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    expected = getattr(backbones, target)(num_classes=classes).state_dict()
    assert torch.equal(torch.rand(1), drawn)
    for name, value in expected.items():
        assert torch.equal(model.network.backbone.state_dict()[name], value), name
    assert model.training


@pytest.mark.parametrize(
    ("target", "arguments", "said"),
    [
        ("Residual", {"num_classes": 3}, r"Residual\(num_classes=3\) returns \(2, 3\) float32 in"),
        ("Pair", {}, r"Pair\(\) returns a tuple in training"),
        ("Attention", {}, r"cannot be explained, so it is not trained: .*attention over places"),
        ("Branching", {}, "cannot be explained, so it is not trained: .*torch.export"),
        ("Residual", {"bands": 4, "wdth": 3}, "cannot be built .*wdth"),
        ("FixedSize", {"side": 224}, r"cannot take tiles of shape \(2, 3, 96, 96\) \(.*"),
        ("by_path", {"path": "/tmp/9"}, "by_path.*as the checkpoint would store it, is another"),
    ],
)
def test_a_network_that_cannot_serve_is_refused_before_the_training(target, arguments, said):
    with pytest.raises(UserError, match=said) as caught:
        built(target, **arguments)
    (line,) = caught.value.lines
    assert line.startswith("model.network")


def test_a_run_starts_from_a_file_of_weights_once(tmp_path, capsys):
    path = tmp_path / "weights.pt"
    torch.manual_seed(1)
    torch.save(backbones.Residual(num_classes=5).state_dict(), path)
    weights = torch.load(path, weights_only=True)
    cfg = composed(
        *("train", "model=custom", f"model.network._target_={PACKAGE}.Residual"),
        f"model.weights={path}",
    )
    add_origin(cfg)
    model = build_model(cfg, DATA)
    assert torch.equal(model.network.backbone.conv.weight, weights["conv.weight"])
    assert "head.weight left out, 5×8 instead of 1×8" in capsys.readouterr().out
    torch.save(backbones.Residual().state_dict(), path)
    with pytest.raises(CheckpointError, match=r"weights\.pt: is not the file that the run was"):
        build_model(cfg, DATA)
    path.unlink()
    build_model(cfg, DATA, is_continued=True)
    with pytest.raises(UserError, match=r"weights\.pt: no such file \(model\.weights\)"):
        build_model(cfg, DATA)


def test_a_road_network_starts_from_its_own_weights(tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "road.pt"
    network = RoadClassifier().network
    torch.save(network.state_dict(), path)
    cfg = composed("train", f"model.weights={path}")
    add_origin(cfg)
    model = build_model(cfg, DATA)
    assert torch.equal(first_weight(model), network.state_dict()["block0.0.weight"])
