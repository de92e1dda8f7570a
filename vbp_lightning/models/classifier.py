"""The LightningModule that trains a road network; callbacks draw the figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, Literal, Self

import pytorch_lightning as pl
import torch
from pydantic import Field
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import CatMetric, MeanMetric, MinMetric

from vbp_lightning.errors import UserError
from vbp_lightning.models.checkpoint import CheckpointError, read_checkpoint, trusted
from vbp_lightning.models.custom_network import (
    CustomNetwork,
    build,
    described,
    plain_settings,
)
from vbp_lightning.models.format import FORMAT, converted
from vbp_lightning.models.metrics import METRICS, best_threshold, binary_metrics, numbers
from vbp_lightning.models.networks import Architecture, Head, Normalize, RoadNetwork
from vbp_lightning.models.symmetries import mean_over_views
from vbp_lightning.records import Positive, Size

Batch = tuple[Tensor, Tensor]

_LOSSES_AT_ONCE = 50
"""Training steps whose losses are looked at together."""

_SAME: dict[str, Any] = {"sync_dist": True, "reduce_fx": "max"}
"""How to log what is the same in all processes: Lightning warns of what is not reduced."""

LOGGED = (
    *(f"val/{name}" for name in ("loss", "threshold", *METRICS)),
    *("train/loss", "learning_rate"),
)
"""The names of the metrics that are logged each epoch."""
_IN_FLOAT32 = Field(le=1e38)

_LONGEST = 400
"""Characters of torch's list of the weights that do not fit."""


class OneCycle(torch.optim.lr_scheduler.OneCycleLR):
    """A one-cycle schedule whose length is that of the present settings also after a resume."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Moves to the step that was reached, on the schedule of this length.

        The learning rate and the momentum are those of an uninterrupted run of this length at this
        step. If a finished run is extended, its learning rate rises again.
        """
        self.last_epoch = state_dict["last_epoch"] - 1
        self._step_count = state_dict["_step_count"] - 1
        self.step()


