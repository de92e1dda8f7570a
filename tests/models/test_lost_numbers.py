"""Losses, weights and probabilities that are infinite or not a number."""

import math

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from vbp_lightning.callbacks import RunCheckpoint
from vbp_lightning.errors import UserError
from vbp_lightning.models import RoadClassifier
from vbp_lightning.models.metrics import numbers

STEPS = 4
"""Training steps of an epoch."""


class At(pl.Callback):
    """Changes the pixels of a training step, or the weights after it."""

    def __init__(self, step, value, of_weights=False):
        self.step, self.value, self.of_weights = step, value, of_weights

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step + 1 == self.step and not self.of_weights:
            batch[0][0, 0, 0, 0] = self.value

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step and self.of_weights:
            with torch.no_grad():
                pl_module.network.prob.weight[0, 0] = self.value


def loader(count, lost=False):
    torch.manual_seed(0)
    tiles = torch.rand(count, 3, 32, 32)
    tiles[0] = tiles[0] * (math.nan if lost else 1)
    return DataLoader(TensorDataset(tiles, torch.arange(count) % 2), batch_size=4)


def fit(folder, callback, *, lost=False, start=None, **settings):
    torch.manual_seed(0)
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[RunCheckpoint(str(folder), "last"), callback],
        **{
            "max_epochs": 3,
            "num_sanity_val_steps": 0,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **settings,
        },
    )
    trainer.fit(RoadClassifier(), loader(4 * STEPS), loader(8, lost), ckpt_path=start)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_training_and_names_its_step(tmp_path, precision, value):
    with pytest.raises(UserError) as caught:
        fit(tmp_path, At(2 * STEPS + 2, value), precision=precision)
    (line,) = caught.value.lines
    assert line.startswith("epoch 3: the loss of step 10 is infinite or not a number")
    assert "those of epoch 2 are kept" in line
    assert "model.learning_rate=0.005" in line
    assert f"trainer.precision={precision}" in line
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["epoch"] == 1
    assert all(value.isfinite().all() for value in kept["state_dict"].values())
    with pytest.raises(UserError, match=r"^epoch 3: the loss of step 11 "):
        fit(tmp_path, At(2 * STEPS + 3, value), precision=precision, start=tmp_path / "last.ckpt")


def test_a_loss_that_is_lost_in_the_first_epoch_leaves_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"^epoch 1: the loss of step 1 .*there is none yet"):
        fit(tmp_path, At(1, math.nan))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("every", [1, 2])
def test_weights_that_are_lost_by_the_last_step_of_an_epoch_are_not_kept(tmp_path, every):
    with pytest.raises(UserError, match=r"^epoch 3: (P\(road\) of a validation tile|a weight) is"):
        fit(tmp_path, At(3 * STEPS, math.nan, of_weights=True), check_val_every_n_epoch=every)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1


def test_a_validation_tile_without_a_probability_stops_the_training(tmp_path):
    with pytest.raises(UserError, match=r"^epoch 1: P\(road\) of a validation tile is"):
        fit(tmp_path, At(-1, 0), lost=True)


def test_probabilities_that_are_no_numbers_are_counted():
    model = RoadClassifier().eval()
    tiles = torch.rand(3, 3, 96, 96)
    tiles[1] = math.nan
    with torch.no_grad(), pytest.raises(UserError, match=r"^1 of 3 scores"):
        model.probability(tiles)
    assert numbers(torch.tensor([0.0, 1.0])).tolist() == [0, 1]
