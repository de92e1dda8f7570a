"""The logger of a run."""

import errno

import pytest
import yaml

from vbp_lightning.files import WriteError
from vbp_lightning.training import logger as module
from vbp_lightning.training.logger import RunLogger


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
