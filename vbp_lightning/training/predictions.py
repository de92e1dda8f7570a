"""The final report of a run: every tile of validation and test, its probability, the metrics."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vbp_lightning.cli import shown_progress
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import Split
from vbp_lightning.data.tiles.tile import Label, LabelledTile
from vbp_lightning.data.tiles.tiles_csv import TILE_FIELDS, tile_fields
from vbp_lightning.files import replacing
from vbp_lightning.models import RoadClassifier, binary_metrics
from vbp_lightning.training.folder import METRICS_FILE

EVALUATED_SPLITS: tuple[Split, ...] = ("val", "test")
PREDICTIONS_FILE = "predictions.csv"
PREDICTION_COLUMNS = ("split", *TILE_FIELDS, "probability", "called_road")


@dataclass(frozen=True)
class SplitPredictions:
    """What a classifier says of every tile of a split, ignored tiles included.

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
        """Metrics of the labelled tiles, and under ``…_with_ignored`` those of all.

        Ignored tiles hold some road, so there they count as road. Leaving them out flatters.
        """
        labelled = self.labelled()
        strict = binary_metrics(labelled.probabilities, labelled.labels(), self.threshold)
        holds_road = (self.labels() != Label.NON_ROAD).long()
        full = binary_metrics(self.probabilities, holds_road, self.threshold)
        return strict | {f"{name}_with_ignored": value for name, value in full.items()}


@torch.no_grad()
def predict(
    model: RoadClassifier, batches: Iterable[tuple[Tensor, Tensor]], description: str
) -> Tensor:
    """P(road) of every tile of some batches, in float32 arithmetic, with progress shown.

    Args:
        model: Left in evaluation mode.
        batches: ``(tiles, labels)``; the labels are not looked at.
        description: Stands before the progress bar.

    Returns:
        ``(N,)`` float64 on the CPU, in the order of the batches.
    """
    model.eval()
    logits = [
        model(tiles.to(model.device)).squeeze(1).double().cpu()
        for tiles, _ in shown_progress(batches, description)
    ]
    return torch.cat(logits).sigmoid()


def evaluate(model: RoadClassifier, datamodule: RoadTileDataModule) -> dict[str, SplitPredictions]:
    """Predictions for all tiles of the validation and the test split."""
    return {
        split: SplitPredictions(
            datamodule.tiles_of(split),
            predict(model, datamodule.evaluation_dataloader(split), f"Predicting {split}"),
            float(model.threshold),
        )
        for split in EVALUATED_SPLITS
    }


def run_metrics(predictions: dict[str, SplitPredictions]) -> dict[str, float]:
    """The flat metrics of a run: ``test/auroc``, ``val/f1``, … and the ``threshold``."""
    metrics = {
        f"{split}/{name}": value
        for split, of_split in predictions.items()
        for name, value in of_split.metrics().items()
    }
    return metrics | {"threshold": predictions["val"].threshold}


def write_predictions(path: Path, predictions: dict[str, SplitPredictions]) -> None:
    """Writes a CSV with a row for every tile: place, label, probability and the verdict.

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
                verdict = int(probability >= of_split.threshold)
                writer.writerow((split, *tile_fields(labelled), f"{probability:.9g}", verdict))


def write_metrics(run_dir: Path, metrics: dict[str, float]) -> None:
    """Writes ``metrics.json``: the sign that a run is done, so it is written last of all."""
    with replacing(run_dir / METRICS_FILE) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")
