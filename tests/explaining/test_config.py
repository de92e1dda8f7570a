"""The config of ``explain.py``: every choice of every group composes, and tasks can be called."""

from functools import partial
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

CONF = Path(__file__).parents[2] / "conf"
CHOICES = [
    (group, path.stem)
    for group in ("method", "preprocess", "task", "upsampling")
    for path in sorted((CONF / group).glob("*.yaml"))
]


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("explain", list(overrides))


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes(group, choice):
    cfg = composed(f"{group}={choice}")
    task = instantiate(cfg.task)
    assert isinstance(task, partial)
    assert (task.func.__name__, task.args, task.keywords) == ("run", (), {})
    if group == "task":
        assert task.func.__module__ == f"vbp_lightning.explaining.tasks.{choice}"
    if group == "method" and choice != "all":
        assert list(cfg.method) == [choice]


def test_the_benchmark_compares_all_methods_unless_some_are_chosen():
    assert set(composed("task=benchmark").method) == set(composed("method=all").method)
    assert list(composed("task=benchmark", "method=[lrp,cam]").method) == ["lrp", "cam"]


def test_the_help_lists_every_task_and_method():
    text = (CONF / "explain.yaml").read_text()
    for group, choice in CHOICES:
        if group in ("method", "task") and choice != "all":
            assert f"\n        {choice} " in text


def test_scene_maps_are_computed_on_the_device():
    assert composed("task=scene").trainer.accelerator == "auto"
    assert composed("task=scene", "device=cpu").trainer.accelerator == "cpu"
