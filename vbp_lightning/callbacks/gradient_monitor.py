"""The callback that logs the size of the gradient of the loss at every layer."""

import math
from dataclasses import dataclass, field

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.optim import Optimizer

from vbp_lightning.inspection.layer_gradients import RULE, diagnoses
from vbp_lightning.records import PositiveCount, checked


@dataclass
class _Layer:
    """The recorded gradients of one layer in an epoch."""

    norms: list[float] = field(default_factory=list)
    zeros: float = 1.0
    values: Tensor | None = None


class GradientFlow(pl.Callback):
    """Logs the gradient of the loss at the parameters of each layer.

    Scalars go to every logger, histograms and texts to TensorBoard.

    Every epoch, with the epoch as the step, over the recorded optimiser steps:

    - ``gradient_norm/LAYER``: the mean Euclidean norm;
    - ``gradient_largest/LAYER``: the largest norm;
    - ``gradient_zeros/LAYER``: the share of parameters with a gradient of exactly zero, the
      smallest of any step;
    - ``gradient/LAYER``: a histogram of the values of the last step;
    - ``gradient/diagnoses``: the names of dead, exploding and vanishing layers, as a text, if there
      are any.

    Training is the same to the last bit with and without this callback: gradients are only read,
    before they are clipped, and no random number is drawn. Only the process of global rank zero
    logs.

    Args:
        every: Optimiser steps between two recorded gradients.

    Raises:
        ValueError: ``every`` is below 1.
    """

    @checked
    def __init__(self, every: PositiveCount = 10) -> None:
        self.every = every
        self._layers: dict[str, _Layer] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Discards the gradients of the epoch before."""
        self._layers = {}

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Records the gradients of every ``every``-th step."""
        if trainer.global_step % self.every or not trainer.is_global_zero:
            return
        for name, module in pl_module.named_modules():
            gradient = _gradient(module)
            if gradient is None:
                continue
            layer = self._layers.setdefault(name, _Layer())
            layer.norms.append(float(gradient.cpu().double().norm()))  # MPS has no float64
            layer.zeros = min(layer.zeros, int((gradient == 0).sum()) / gradient.numel())
            layer.values = gradient

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the recorded gradients of the epoch."""
        if not trainer.is_global_zero or not self._layers:
            return
        means = {name: sum(one.norms) / len(one.norms) for name, one in self._layers.items()}
        found = diagnoses(means)
        named = ", ".join(f"{name} {diagnosis}" for name, diagnosis in found.items())
        epoch = trainer.current_epoch
        scalars = {f"gradient_norm/{name}": mean for name, mean in means.items()}
        for name, layer in self._layers.items():
            scalars[f"gradient_largest/{name}"] = max(layer.norms)
            scalars[f"gradient_zeros/{name}"] = layer.zeros
        for logger in trainer.loggers:
            logger.log_metrics(scalars, epoch)
            if not isinstance(logger, TensorBoardLogger):
                continue
            writer = logger.experiment
            for name, layer in self._layers.items():
                if layer.values is not None and math.isfinite(layer.norms[-1]):
                    writer.add_histogram(f"gradient/{name}", layer.values, epoch)
            if named:
                writer.add_text("gradient/diagnoses", f"{named} ({RULE})", epoch)
        self._layers = {}


def _gradient(module: nn.Module) -> Tensor | None:
    """A flat copy of the gradient at a module's own parameters, or None if it has none."""
    parts = [
        parameter.grad.detach().float().flatten()
        for parameter in module.parameters(recurse=False)
        if parameter.grad is not None
    ]
    return torch.cat(parts).cpu() if parts else None