class RoadClassifier(pl.LightningModule):
    """A classifier of road and non-road tiles: network, loss, optimiser, metrics.

    Every argument is a plain builtin and is stored in the checkpoint, so that
    ``RoadClassifier.load_from_checkpoint(path)`` needs only the path.

    Args:
        architecture: ``strided`` or ``maxpool``.
        head: ``hidden`` (global max pool and a hidden layer of 512) or ``gap``.
        mean: Mean of each band over the training split, in raw units; sets the number of bands.
        std: Standard deviation of each band over the training split.
        low: Values that each band is clipped to from below, in raw units; None for no clipping.
        high: Values that each band is clipped to from above.
        context: Margin in pixels that tiles come with on each side, a multiple of 8: see
            :class:`~vbp_lightning.models.networks.RoadNetwork`.
        learning_rate: Peak of the one-cycle schedule (Smith and Topin 2019).
        weight_decay: Weight decay of AdamW; applied to weights, not to biases and batch norms.
        data: The data module's configuration, kept for ``explain.py``.
        splits: Split of each scene by name, or of its parts, kept for ``explain.py``.
        digests: Digest of the content of each scene by name, kept for ``explain.py``.
        corrections: Scene, row, column, answer, note and digest of each correction of a label, kept
            for ``explain.py``.
        imagery: What the training imagery is like, as ``RoadTileDataModule.imagery`` describes it.
        tta: Test-time augmentation: P(road) of testing and prediction is the mean over the eight
            symmetric views of a tile. Training, validation and masks do not depend on it.
        network: Any other network instead, see
            :class:`~vbp_lightning.models.custom_network.CustomNetwork`: the name of a callable that
            returns it under ``_target_``, with its arguments; or, in Python, the network itself.
            ``architecture`` and ``head`` are then not used, and ``context`` must be 0.

    Attributes:
        threshold: P(road) from which a tile is classified as road, chosen on validation data
            each epoch.

    Raises:
        UserError: The network cannot be built.
        ValueError: An argument does not fit the others.
    """

    threshold: Tensor
    network: RoadNetwork | CustomNetwork

    def __init__(
        self,
        architecture: Architecture | Literal["custom"] = "strided",
        head: Head = "hidden",
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        context: int = 0,
        learning_rate: Annotated[Positive, _IN_FLOAT32] = 5e-3,
        weight_decay: Annotated[Size, _IN_FLOAT32] = 5e-2,
        data: Mapping[str, Any] | None = None,
        splits: Mapping[str, Any] | None = None,
        digests: Mapping[str, str] | None = None,
        corrections: Sequence[Sequence[Any]] | None = None,
        imagery: Mapping[str, Any] | None = None,
        tta: bool = False,
        network: Mapping[str, Any] | nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore="network")
        self.hparams.update(format=FORMAT, network=None)
        if network is None and architecture != "custom":
            self.network = RoadNetwork(architecture, head, mean, std, low, high, context)
        else:
            self.network = self._custom_network(network)
        self.register_buffer("threshold", torch.tensor(0.5, dtype=torch.float32))
        self.train_loss = MeanMetric()
        self.first_failure = MinMetric(nan_strategy="disable")
        self.logits = CatMetric(nan_strategy="disable")
        self.labels = CatMetric()

    def extra_repr(self) -> str:
        """What the classifier is; ``repr`` shows it above the modules."""
        network = self.hparams["network"]
        if isinstance(network, Mapping):
            network = described(network)
        chosen = {
            "architecture": self.hparams["architecture"],
            **({"head": self.hparams["head"]} if network is None else {"network": network}),
            "bands": len(self.hparams["mean"]),
            "context": self.hparams["context"],
            "threshold": round(float(self.threshold), 4),
            "tta": self.hparams["tta"],
        }
        return ", ".join(f"{name}={value}" for name, value in chosen.items())

    def _custom_network(self, network: Mapping[str, Any] | nn.Module | None) -> CustomNetwork:
        """Any other network; the hyperparameters name it as text."""
        if network is None:
            raise ValueError("network: is not given, and the architecture is custom")
        if self.hparams["context"]:
            raise ValueError(
                "context: only strided and maxpool crop the margin of a tile; give data.context=0"
            )
        if isinstance(network, nn.Module):
            name = f"{type(network).__module__}.{type(network).__qualname__}"
            self.hparams.update(architecture="custom", head=None, network=name)
        else:
            self.hparams.update(architecture="custom", head=None, network=plain_settings(network))
            network = build(network, "model.network")
        statistics = (self.hparams[name] for name in ("mean", "std", "low", "high"))
        return CustomNetwork(network, Normalize(*statistics))

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        *,
        trust: str | Sequence[str] | None = None,
        **overrides: Any,  # noqa: ANN401
    ) -> Self:
        """Loads a classifier from a checkpoint that this project wrote; runs no code from it.

        A checkpoint names a network of another package as text, which is built only with consent.

        Args:
            checkpoint_path: A file such as ``outputs/train/…/checkpoints/best.ckpt``.
            trust: Names of callables that may be called to build the network, such as
                ``timm.create_model``. Instead, ``network`` may be given, a network like that of the
                training.
            **overrides: Arguments that replace the stored ones; and ``map_location``, the device
                of the classifier, by default the CPU.

        Returns:
            The classifier, in evaluation mode.

        Raises:
            CheckpointError: The file is missing, is no checkpoint of this project, does not fit
                this version's network, holds pickled objects, or values that no checkpoint has, or
                names a network of another package without consent.
            UserError: A later version of the project wrote it.
        """
        checkpoint = read_checkpoint(Path(checkpoint_path))
        device = overrides.pop("map_location", None) or "cpu"
        settings = checkpoint["hyper_parameters"] | overrides
        del settings["format"]
        if "network" not in overrides:
            settings["network"] = trusted(
                settings.get("network"), trust, f"{checkpoint_path}", "ckpt"
            )
        try:
            model = cls(**settings)
            model.load_state_dict(dict(checkpoint["state_dict"]))
        except (RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint_path}: does not fit this version of the project (ckpt): "
                f"{shorten(str(error), _LONGEST)}"
            ) from error
        return model.to(device).eval()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that a checkpoint fits this network before its weights are loaded.

        Raises:
            CheckpointError: It holds another architecture, head or number of bands, or, where a
                training goes on, no optimiser state of this network.
            UserError: A later version of the project wrote it.
        """
        stored = converted(checkpoint["hyper_parameters"], "the checkpoint (resume)")
        theirs, ours = _described(stored), _described(self.hparams)
        for key in ours:
            if theirs[key] != ours[key]:
                raise CheckpointError(
                    f"the checkpoint is of a network with {theirs[key]}, not {ours[key]} ({key});"
                    " give the settings and the imagery it was trained with"
                )
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._check_optimizer(checkpoint.get("optimizer_states"))

    def _check_optimizer(self, stored: Any) -> None:  # noqa: ANN401
        """Checks the sizes of the running averages of AdamW, which torch does not."""
        try:
            (own,) = stored
            shapes = [
                tuple(own["state"][number][name].shape)
                for number in range(sum(map(len, self._weights_and_others)))
                for name in ("exp_avg", "exp_avg_sq")
            ]
        except (LookupError, TypeError, ValueError, AttributeError):
            shapes = []
        parameters = [each for group in self._weights_and_others for each in group]
        if shapes != [tuple(each.shape) for each in parameters for _ in range(2)]:
            raise CheckpointError(
                "the checkpoint holds no state of the optimiser that fits the network (resume): put"
                " an older copy back, or start a new run, with init_from=… to keep the weights"
            )

    def forward(self, tiles: Tensor) -> Tensor:
        """Raw tiles ``(N, C, 96, 96)``, plus context, to logits ``(N, 1)``; P(road): sigmoid."""
        logits: Tensor = self.network(tiles.contiguous(memory_format=torch.channels_last))
        return logits

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Binary cross-entropy of one batch; labels 0 or 1."""
        tiles, labels = batch
        logits = self(tiles).squeeze(1).float()
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
        is_finite = loss.detach().isfinite()
        step = torch.full_like(loss.detach(), batch_index)
        self.first_failure.update(torch.where(is_finite, torch.inf, step))
        self.train_loss.update(torch.where(is_finite, loss.detach(), 0), weight=len(labels))
        return loss

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Stops a training whose loss is no number any more, soon after the step where it began.

        The steps are looked at together, so that a GPU need not wait for each of them, and in
        all processes at the same step, so that all of them stop.

        Raises:
            UserError: The loss of a step was infinite or not a number.
        """
        if (batch_idx + 1) % _LOSSES_AT_ONCE == 0 or self.trainer.is_last_batch:
            first = float(self.first_failure.compute())
            self.first_failure.reset()
            if first != float("inf"):
                since = (batch_idx - int(first)) // self.trainer.accumulate_grad_batches
                raise self._failure(f"the loss of step {self.trainer.global_step - since}")

    def on_train_epoch_end(self) -> None:
        """Stops before weights that are no numbers are kept.

        Raises:
            UserError: A weight is infinite or not a number.
        """
        if not all(bool(each.isfinite().all()) for each in self.parameters()):
            raise self._failure("a weight")
        if not sum(self.trainer.num_val_batches):  # without a validation split
            self._log_training()
            self.log("step", float(self.trainer.current_epoch), **_SAME)

    def _failure(self, what: str) -> UserError:
        """The error of a fit whose numbers are lost."""
        epoch = self.trainer.current_epoch
        kept = f"those of epoch {epoch} are kept" if epoch else "there is none yet"
        return UserError(
            f"epoch {epoch + 1}: {what} is infinite or not a number, so the training stops (of the"
            f" checkpoints, {kept}): start a new run with a learning rate below"
            f" model.learning_rate={self.hparams['learning_rate']:g}, or with more digits than"
            f" trainer.precision={self.trainer.precision}"
        )

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Collects logits and labels: the metrics are exact, over the whole split at its end."""
        tiles, labels = batch
        self.logits.update(self._float32_logits(tiles))
        self.labels.update(labels)

    def on_validation_epoch_end(self) -> None:
        """Logs the epoch's metrics, with the epoch as the step; a fit updates the threshold.

        Validation comes at the end of an epoch: the training loss is that of the whole epoch, the
        learning rate that of its last step.
        """
        self._log_metrics("val")
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._log_training()

    def _log_training(self) -> None:
        self.log("train/loss", float(self.train_loss.compute()), **_SAME)
        self.train_loss.reset()
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"], **_SAME)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """As the validation step; with ``tta`` of the mean over the symmetric views."""
        tiles, labels = batch
        if self.hparams["tta"]:
            self.logits.update(self.probability(tiles).logit(eps=1e-15).to(tiles))
        else:
            self.logits.update(self._float32_logits(tiles))
        self.labels.update(labels)

    def on_test_epoch_end(self) -> None:
        """Logs the metrics of the test split at the stored threshold."""
        self._log_metrics("test")

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """P(road) of the tiles of a batch, ``(N,)`` float64; the labels are not used."""
        return self.probability(batch[0])

    def probability(self, tiles: Tensor) -> Tensor:
        """P(road) of raw tiles ``(N, C, H, W)``: ``(N,)`` float64 on the CPU.

        With ``tta`` it is the mean over the eight symmetric views of each tile.

        Raises:
            UserError: A probability is not a number.
        """

        def of_one_view(view: Tensor) -> Tensor:
            return self._float32_logits(view).cpu().double().sigmoid()  # MPS has no float64

        views = mean_over_views(of_one_view, tiles) if self.hparams["tta"] else of_one_view(tiles)
        return numbers(views)

    def _float32_logits(self, tiles: Tensor) -> Tensor:
        """Logits ``(N,)`` without autocast: bfloat16 has 8 bits, so probabilities would tie."""
        with torch.autocast(self.device.type, enabled=False):
            logits: Tensor = self(tiles).squeeze(1)
        return logits

    def _log_metrics(self, split: str) -> None:
        """Logs loss and metrics of the collected tiles, except in the sanity check."""
        logits = self.logits.compute().reshape(-1).cpu()  # MPS has no float64
        labels = self.labels.compute().reshape(-1).long().cpu()
        self.logits.reset()
        self.labels.reset()
        if self.trainer.sanity_checking:
            return
        if not logits.isfinite().all():
            if self.trainer.state.fn == TrainerFn.FITTING:
                raise self._failure("P(road) of a validation tile")
            numbers(logits)
        probabilities = logits.double().sigmoid()
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.threshold.fill_(best_threshold(probabilities, labels))
        threshold = float(self.threshold)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
        metrics = {
            "loss": float(loss),
            "threshold": threshold,
            **binary_metrics(probabilities, labels, threshold),
        }
        self.log_dict({f"{split}/{name}": value for name, value in metrics.items()}, **_SAME)
        # Lightning takes a metric named "step" as the logger's x axis
        self.log("step", float(self.current_epoch), **_SAME)

    @property
    def _weights_and_others(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters with and those without weight decay, in the order of the optimiser."""
        parameters = list(self.network.parameters())
        weights = [parameter for parameter in parameters if parameter.ndim > 1]
        return weights, [parameter for parameter in parameters if parameter.ndim <= 1]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW under a one-cycle schedule over all epochs that is stepped every batch."""
        weights, others = self._weights_and_others
        optimizer = torch.optim.AdamW(
            [
                {"params": weights, "weight_decay": self.hparams["weight_decay"]},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.hparams["learning_rate"],
        )
        schedule = OneCycle(
            optimizer,
            max_lr=self.hparams["learning_rate"],
            total_steps=int(self.trainer.estimated_stepping_batches),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _described(settings: Mapping[str, Any]) -> dict[str, str]:
    """The hyperparameters that a resumed run must share with its checkpoint, by config key."""
    network = settings.get("network")
    return {
        "model": settings["architecture"] if network is None else described(network),
        "model.head": f"head {settings['head']}",
        "data.bands": f"{len(settings['mean'])} bands",
        "data.context": f"a context of {settings.get('context', 0)} px",
    }
