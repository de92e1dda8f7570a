"""Checkpoint callbacks: moved folders, full disks, early stopping of a resumed run."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason

from vbp_lightning.callbacks import AtomicCheckpointIO, ResumableEarlyStopping, RunCheckpoint
from vbp_lightning.cli import explain_failure


def test_scores_and_paths_survive_a_moved_folder():
    old = RunCheckpoint("/old/checkpoints", "best", monitor="val/auroc")
    old.best_model_score = old.kth_value = torch.tensor(0.9)
    old.best_model_path = old.kth_best_model_path = "/old/checkpoints/best.ckpt"
    old.best_k_models = {"/old/checkpoints/best.ckpt": torch.tensor(0.9)}
    new = RunCheckpoint("/new/checkpoints", "best", monitor="val/auroc")
    assert new.state_key == old.state_key
    new.load_state_dict(old.state_dict())
    assert new.best_model_path == new.kth_best_model_path == "/new/checkpoints/best.ckpt"
    assert new.best_k_models == {"/new/checkpoints/best.ckpt": torch.tensor(0.9)}
    assert new.best_model_score == new.kth_value == torch.tensor(0.9)
    assert new.last_model_path == ""


def test_best_and_last_keep_their_states_apart():
    best = RunCheckpoint("/run", "best", monitor="val/auroc")
    assert best.state_key != RunCheckpoint("/run", "last").state_key


@pytest.mark.parametrize("stopped_epoch", [0, 4])
def test_a_run_killed_after_its_early_stop_does_not_train_on(stopped_epoch):
    callback = ResumableEarlyStopping("val/auroc", mode="max")
    callback.stopped_epoch = stopped_epoch
    trainer = SimpleNamespace(should_stop=False)
    callback.on_train_start(trainer, None)
    assert trainer.should_stop == (stopped_epoch > 0)


@pytest.mark.parametrize(("patience", "stops"), [(3, True), (4, False)])
def test_an_early_stopped_run_goes_on_with_a_greater_patience(patience, stops):
    old = ResumableEarlyStopping("val/auroc", mode="max", patience=3)
    old.stopped_epoch, old.wait_count = 5, 3
    old.stopping_reason = EarlyStoppingReason.PATIENCE_EXHAUSTED
    new = ResumableEarlyStopping("val/auroc", mode="max", patience=patience)
    new.load_state_dict(old.state_dict())
    trainer = SimpleNamespace(should_stop=False)
    new.on_train_start(trainer, None)
    assert new.patience == patience
    assert trainer.should_stop is stops


def test_a_full_disk_is_one_line_and_the_older_checkpoint_stays(tmp_path, monkeypatch):
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.parent.mkdir()
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)

    def full(self, content):
        with self.open("wb") as file:
            file.write(bytes(content)[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as error:
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    (line,) = explain_failure(error.value).lines
    assert line.startswith(f"{path}: cannot be written: No space left on device")
    assert line.endswith("repeat the command")
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
