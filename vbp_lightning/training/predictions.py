"""Predictions of a finished run for all tiles of validation and test, and their metrics."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from vbp_lightning.callbacks.explanation_scores import score_names
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import Split
from vbp_lightning.data.tiles.tile import Label
from vbp_lightning.data.tiles.tiles_csv import TILE_FIELDS, tile_fields
from vbp_lightning.errors import UserError
from vbp_lightning.files import replacing
from vbp_lightning.models import RoadClassifier
from vbp_lightning.models.metrics import METRICS, best_threshold, binary_metrics
from vbp_lightning.training.folder import METRICS_FILE

EVALUATED_SPLITS: tuple[Split, ...] = ("val", "test")
PREDICTIONS_FILE = "predictions.csv"
PREDICTION_COLUMNS = ("split", *TILE_FIELDS, "probability", "called_road")
COLUMNS = [(split, end) for split in EVALUATED_SPLITS for end in ("", "_with_ignored")]
"""The split and the end of the name of each metric, in the order of tables."""


def evaluate(
    trainer: pl.Trainer, model: RoadClassifier, datamodule: RoadTileDataModule
) -> dict[Split, Tensor]:
    """P(road) of every tile of the validation and the test split, ignored tiles included.

    A split without tiles is left out.

    Args:
        trainer: Its ``predict`` is used; with several processes each predicts all tiles.
        model: With the weights to evaluate.
        datamodule: Set up.

    Returns:
        ``(N,)`` float64 by split, in the order of ``datamodule.tiles_of(split)``.
    """
    splits = [split for split in EVALUATED_SPLITS if len(datamodule.tiles_of(split))]
    if not splits:
        return {}
    batches: Any = trainer.predict(model, datamodule.predict_dataloader(splits))
    # Lightning returns the batches of a single loader without a list around them
    parts = batches if len(splits) > 1 else [batches]
    return dict(zip(splits, map(torch.cat, parts), strict=True))


def tile_labels(datamodule: RoadTileDataModule, split: Split) -> Tensor:
    """``(N,)`` int64 labels of the tiles of a split: 1 road, 0 non-road, -1 ignored."""
    return torch.tensor(datamodule.tiles_of(split).labels)


def choose_threshold(
    model: RoadClassifier, datamodule: RoadTileDataModule, probabilities: Tensor
) -> None:
    """Sets the threshold of a classifier to the best one for its validation tiles.

    Args:
        model: The classifier.
        datamodule: Set up.
        probabilities: ``(N,)`` P(road) of the validation tiles by the classifier.
    """
    labels = tile_labels(datamodule, "val")
    known = labels != Label.IGNORED
    model.threshold.fill_(best_threshold(probabilities[known], labels[known]))


def run_metrics(
    datamodule: RoadTileDataModule, predictions: Mapping[Split, Tensor], threshold: float
) -> dict[str, float]:
    """The flat metrics of a run: ``test/auroc``, ``val/f1``, … and the ``threshold``.

    Metrics are those of the labelled tiles, and under ``…_with_ignored`` those of all tiles but
    those that are ignored by hand. Ignored tiles hold some road and count as road there; excluding
    them inflates the scores.

    Args:
        datamodule: Set up.
        predictions: P(road) of the tiles of each split.
        threshold: P(road) from which a tile is called road.
    """
    metrics = {"threshold": threshold}
    for split, probabilities in predictions.items():
        counted = torch.from_numpy(~datamodule.tiles_of(split).ignored_by_hand)
        probabilities, labels = probabilities[counted], tile_labels(datamodule, split)[counted]
        known, holds_road = labels != Label.IGNORED, (labels != Label.NON_ROAD).long()
        strict = binary_metrics(probabilities[known], labels[known], threshold)
        full = binary_metrics(probabilities, holds_road, threshold)
        metrics |= {f"{split}/{name}": value for name, value in strict.items()}
        metrics |= {f"{split}/{name}_with_ignored": value for name, value in full.items()}
    return metrics


def optimized_value(
    metrics: Mapping[str, float] | None, name: str, upsamplings: Sequence[str] = ("",)
) -> float:
    """The metric that a run returns to a sweep.

    Args:
        metrics: The flat metrics of a run; None before it is finished, to check the name alone.
        name: The setting ``optimized_metric``.
        upsamplings: Of the run, before it is finished.

    Raises:
        UserError: There is no such metric.
    """
    if metrics is None:
        metrics = dict.fromkeys(_names(EVALUATED_SPLITS, upsamplings), float("nan"))
    if name not in metrics:
        raise UserError(f"optimized_metric={name}: choose one of {', '.join(sorted(metrics))}")
    return metrics[name]


def refuse_missing_metric(datamodule: RoadTileDataModule, name: str) -> None:
    """Checks before a training that it can return its metric to a sweep.

    Args:
        datamodule: Set up.
        name: The setting ``optimized_metric``.

    Raises:
        UserError: The metric is of a split that has no tiles.
    """
    splits = [split for split in EVALUATED_SPLITS if len(datamodule.tiles_of(split))]
    if name not in _names(splits) and not (name.startswith("explanation/") and "val" in splits):
        missing = next(split for split in EVALUATED_SPLITS if split not in splits)
        raise UserError(
            f"optimized_metric={name}: cannot be computed without tiles of split {missing}"
            f" (data.{missing}_fraction): choose one of {', '.join(_names(splits))}"
        )


def _names(splits: Sequence[Split], upsamplings: Sequence[str] = ("",)) -> list[str]:
    """The names of the metrics of a run with some splits."""
    ends = [(split, end) for split, end in COLUMNS if split in splits]
    names = [f"{split}/{name}{end}" for split, end in ends for name in METRICS]
    return [*names, *(score_names(upsamplings) if "val" in splits else ()), "threshold"]


def write_predictions(
    path: Path,
    datamodule: RoadTileDataModule,
    predictions: Mapping[Split, Tensor],
    threshold: float,
) -> None:
    """Writes a CSV with a row for every tile: position, label, probability and prediction.

    Args:
        path: The file to write or replace.
        datamodule: Set up.
        predictions: P(road) of the tiles of each split.
        threshold: P(road) from which a tile is called road.

    Raises:
        OSError: The file cannot be written; an older one is left as it was.
    """
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(PREDICTION_COLUMNS)
        for split, probabilities in predictions.items():
            for tile, p in zip(datamodule.tiles_of(split), probabilities.tolist(), strict=True):
                writer.writerow((split, *tile_fields(tile), f"{p:.9g}", int(p >= threshold)))


def write_metrics(run_dir: Path, metrics: dict[str, float]) -> None:
    """Writes ``metrics.json``; it marks the run as finished, so it is written last."""
    with replacing(run_dir / METRICS_FILE) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")
