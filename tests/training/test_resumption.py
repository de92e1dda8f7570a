"""What ``resume=`` makes of the command line."""

import pytest
from omegaconf import OmegaConf

from vbp_lightning.errors import UserError
from vbp_lightning.training.resumption import expand_resume


def test_without_resume_nothing_changes():
    arguments = ["-m", "model=strided,maxpool", "resume=null"]
    assert expand_resume(arguments) == arguments


def test_a_run_is_composed_from_its_own_settings(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "run.yaml").write_text("seed: 3\n")
    arguments = expand_resume([f"resume={tmp_path}", "threads=1"])
    assert f"--config-path={tmp_path / '.hydra'}" in arguments
    assert "--config-name=run" in arguments
    assert f"hydra.run.dir='{tmp_path}'" in arguments
    assert "threads=1" in arguments
    assert "hydra.output_subdir=null" in arguments


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


def test_another_folder_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path}: is no run or sweep .*\(resume\)"):
        expand_resume([f"resume={tmp_path}"])
