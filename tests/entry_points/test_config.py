"""Every choice of every config group composes, and what it names can be built."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf

from tests.helpers.composed import CONF, composed

MERGED = ("tiling", "paths")
"""Groups that other files include."""


def choices(*left_out):
    """``(config, group, choice)`` for every file of every group of both configs."""
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} - {*MERGED, *left_out}
    for name in ("train", "explain"):
        defaults = OmegaConf.load(CONF / f"{name}.yaml").defaults
        own = {key for entry in defaults if isinstance(entry, DictConfig) for key in entry}
        for group in sorted(groups & own):
            for path in sorted((CONF / group).glob("*.yaml")):
                yield name, group, path.stem


def targets(node):
    """Every ``_target_`` in a config."""
    if isinstance(node, dict):
        if node.get("_target_"):
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from targets(item)


def test_every_group_belongs_to_an_entry_point():
    found = {group for _, group, _ in choices()}
    assert found == {path.name for path in CONF.iterdir() if path.is_dir()} - set(MERGED)


@pytest.mark.parametrize(("name", "group", "choice"), list(choices()))
def test_every_choice_composes_and_its_targets_can_be_imported(name, group, choice, tmp_path):
    cfg = composed(name, f"{group}={choice}", folder=tmp_path)
    settings = OmegaConf.to_container(cfg, resolve=True)
    found = set(targets(settings)) - {"???"}
    assert found
    if "timm.create_model" in found:
        pytest.importorskip("timm", reason="needs the extra `models`")
        found.remove("timm.create_model")
    for target in found:
        assert target.split(".")[0] in ("vbp_lightning", "pytorch_lightning", "torch"), target
        assert callable(get_method(target))


@pytest.mark.parametrize("choice", [c for n, g, c in choices() if (n, g) == ("train", "data")])
def test_every_data_set_builds_its_data_module(choice, tmp_path):
    cfg = composed("train", f"data={choice}", f"data.root={tmp_path}", "data.num_workers=0")
    datamodule = instantiate(cfg.data, _convert_="all")
    assert isinstance(datamodule, pl.LightningDataModule)
    assert datamodule.data_config["root"] == str(tmp_path)


@pytest.mark.parametrize(
    ("group", "choice"),
    [(g, c) for n, g, c in choices() if n == "train" and g in ("callbacks", "experiment", "debug")],
)
def test_callbacks_and_trainer_are_built(group, choice, tmp_path):
    cfg = composed("train", f"{group}={choice}", "trainer.precision=32-true", folder=tmp_path)
    callbacks = [instantiate(callback) for callback in cfg.callbacks.values() if callback]
    trainer = instantiate(
        cfg.trainer, callbacks=callbacks, logger=[instantiate(each) for each in cfg.logger.values()]
    )
    assert {type(callback) for callback in callbacks} <= {type(c) for c in trainer.callbacks}
    assert trainer.max_epochs == cfg.trainer.max_epochs


def test_paths_are_used_for_data_and_results(tmp_path):
    cfg = composed("train", "paths.data_dir=/archive", folder=tmp_path)
    assert cfg.data.root == "/archive/synthetic"
    assert composed("train", folder=tmp_path).data.root == f"{tmp_path}/outputs/data/synthetic"
    output = Path(composed("explain", f"paths.output_dir={tmp_path}/results").output)
    assert output.parent == tmp_path / "results" / "explain"
