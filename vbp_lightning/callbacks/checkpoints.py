"""Checkpoints and early stopping that survive a kill at any moment."""

import io
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from pydantic import StrictStr
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason
from pytorch_lightning.plugins.io import TorchCheckpointIO

from vbp_lightning.files import replacing
from vbp_lightning.models.checkpoint import read_checkpoint
from vbp_lightning.models.classifier import LOGGED
from vbp_lightning.records import Number, PositiveCount, Size, checked, one_of

Monitored = Annotated[StrictStr, one_of(LOGGED)]
"""The name of a metric that is logged each epoch."""

_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


class RunCheckpoint(ModelCheckpoint):
    """One checkpoint file per run, rewritten at the end of an epoch.

    With a ``monitor`` it is that of the best epoch, without one that of the last. Checkpoints are
    saved at the end of an epoch only, because an epoch resumed from its middle would not be
    repeated exactly. The folder of a run may be moved before it is resumed: the stored paths are
    replaced by the present ones.

    Args:
        dirpath: The run's ``checkpoints`` folder.
        filename: Name without suffix, such as ``best``.
        monitor: A logged metric, or None.
        mode: ``max`` or ``min``: which values of the metric are better.
    """

    @checked
    def __init__(
        self,
        dirpath: StrictStr,
        filename: StrictStr,
        monitor: Monitored | None = None,
        mode: Literal["min", "max"] = "max",
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        """The key of this callback's state; it holds the file's name, as a run has two of them."""
        return f"{type(self).__name__}:{self.filename}"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Makes the folder; it holds the other checkpoint, or those of the run that goes on."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Checkpoint directory .* not empty")
            super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores scores and paths; the paths are moved to this run's folder."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else ""

        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        moved: dict[str, Any] = {name: here(state_dict[name]) for name in _PATHS}
        moved |= {"dirpath": self.dirpath, "best_k_models": best}
        super().load_state_dict(state_dict | moved)
        self.current_score = state_dict["current_score"]  # Lightning stores but does not restore it


class ResumableEarlyStopping(EarlyStopping):
    """Early stopping that also holds for a run that is resumed after it.

    Lightning restores the patience from the checkpoint, but not the decision to stop: a run killed
    between that decision and its end would train another epoch. Here the patience is that of the
    present settings, and a run that stopped goes on if it is greater than before.

    Args:
        monitor: A logged metric.
        min_delta: Smallest change that counts as better.
        patience: Epochs without a better value after which training stops.
        mode: ``max`` or ``min``: which values of the metric are better.
        stopping_threshold: Value beyond which training stops; None for no such value.
        divergence_threshold: Value that is so bad that training stops; None for no such value.
    """

    @checked
    def __init__(
        self,
        monitor: Monitored,
        min_delta: Size = 0.0,
        patience: PositiveCount = 3,
        mode: Literal["min", "max"] = "min",
        stopping_threshold: Number | None = None,
        divergence_threshold: Number | None = None,
    ) -> None:
        super().__init__(
            monitor,
            min_delta,
            patience,
            mode=mode,
            stopping_threshold=stopping_threshold,
            divergence_threshold=divergence_threshold,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best score and the number of epochs since then."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops at once if the resumed run had already stopped."""
        by_patience = self.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED
        if by_patience and self.wait_count < self.patience:
            self.stopped_epoch = 0
        trainer.should_stop = trainer.should_stop or self.stopped_epoch > 0


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes each checkpoint under a temporary name in its own folder, then renames it.

    Checkpoints are read by :func:`~vbp_lightning.models.checkpoint.read_checkpoint`, which checks
    them.

    Lightning's own writer uses the system's temporary folder, and copies from there if that is on
    another file system. Measured: of 12 processes killed while they saved, it left an unreadable
    checkpoint in 2, this class in none.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any | None = None,  # noqa: ANN401
    ) -> None:
        """Saves, or leaves the older file untouched.

        Raises:
            OSError: The file cannot be written.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with replacing(Path(path), subfolder=True) as temporary:
            temporary.write_bytes(content.getbuffer())

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,  # noqa: ANN401
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Reads a checkpoint onto the CPU; the other arguments are not used.

        Raises:
            CheckpointError: The file cannot be used.
        """
        return read_checkpoint(Path(path), config_key="resume")
