"""The summary of a run: a line for each epoch, the network's graph, final figures and HParams."""

import tempfile
import time
import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto import event_pb2
from torch.jit import TracerWarning  # type: ignore[attr-defined]
from torch.utils.tensorboard import SummaryWriter

from vbp_lightning.callbacks.pictures import log_picture
from vbp_lightning.models import RoadClassifier
from vbp_lightning.plotting.curves import (
    calibration_figure,
    confusion_figure,
    figure_to_array,
    precision_recall_figure,
)
from vbp_lightning.plotting.png import compress_page, encode_png

Hyperparameters = Mapping[str, str | int | float | bool]


class RunSummary(Callback):
    """Prints a line for each epoch and fills TensorBoard's Graphs, Images and HParams tabs."""

    def __init__(self) -> None:
        self._epoch_started = 0.0

    @rank_zero_only
    def on_fit_start(self, trainer: pl.Trainer, pl_module: RoadClassifier) -> None:  # type: ignore[override]
        """Logs the network's graph, except in a resumed run."""
        if trainer.ckpt_path is not None:
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        side = datamodule.tile_size + 2 * datamodule.context
        events = _graph_events(pl_module, (1, len(pl_module.hparams["mean"]), side, side))
        for logger in _tensorboards(trainer):
            for event in events:
                logger.experiment.file_writer.add_event(event)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stores the time at the start of the epoch."""
        self._epoch_started = time.monotonic()

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the epoch's losses and validation metrics."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        shown = trainer.callback_metrics
        print(
            f"epoch {trainer.current_epoch + 1:3d}/{trainer.max_epochs}"
            f"  loss {shown['train/loss']:.4f}"
            f"  val loss {shown['val/loss']:.4f}"
            f"  val auroc {shown['val/auroc']:.4f}"
            f"  val balanced accuracy {shown['val/balanced_accuracy']:.4f}"
            f"  {time.monotonic() - self._epoch_started:.1f} s",
            flush=True,
        )

    def log_evaluation(
        self,
        trainer: pl.Trainer,
        probabilities: np.ndarray,
        labels: np.ndarray,
        metrics: Mapping[str, float],
        hyperparameters: Hyperparameters,
    ) -> None:
        """Logs the figures of the test split and the run's row of the HParams tab.

        Args:
            trainer: A trainer whose ``fit`` has ended.
            probabilities: ``(N,)``, P(road) of the test split's labelled tiles.
            labels: ``(N,)``, 1 road or 0 non-road.
            metrics: The run's flat metrics, with its decision ``threshold``.
            hyperparameters: The settings by which runs are compared.
        """
        threshold, title = metrics["threshold"], "Test split"
        epoch = trainer.current_epoch
        figures = {
            "precision_recall": precision_recall_figure(labels, probabilities, threshold, title),
            "calibration": calibration_figure(labels, probabilities, title),
            "confusion": confusion_figure(labels, probabilities, threshold, title),
        }
        pictures = {
            f"test/{tag}": encode_png([compress_page(figure_to_array(figure))])
            for tag, figure in figures.items()
        }
        # not val/… and test/…: those are the curves over the epochs
        results = {f"result/{name}": value for name, value in metrics.items()}
        for logger in trainer.loggers:
            for tag, png in pictures.items():
                log_picture(logger, tag, png, epoch)
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(dict(hyperparameters), results)
            else:
                logger.log_metrics(results, epoch)
            logger.finalize("success")


def _tensorboards(trainer: pl.Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


_GRAPHS: dict[tuple[object, ...], list[event_pb2.Event]] = {}
"""Events by the settings of the network and the shape of its input."""


def _graph_events(model: RoadClassifier, shape: tuple[int, ...]) -> list[event_pb2.Event]:
    """TensorBoard's events of a network's graph.

    They are made once in a process, since torch does not free the graphs that it traces for them.
    """
    chosen = (str(model.hparams[name]) for name in ("architecture", "head", "network", "context"))
    key = (*chosen, *shape)
    if key not in _GRAPHS:
        network = deepcopy(model.network).cpu().eval()
        with tempfile.TemporaryDirectory() as folder:
            with SummaryWriter(folder) as writer, warnings.catch_warnings():
                # of other sizes, which the figure of the graph does not show
                warnings.simplefilter("ignore", TracerWarning)
                warnings.filterwarnings(
                    "ignore", message=".*torch.jit", category=DeprecationWarning
                )
                writer.add_graph(network, torch.zeros(shape))
            (file,) = Path(folder).iterdir()
            events = list(EventFileLoader(str(file)).Load())
        _GRAPHS[key] = [
            each for each in events if each.graph_def or each.HasField("tagged_run_metadata")
        ]
    return _GRAPHS[key]
