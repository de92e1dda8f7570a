"""The learning rates of runs that are cut off, resumed and extended."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from vbp_lightning.models import RoadClassifier

STEPS = 4
"""Optimiser steps of an epoch."""
PEAK = 5e-3

# the cut runs continue in a folder with a checkpoint, or in another one
pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* not empty", "ignore:The dirpath has changed"
)


def one_cycle(step, steps):
    """Learning rate and first moment's decay at a step of a one-cycle schedule of some steps.

    Half a cosine up from 1/25 of the peak in 30 % of the steps, half a cosine down to 1/250 000 of
    it in the others; the decay falls from 0.95 to 0.85 and rises again (Smith and Topin 2019).
    """
    top = 0.3 * steps - 1
    if step <= top:
        share = (1 - math.cos(math.pi * step / top)) / 2
        return PEAK / 25 + (PEAK - PEAK / 25) * share, 0.95 - 0.1 * share
    share = (1 + math.cos(math.pi * (step - top) / (steps - 1 - top))) / 2
    least = PEAK / 25 / 1e4
    return least + (PEAK - least) * share, 0.95 - 0.1 * share


@dataclass
class Rates(pl.Callback):
    """Records the rates of each optimiser step and ends the training in the middle of an epoch."""

    cut_at: int | None = None
    found: list[tuple[float, float]] = field(default_factory=list)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.cut_at:
            raise KeyboardInterrupt
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        self.found.append((rate, optimizer.param_groups[0]["betas"][0]))


def train(folder: Path, epochs: int, cut_at: int | None = None, start: Path | None = None):
    """Trains to an epoch; returns the rates and the checkpoint of the last epoch that ended."""
    torch.manual_seed(0)
    tiles, labels = torch.rand(2 * STEPS, 3, 32, 32), torch.arange(2 * STEPS) % 2
    loader = DataLoader(TensorDataset(tiles, labels), batch_size=2)
    rates = Rates(cut_at)
    last = pl.callbacks.ModelCheckpoint(folder, "last", enable_version_counter=False)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[rates, last],
        num_sanity_val_steps=0,
        **quiet,
    )
    model = RoadClassifier(mean=[0.5] * 3, learning_rate=PEAK)
    try:
        trainer.fit(model, loader, loader, ckpt_path=start, weights_only=True)
    except SystemExit:  # Lightning's, after an interrupt
        assert cut_at is not None
    return rates.found, folder / "last.ckpt"


def assert_same_end(one: Path, other: Path):
    first, second = (torch.load(path, weights_only=True) for path in (one, other))
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(first[part], second[part], rtol=0, atol=0)
    for part in ("lr_schedulers", "global_step", "epoch"):
        assert first[part] == second[part]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs of 3 and of 5 epochs."""
    folder = tmp_path_factory.mktemp("whole")
    return {epochs: train(folder / str(epochs), epochs) for epochs in (3, 5)}


def test_a_run_follows_one_cycle(whole):
    for epochs, (found, _) in whole.items():
        expected = [one_cycle(step, epochs * STEPS) for step in range(epochs * STEPS)]
        torch.testing.assert_close(*map(torch.DoubleTensor, (found, expected)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("cut_at", [1, 6, 8])
def test_a_run_that_is_cut_off_ends_as_a_whole_one(whole, tmp_path, cut_at):
    _, cut = train(tmp_path, 3, cut_at)
    found, resumed = train(tmp_path, 3, start=cut if cut.is_file() else None)
    assert found == whole[3][0][cut_at // STEPS * STEPS :]
    assert_same_end(resumed, whole[3][1])


def test_a_finished_run_goes_on_with_the_rates_of_the_longer_schedule(whole, tmp_path):
    found, extended = train(tmp_path / "whole", 5, start=whole[3][1])
    assert found == whole[5][0][3 * STEPS :]
    assert found[0] > whole[3][0][-1], "the learning rate rises again"
    # also if either part was cut off
    _, cut = train(tmp_path / "cut", 3, cut_at=6)
    train(tmp_path / "cut", 3, start=cut)
    train(tmp_path / "cut", 5, cut_at=17, start=cut)
    train(tmp_path / "cut", 5, start=cut)
    assert_same_end(cut, extended)


def test_a_run_that_is_cut_off_and_extended_changes_schedules_at_the_cut(whole, tmp_path):
    _, cut = train(tmp_path, 3, cut_at=6)
    found, extended = train(tmp_path, 5, start=cut)
    assert found == whole[5][0][STEPS:]
    stored, planned = (torch.load(p, weights_only=True) for p in (extended, whole[5][1]))
    assert stored["lr_schedulers"][0]["last_epoch"] == 5 * STEPS
    # it is no run of 5 epochs: its first epoch followed the schedule of 3
    name = "network.prob.weight"
    assert not torch.equal(stored["state_dict"][name], planned["state_dict"][name])


def test_the_text_of_a_classifier_says_what_it_is():
    model = RoadClassifier("maxpool", "gap", mean=[1.0] * 4, std=[2.0] * 4, context=16)
    model.threshold.fill_(0.25)
    first = repr(model).splitlines()[1].strip()
    assert first == "architecture=maxpool, head=gap, bands=4, context=16, threshold=0.25, tta=False"
    other = repr(RoadClassifier(network=torch.nn.Sequential(torch.nn.Conv2d(3, 1, 3))))
    assert "architecture=custom, network=torch.nn.modules.container.Sequential, bands=3" in other
