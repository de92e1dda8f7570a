"""Averages of the weights over the training."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vbp_lightning.records import Size, checked


class PolynomialAveraging(WeightAveraging):
    r"""Validates and keeps a mean of the weights over the training steps instead of the last ones.

    Polynomial-decay averaging (Shamir and Zhang 2013, section 4): at step :math:`t` the mean moves
    towards the present weights by :math:`(\eta + 1) / (t + \eta)`. The mean age of the averaged
    weights is then :math:`1 / (\eta + 2)` of the training so far, whether that is short or long,
    stopped early or extended. Statistics of batch norms are averaged in the same way.

    Panels, scores, metrics, the decision threshold and the checkpoints are those of the mean;
    training itself does not depend on it. Put this callback behind all that use the weights of
    validation.

    Args:
        eta: Non-negative; 0 for the mean of all steps.

    Raises:
        ValueError: ``eta`` is negative.
    """

    @checked
    def __init__(self, eta: Size = 5) -> None:
        super().__init__(multi_avg_fn=self._move)
        self.eta = eta
        self._share = 1.0

    def _move(self, means: list[Tensor], weights: list[Tensor], updates: Tensor) -> None:
        # `updates` is on the device; reading it would make the processor wait for each step
        move = get_ema_multi_avg_fn(1 - self._share)  # type: ignore[no-untyped-call]
        move(means, weights, updates)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Moves the mean to the device, which Lightning chooses after ``setup``."""
        assert self._average_model is not None
        self._average_model.to(pl_module.device)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether a step has ended, not an epoch; sets the share of the step."""
        if step_idx is not None:
            self._share = (self.eta + 1) / (step_idx + 1 + self.eta)
        return step_idx is not None

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the mean in the model: its threshold, panels and scores follow."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts the weights of the training back."""
        super().on_validation_epoch_end(trainer, pl_module)
