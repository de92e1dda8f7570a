"""Classifiers that are trained without some of the scenes of a run, to judge their tiles."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.utilities.seed import isolate_rng

from vbp_lightning.callbacks import PolynomialAveraging
from vbp_lightning.cli import quiet_lightning
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import DataError, Split
from vbp_lightning.data.tiles.splits import KnownSplits
from vbp_lightning.errors import UserError
from vbp_lightning.models import RoadClassifier

_JUDGED = ("train", "val")
"""Splits whose scenes are divided among the folds."""

_SETTINGS = ("architecture", "head", "network", "learning_rate", "weight_decay")
"""Hyperparameters of a classifier that do not depend on its data."""

Splits: TypeAlias = Mapping[str, Any]
"""The split of each scene, or (row, column, height, width, split) of each of its parts."""


def fold_splits(splits: Splits, folds: int) -> list[dict[str, Any]]:
    """The splits by which each fold is held out.

    Args:
        splits: Of a run. A scene, or a part where scenes are divided, is never cut.
        folds: Number of folds, at least 2; there are fewer if there are fewer scenes or parts.

    Returns:
        The splits of all scenes for each fold. Its own scenes are ``val``, the others of the
        training and the validation split ``train``, the rest ``none``.

    Raises:
        UserError: There is one scene or part only.
    """
    units = [(name, n) for name in sorted(splits) for n in range(_count(splits[name]))]
    own = [(name, n) for name, n in units if _split(splits[name], n) in _JUDGED]
    if len(own) < 2:
        raise UserError(
            "task=suspects: the training and the validation split have one scene together, which no"
            " other one can judge: train on more, or divide the scene (data.split_by=block)"
        )
    count = min(folds, len(own))
    order = np.random.default_rng(0).permutation(len(own)).tolist()
    fold_of = {own[place]: rank % count for rank, place in enumerate(order)}

    def split(name: str, n: int, fold: int) -> str:
        if (name, n) not in fold_of:
            return "none"
        return "val" if fold_of[name, n] == fold else "train"

    return [
        {
            name: split(name, 0, fold)
            if isinstance(parts, str)
            else [[*part[:4], split(name, n, fold)] for n, part in enumerate(parts)]
            for name, parts in splits.items()
        }
        for fold in range(count)
    ]


def _count(parts: Any) -> int:  # noqa: ANN401
    return 1 if isinstance(parts, str) else len(parts)


def _split(parts: Any, n: int) -> object:  # noqa: ANN401
    return parts if isinstance(parts, str) else parts[n][4]


def fold_data(datamodule: RoadTileDataModule, splits: Splits) -> RoadTileDataModule:
    """The same data and corrections with other splits, set up.

    Args:
        datamodule: Set up; its layout is one of this package.
        splits: The new ones. There need be no test split, and the tiles of validation may be of one
            class.

    Raises:
        DataError: The training split lacks a class.
    """
    made = RoadTileDataModule.from_config(
        datamodule.data_config, KnownSplits.of_checkpoint(splits, {})
    )
    made.known_corrections = datamodule.corrections
    scan = made.scan()
    if scan.store is None or not all(made.counts["train"][name] for name in ("road", "non_road")):
        raise DataError(*scan.errors)
    return made


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
        The classifier with averaged weights, in evaluation mode; without a threshold. It averages
        P(road) over the symmetries of a tile, which finds more wrong labels at little cost.
    """
    with quiet_lightning(), isolate_rng():
        pl.seed_everything(seed, workers=True, verbose=False)
        normalisation = datamodule.normalisation
        model = RoadClassifier(
            **{name: settings[name] for name in _SETTINGS if name in settings},
            mean=normalisation.mean,
            std=normalisation.std,
            low=normalisation.low,
            high=normalisation.high,
            context=datamodule.context,
            tta=True,
        )
        on_cpu = device.type == "cpu"
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
