"""The ready choices of timm, where timm is installed: built, checked, stored and loaded."""

import pytest
import torch

from tests.helpers.checkpoints import saved
from tests.helpers.composed import CONF, composed
from tests.training.test_model import DATA
from vbp_lightning.models import RoadClassifier
from vbp_lightning.training.model import build_model

TARGET = "timm.create_model"
CHOICES = sorted(
    path.stem for path in (CONF / "model").glob("*.yaml") if TARGET in path.read_text("utf-8")
)


def test_there_are_four():
    assert CHOICES == ["convnext_atto", "efficientnet_b0", "mobilenetv3_small_100", "resnet18"]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_is_built_checked_and_loaded_with_consent(choice, tmp_path):
    pytest.importorskip("timm", reason="needs timm: pip install 'vbp_lightning[models]'")
    model = build_model(composed("train", f"model={choice}"), DATA).eval()
    assert model.hparams["network"] == {
        "_target_": TARGET,
        "model_name": choice,
        "num_classes": 1,
    }
    model.hparams["imagery"] = None
    loaded = RoadClassifier.load_from_checkpoint(saved(tmp_path / "a.ckpt", model), trust=TARGET)
    tiles = 100 + 50 * torch.randn(2, 3, 96, 96)
    assert torch.equal(loaded(tiles), model(tiles))
