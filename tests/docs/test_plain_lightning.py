"""The Lightning script of the documentation runs as it is printed, on fewer scenes."""

import runpy
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl

import vbp_lightning.data
from vbp_lightning.callbacks import ExplanationScores, MaskPanels
from vbp_lightning.data import RoadTileDataModule, SyntheticScenes

SCRIPT = Path(__file__).parents[2] / "docs" / "plain_lightning.py"


def test_the_script_writes_the_panels_of_every_epoch(tmp_path, monkeypatch):
    quick = partial(pl.Trainer, accelerator="cpu", logger=False, enable_progress_bar=False)
    monkeypatch.setattr(pl, "Trainer", lambda **given: quick(**{**given, "max_epochs": 2}))
    few = partial(SyntheticScenes, scenes=8, size=192)
    monkeypatch.setattr(vbp_lightning.data, "SyntheticScenes", few, raising=False)
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(SCRIPT), run_name="__main__")
    assert sorted(path.name for path in (tmp_path / "panels").iterdir()) == [
        "epoch_000.png",
        "epoch_001.png",
    ]
    scores = ExplanationScores(tiles=4).scores(names["module"], names["data"])
    assert 0 < scores["explanation/average_precision"] <= 1


@pytest.mark.filterwarnings("ignore:.*but have no `val_dataloader`")  # which is refused
def test_other_data_and_outputs_are_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classifier = runpy.run_path(str(SCRIPT))["Classifier"]
    quick = partial(pl.Trainer, accelerator="cpu", logger=False, enable_progress_bar=False)
    options = {"max_epochs": 1, "enable_checkpointing": False, "enable_model_summary": False}
    module = classifier([0.0] * 3, [1.0] * 3)
    for callback in (MaskPanels(), ExplanationScores()):
        with pytest.raises(ValueError, match="validation tiles of a RoadTileDataModule"):
            quick(callbacks=[callback], **options).fit(module, [])
    module.layers.append(module.layers[-1].__class__(2, 3))
    data = RoadTileDataModule(SyntheticScenes("data", scenes=8, size=192), tiles_per_epoch=64)
    trainer = quick(callbacks=[MaskPanels()], use_distributed_sampler=False, **options)
    with pytest.raises(ValueError, match=r"returns \(\d+, 3\) for \d+ tiles; give one of"):
        trainer.fit(module, datamodule=data)
