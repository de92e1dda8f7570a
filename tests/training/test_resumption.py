"""The command line that replaces ``resume=``."""

import pytest
from omegaconf import OmegaConf

from vbp_lightning.errors import UserError
from vbp_lightning.training.resumption import expand_resume


def test_without_resume_nothing_changes():
    arguments = ["-m", "model=strided,maxpool", "resume=null"]
    assert expand_resume(arguments) == arguments


def test_a_run_is_composed_from_its_own_settings(tmp_path):
    (tmp_path / ".hydra").mkdir()
    stored = "seed: 3\nformat: 2\noptimized_metric: val/f1\ntags: []\n"
    (tmp_path / ".hydra" / "run.yaml").write_text(stored)
    arguments = expand_resume([f"resume={tmp_path}", "threads=1"])
    assert f"--config-path={tmp_path / '.hydra'}" in arguments
    assert "--config-name=run" in arguments
    assert f"hydra.run.dir='{tmp_path}'" in arguments
    assert "threads=1" in arguments
    assert "hydra.output_subdir=null" in arguments
    assert (tmp_path / ".hydra" / "run.yaml").read_text() == stored


def test_a_run_of_version_0_1_is_converted_and_one_of_a_later_version_refused(tmp_path):
    path = tmp_path / ".hydra" / "run.yaml"
    path.parent.mkdir()
    path.write_text("seed: 3\ndata: {augment: {quarter_turns: false}, seed: '${seed}'}\n")
    expand_resume([f"resume={tmp_path}"])
    assert OmegaConf.to_container(OmegaConf.load(path)) == {
        "seed": 3,
        "data": {"augment": {"rotations": False}, "seed": "${seed}"},
        "format": 2,
        "optimized_metric": "val/auroc",
        "tags": [],
    }
    path.write_text("seed: 3\nformat: 3\n")
    with pytest.raises(UserError, match=r"run\.yaml \(resume\): has format 3"):
        expand_resume([f"resume={tmp_path}"])


def test_a_sweep_is_launched_over_its_axes_again(tmp_path):
    stored = {
        "hydra": {
            "overrides": {
                "task": ["model=strided,maxpool", "seed=1,2"],
                "hydra": ["hydra.mode=MULTIRUN", "hydra/launcher=joblib"],
            }
        }
    }
    OmegaConf.save(OmegaConf.create(stored), tmp_path / "multirun.yaml")
    assert expand_resume([f"resume={tmp_path}"]) == [
        "--multirun",
        "model=strided,maxpool",
        "seed=1,2",
        "hydra/launcher=joblib",
        f"hydra.sweep.dir='{tmp_path}'",
        f"resume='{tmp_path}'",
    ]


def test_a_sweep_over_a_setting_that_was_renamed_is_refused(tmp_path):
    overrides = {"task": ["data.augment.quarter_turns=true,false"], "hydra": []}
    stored = OmegaConf.create({"hydra": {"overrides": overrides}})
    OmegaConf.save(stored, tmp_path / "multirun.yaml")
    with pytest.raises(UserError, match=r"sweep of version 0\.1 .*data\.augment\.rotations"):
        expand_resume([f"resume={tmp_path}"])


def test_another_folder_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path}: is no run or sweep .*\(resume\)"):
        expand_resume([f"resume={tmp_path}"])
