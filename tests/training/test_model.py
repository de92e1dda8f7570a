"""The classifier of a run and the checkpoint that it starts from."""

from types import SimpleNamespace

import pytest
import torch

from tests.helpers.checkpoints import saved
from tests.helpers.composed import composed
from vbp_lightning.models import RoadClassifier
from vbp_lightning.models.checkpoint import CheckpointError
from vbp_lightning.training.model import build_model
from vbp_lightning.training.resumption import add_origin

DATA = SimpleNamespace(
    context=0,
    mean=[100.0] * 3,
    std=[50.0] * 3,
    normalisation=SimpleNamespace(low=None, high=None),
    data_config={},
    scene_splits={},
    scene_digests={},
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
    with pytest.raises(CheckpointError, match=r"start\.ckpt: is not the checkpoint that the run"):
        build_model(cfg, DATA)
    build_model(cfg, DATA, is_continued=True)
    path.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        build_model(cfg, DATA)
    build_model(cfg, DATA, is_continued=True)
