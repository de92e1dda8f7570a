"""Classifiers that are trained without some of the scenes of a run, to judge their tiles."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import LambdaCallback

from vbp_lightning.callbacks import PolynomialAveraging
from vbp_lightning.cli import quiet_lightning
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import DataError, Split
from vbp_lightning.errors import UserError
from vbp_lightning.models import RoadClassifier

_JUDGED = ("train", "val")
"""Splits whose scenes are divided among the folds."""

_SETTINGS = ("architecture", "head", "network", "learning_rate", "weight_decay", "tta")
"""Hyperparameters of a classifier that do not depend on its data."""

Parts = Mapping[str, Sequence[tuple[int, int, int, int, str]]]
"""Row, column, height, width and split of the parts of each scene."""


def fold_splits(parts: Parts, folds: int) -> list[dict[str, list[tuple[Any, ...]]]]:
    """The splits by which each fold is held out.

    Args:
        parts: Of a run. A scene, or a block where scenes are divided, is never cut.
        folds: Number of folds, at least 2.

    Returns:
        For each fold the parts of all scenes: those of the fold are ``val``, the others of the
        training and the validation split ``train``, the rest ``none``. There are fewer folds if
        there are fewer parts.

    Raises:
        UserError: There is one part only.
    """
    own = sorted((name, p) for name, each in parts.items() for p in each if p[4] in _JUDGED)
    if len(own) < 2:
        raise UserError(
            "task=suspects: the training and the validation split have one scene together, which no"
            " other one can judge: add scenes (data.root), or divide it (data.split_by=block)"
        )
    order = np.random.default_rng(0).permutation(len(own)).tolist()
    count = min(folds, len(own))
    fold_of = {own[place]: rank % count for rank, place in enumerate(order)}
    return [
        {
            name: [
                (
                    *p[:4],
                    "none"
                    if p[4] not in _JUDGED
                    else "val"
                    if fold_of[name, p] == fold
                    else "train",
                )
                for p in each
            ]
            for name, each in parts.items()
        }
        for fold in range(count)
    ]


def read_fold(datamodule: RoadTileDataModule) -> None:
    """Sets a data module up whose held-out tiles may be of one class.

    Raises:
        DataError: The training split lacks a class.
    """
    scan = datamodule.scan()
    counts = scan.tiles["train"].counts
    if scan.store is None or not (counts["road"] and counts["non_road"]):
        raise DataError(*scan.errors)


def trained(
    datamodule: RoadTileDataModule,
    settings: Mapping[str, Any],
    epochs: int,
    seed: int,
    device: torch.device,
    tick: Callable[[], None] = lambda: None,
) -> RoadClassifier:
    """Trains a new classifier without validation.

    Args:
        datamodule: Set up.
        settings: Hyperparameters of a classifier; those of its data are replaced.
        epochs: Length of the training.
        seed: Of the weights.
        device: Where to train.
        tick: Called after each epoch.

    Returns:
        The classifier with averaged weights, in evaluation mode; without a threshold.
    """
    pl.seed_everything(seed, workers=True, verbose=False)
    normalisation = datamodule.normalisation
    model = RoadClassifier(
        **{name: settings[name] for name in _SETTINGS if name in settings},
        mean=normalisation.mean,
        std=normalisation.std,
        low=normalisation.low,
        high=normalisation.high,
        context=datamodule.context,
    )
    on_cpu = device.type == "cpu"
    with quiet_lightning():
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=1,
            max_epochs=epochs,
            deterministic=True if on_cpu else "warn",
            callbacks=[LambdaCallback(on_train_epoch_end=lambda *_: tick()), PolynomialAveraging()],
            logger=False,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(model, datamodule=datamodule)
    return model.to(device).eval()


@torch.no_grad()
def probabilities_of(
    model: RoadClassifier, datamodule: RoadTileDataModule, split: Split
) -> NDArray[np.float64]:
    """``(N,)`` P(road) of all tiles of a split, in their order."""
    (loader,) = datamodule.predict_dataloader([split])
    parts = [model.probability(tiles.to(model.device)).numpy() for tiles, _ in loader]
    return np.concatenate([np.zeros(0), *parts])
