"""Predictions of a finished run for all tiles of validation and test, and their metrics."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor

from vbp_lightning.callbacks.explanation_scores import SCORES
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import Split
from vbp_lightning.data.tiles.table import TILE_FIELDS, tile_fields
from vbp_lightning.data.tiles.tile import Label, LabelledTile
from vbp_lightning.errors import UserError
from vbp_lightning.files import replacing
from vbp_lightning.models import RoadClassifier
from vbp_lightning.models.metrics import METRICS, binary_metrics
from vbp_lightning.training.folder import METRICS_FILE

EVALUATED_SPLITS: tuple[Split, ...] = ("val", "test")
PREDICTIONS_FILE = "predictions.csv"
PREDICTION_COLUMNS = ("split", *TILE_FIELDS, "probability", "called_road")
COLUMNS = [(split, end) for split in EVALUATED_SPLITS for end in ("", "_with_ignored")]
"""The split and the end of the name of each metric, in the order of tables."""


@dataclass(frozen=True)
class SplitPredictions:
    """Predictions of a classifier for every tile of a split, ignored tiles included.

    Args:
        tiles: The tiles, in the data module's order.
        probabilities: ``(N,)`` float64, P(road).
        threshold: P(road) from which a tile is called road.
    """

    tiles: Sequence[LabelledTile]
    probabilities: Tensor
    threshold: float

    def labels(self) -> Tensor:
        """``(N,)`` int64: 1 road, 0 non-road, -1 ignored."""
        return torch.tensor([int(tile.label) for tile in self.tiles])

    def labelled(self) -> "SplitPredictions":
        """The same without the ignored tiles."""
        kept = self.labels() != Label.IGNORED
        tiles = [tile for tile in self.tiles if tile.label != Label.IGNORED]
        return SplitPredictions(tiles, self.probabilities[kept], self.threshold)

    def metrics(self) -> dict[str, float]:
        """Metrics of the labelled tiles, and under ``…_with_ignored`` those of all tiles.

        Ignored tiles hold some road and count as road there; excluding them inflates the scores.
        """
        labelled = self.labelled()
        strict = binary_metrics(labelled.probabilities, labelled.labels(), self.threshold)
        holds_road = (self.labels() != Label.NON_ROAD).long()
        full = binary_metrics(self.probabilities, holds_road, self.threshold)
        return strict | {f"{name}_with_ignored": value for name, value in full.items()}


def evaluate(
    trainer: pl.Trainer, model: RoadClassifier, datamodule: RoadTileDataModule
) -> dict[str, SplitPredictions]:
    """Predictions for all tiles of the validation and the test split.

    Args:
        trainer: Its ``predict`` is used; with several processes each predicts all tiles.
        model: Its threshold is used.
        datamodule: Set up.
    """
    batches = trainer.predict(model, datamodule=datamodule)
    assert batches is not None
    return {
        split: SplitPredictions(
            datamodule.tiles_of(split), torch.cat(of_split), float(model.threshold)
        )
        for split, of_split in zip(EVALUATED_SPLITS, batches, strict=True)
    }


def run_metrics(predictions: dict[str, SplitPredictions]) -> dict[str, float]:
    """The flat metrics of a run: ``test/auroc``, ``val/f1``, … and the ``threshold``."""
    metrics = {
        f"{split}/{name}": value
        for split, of_split in predictions.items()
        for name, value in of_split.metrics().items()
    }
    return metrics | {"threshold": predictions["val"].threshold}


def optimized_value(metrics: Mapping[str, float] | None, name: str) -> float:
    """The metric that a run returns to a sweep.

    Args:
        metrics: The flat metrics of a run; None before it is finished, to check the name alone.
        name: The setting ``optimized_metric``.

    Raises:
        UserError: There is no such metric.
    """
    if metrics is None:
        names = [f"{split}/{metric}{end}" for split, end in COLUMNS for metric in METRICS]
        metrics = dict.fromkeys((*names, *SCORES, "threshold"), float("nan"))
    if name not in metrics:
        raise UserError(f"optimized_metric={name}: choose one of {', '.join(sorted(metrics))}")
    return metrics[name]


def write_predictions(path: Path, predictions: dict[str, SplitPredictions]) -> None:
    """Writes a CSV with a row for every tile: position, label, probability and prediction.

    Raises:
        OSError: The file cannot be written; an older one is left as it was.
    """
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(PREDICTION_COLUMNS)
        for split, of_split in predictions.items():
            for labelled, probability in zip(
                of_split.tiles, of_split.probabilities.tolist(), strict=True
            ):
                called_road = int(probability >= of_split.threshold)
                writer.writerow((split, *tile_fields(labelled), f"{probability:.9g}", called_road))


def write_metrics(run_dir: Path, metrics: dict[str, float]) -> None:
    """Writes ``metrics.json``; it marks the run as finished, so it is written last."""
    with replacing(run_dir / METRICS_FILE) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")
