"""The logger of a run."""

import csv
import errno
from importlib.util import find_spec

import pytest
import yaml

from vbp_lightning.files import WriteError
from vbp_lightning.training import logger as module
from vbp_lightning.training.logger import (
    RunCSVLogger,
    RunLogger,
    RunMLFlowLogger,
    logger_nodes,
    missing_packages,
)


def test_hyperparameters_are_written_once_and_completely_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "run" / "hparams.yaml"
    logger = RunLogger(str(tmp_path / "run"), name="", version="")
    logger.log_hyperparams({"seed": 1, "data/road_share": 0.05})

    def full(file, hparams):
        file.write_text("seed: ")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(module, "save_hparams_to_yaml", full)
        with pytest.raises(WriteError, match="No space left") as caught:
            logger.save()
    assert caught.value.filename == str(path)
    assert not list(path.parent.glob("*hparams*"))
    logger.save()
    assert yaml.safe_load(path.read_text()) == {"seed": 1, "data/road_share": 0.05}
    logger.log_hyperparams({"seed": 2})
    logger.save()
    assert yaml.safe_load(path.read_text())["seed"] == 1
    logger.finalize("success")


def test_a_resumed_csv_file_keeps_the_rows_before_its_checkpoint(tmp_path):
    first = RunCSVLogger(tmp_path)
    for step in range(3):
        first.log_metrics({"loss": 0.5 + step}, step)
    first.save()
    again = RunCSVLogger(tmp_path, purge_step=2)
    again.log_metrics({"loss": 9.0, "auroc": 1.0}, 2)
    again.save()
    with (tmp_path / "csv" / "metrics.csv").open() as file:
        rows = [(row["step"], row["loss"], row["auroc"]) for row in csv.DictReader(file)]
    assert rows == [("0", "0.5", ""), ("1", "1.5", ""), ("2", "9.0", "1.0")]


def test_settings_of_earlier_versions_name_one_logger():
    node = {"_target_": "vbp_lightning.training.logger.RunLogger"}
    assert logger_nodes(node) == {"logger": node}
    assert logger_nodes({"tensorboard": node, "csv": None}) == {"logger.tensorboard": node}
    assert logger_nodes(None) == {}


@pytest.mark.parametrize(
    ("kind", "name"), [("RunWandbLogger", "wandb"), ("RunMLFlowLogger", "mlflow")]
)
def test_a_missing_package_is_named_with_its_extra(kind, name, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    settings = {name: {"_target_": f"vbp_lightning.training.logger.{kind}"}}
    (line,) = missing_packages(settings)
    assert line == f'logger={name} needs {name}: pip install "vbp_lightning[{name}]"'


@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is an optional extra")
def test_an_mlflow_run_is_continued_with_changed_settings(tmp_path):
    first = RunMLFlowLogger(tmp_path / "run", tmp_path)
    first.log_hyperparams({"trainer": {"max_epochs": 1}})
    again = RunMLFlowLogger(tmp_path / "run", tmp_path)
    again.log_hyperparams({"trainer": {"max_epochs": 2}})
    assert again.run_id == first.run_id
    stored = again.experiment.get_run(again.run_id).data
    assert stored.params == {"trainer/max_epochs": "1"}
    assert stored.tags["trainer/max_epochs"] == "2"
