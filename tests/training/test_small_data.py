"""Data sets without a split, or with less training tiles than a batch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vbp_lightning.errors import UserError
from vbp_lightning.training.data import refuse_small_data
from vbp_lightning.training.predictions import evaluate, run_metrics
from vbp_lightning.training.report import metrics_table


class Tiles(list):
    """Labels of tiles, none of which is ignored by hand."""

    ignored_by_hand = np.zeros(4, bool)


def data(val=4, test=4, road=3, non_road=5, batch_size=8):
    tables = {"val": Tiles([0, 1, 1, -1][:val]), "test": Tiles([0, 1, 1, -1][:test])}
    return SimpleNamespace(
        tiles_of=lambda split: tables[split],
        counts={"train": {"road": road, "non_road": non_road, "ignored": 7, "dropped": 0}},
        settings=SimpleNamespace(batch_size=batch_size),
        predict_dataloader=list,
    )


def test_a_batch_is_at_most_the_labelled_training_tiles():
    refuse_small_data(data(), "val/auroc")
    with pytest.raises(UserError) as caught:
        refuse_small_data(data(batch_size=9), "val/auroc")
    (line,) = caught.value.lines
    assert line.startswith("data.batch_size=9: must be at most 8, the number of labelled training")


@pytest.mark.parametrize(
    ("missing", "metric", "fits"),
    [
        ("val", "val/auroc", False),
        ("val", "explanation/relevance_mass", False),
        ("val", "test/f1_with_ignored", True),
        ("val", "threshold", True),
        ("test", "test/auroc", False),
        ("test", "val/auroc", True),
    ],
)
def test_the_metric_of_a_missing_split_is_refused_before_training(missing, metric, fits):
    module = data(**{missing: 0})
    if fits:
        refuse_small_data(module, metric)
        return
    with pytest.raises(UserError) as caught:
        refuse_small_data(module, metric)
    (line,) = caught.value.lines
    assert line.startswith(f"optimized_metric={metric}: cannot be computed without tiles of split")
    assert f"(data.{missing}_fraction)" in line


class Predicting:
    """A trainer whose predictions are known."""

    def predict(self, model, loaders):
        batches = [[torch.tensor([0.1, 0.8]), torch.tensor([0.9, 0.4])] for _ in loaders]
        return batches if len(batches) > 1 else batches[0]


@pytest.mark.parametrize(("val", "test"), [(4, 4), (4, 0), (0, 4), (0, 0)])
def test_a_run_is_evaluated_on_the_splits_that_have_tiles(val, test, monkeypatch):
    module = data(val, test)
    monkeypatch.setattr(
        "vbp_lightning.training.predictions.tile_labels",
        lambda datamodule, split: torch.tensor([0, 1, 1, -1]),
    )
    predictions = evaluate(Predicting(), None, module)
    splits = [split for split, count in (("val", val), ("test", test)) if count]
    assert list(predictions) == splits
    expected = torch.tensor([0.1, 0.8, 0.9, 0.4])
    assert all(torch.equal(each, expected) for each in predictions.values())
    metrics = run_metrics(module, predictions, 0.5)
    assert {name.partition("/")[0] for name in metrics} == {"threshold", *splits}
    assert len(metrics_table(metrics).columns) == 1 + 2 * len(splits)
