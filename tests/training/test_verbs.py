"""Lightning's own verbs on a classifier and a data module: fit, validate, test, predict."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator
from sklearn import metrics as reference

from tests.helpers.composed import composed
from tests.helpers.mapping import trainer
from vbp_lightning.callbacks import RunSummary
from vbp_lightning.models import RoadClassifier


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A model after one epoch, its data module and the metrics of that epoch."""
    folder = tmp_path_factory.mktemp("verbs")
    overrides = (f"data.root={folder}", "data.source.scenes=8", "data.source.size=288")
    cfg = composed(
        "train",
        *overrides,
        *("data.tiles_per_epoch=64", "data.batch_size=16", "data.num_workers=0"),
    )
    datamodule = instantiate(cfg.data, _convert_="all")
    datamodule.setup()
    pl.seed_everything(1, verbose=False)
    model = RoadClassifier(mean=datamodule.mean, std=datamodule.std)
    fit = trainer(max_epochs=1)
    fit.fit(model, datamodule=datamodule)
    return model, datamodule, {name: float(value) for name, value in fit.callback_metrics.items()}


def predicted(model, datamodule, split):
    """P(road) and labels of all tiles of a split, in a loop of its own."""
    loader = datamodule.predict_dataloader([split])[0]
    with torch.no_grad():
        logits = torch.cat([model.eval()(tiles).squeeze(1) for tiles, _ in loader])
    labels = torch.tensor([int(tile.label) for tile in datamodule.tiles_of(split)])
    return logits.double().sigmoid(), labels


def test_validate_gives_the_metrics_of_the_epoch_and_leaves_the_threshold(fitted):
    model, datamodule, metrics = fitted
    (found,) = trainer(callbacks=[RunSummary()]).validate(model, datamodule, verbose=False)
    for name, value in found.items():
        assert value == pytest.approx(metrics[name], rel=1e-6), name
    assert set(found) == {name for name in metrics if name.startswith("val/")} | {"step"}
    threshold = model.threshold.clone()
    model.threshold.fill_(0.9)
    (other,) = trainer().validate(model, datamodule, verbose=False)
    assert float(model.threshold) == pytest.approx(0.9)
    assert other["val/threshold"] == pytest.approx(0.9)
    model.threshold.copy_(threshold)


def test_test_gives_the_metrics_of_the_labelled_tiles_at_the_stored_threshold(fitted):
    model, datamodule, _ = fitted
    (found,) = trainer().test(model, datamodule, verbose=False)
    probabilities, labels = predicted(model, datamodule, "test")
    probabilities, labels = probabilities[labels >= 0].numpy(), labels[labels >= 0].numpy()
    called = probabilities >= float(model.threshold)
    assert found["test/auroc"] == pytest.approx(reference.roc_auc_score(labels, probabilities))
    assert found["test/f1"] == pytest.approx(reference.f1_score(labels, called, zero_division=0))
    assert found["test/balanced_accuracy"] == pytest.approx(
        reference.balanced_accuracy_score(labels, called)
    )
    assert found["test/loss"] == pytest.approx(reference.log_loss(labels, probabilities), rel=1e-5)
    assert found["test/threshold"] == pytest.approx(float(model.threshold))


def test_predict_gives_every_tile_of_validation_and_test_in_order(fitted):
    model, datamodule, _ = fitted
    found = trainer().predict(model, datamodule=datamodule)
    assert len(found) == 2
    for split, batches in zip(("val", "test"), found, strict=True):
        expected, labels = predicted(model, datamodule, split)
        assert (labels == -1).any()
        assert torch.cat(batches).dtype == torch.float64
        torch.testing.assert_close(torch.cat(batches), expected, rtol=1e-12, atol=0)
    train = trainer().predict(model, datamodule.predict_dataloader(["train"]))
    expected, _ = predicted(model, datamodule, "train")
    torch.testing.assert_close(torch.cat(train), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("accelerator", [CPUAccelerator, CUDAAccelerator])
def test_batches_are_pinned_for_gpus(fitted, accelerator, monkeypatch):
    datamodule = fitted[1]
    stub = SimpleNamespace(
        accelerator=accelerator(), world_size=1, global_rank=0, overfit_batches=0, current_epoch=0
    )
    monkeypatch.setattr(datamodule, "trainer", stub)
    loaders = [datamodule.train_dataloader(), datamodule.val_dataloader()]
    loaders += [datamodule.test_dataloader(), *datamodule.predict_dataloader()]
    assert {loader.pin_memory for loader in loaders} == {accelerator is CUDAAccelerator}


def test_predictions_do_not_depend_on_the_trainers_precision(fitted):
    model, datamodule, _ = fitted
    full, mixed = (
        trainer(precision=precision).predict(model, datamodule.predict_dataloader(["val"]))
        for precision in ("32-true", "bf16-mixed")
    )
    assert torch.equal(torch.cat(full), torch.cat(mixed))
