"""The command line that replaces ``resume=``."""

import os
import re
from contextlib import nullcontext

import pytest
from omegaconf import OmegaConf

from tests.helpers.composed import composed
from vbp_lightning.errors import UserError
from vbp_lightning.training.resumption import (
    add_origin,
    asked_settings,
    expand_resume,
    is_extended,
    refuse_other_settings,
)


def test_without_resume_nothing_changes():
    arguments = ["-m", "model=strided,maxpool", "resume=null"]
    assert expand_resume(arguments) == arguments


def test_a_run_is_composed_from_its_own_settings(tmp_path):
    (tmp_path / ".hydra").mkdir()
    stored = "seed: 3\nformat: 3\noptimized_metric: val/f1\ntags: []\ntta: true\n"
    (tmp_path / ".hydra" / "run.yaml").write_text(stored)
    arguments = expand_resume([f"resume={tmp_path}", "threads=1"])
    assert f"--config-path={tmp_path / '.hydra'}" in arguments
    assert "--config-name=run" in arguments
    assert f"hydra.run.dir='{tmp_path}'" in arguments
    assert "threads=1" in arguments
    assert "hydra.output_subdir=null" in arguments
    # Lightning starts the other processes of a distributed run with the same arguments
    assert expand_resume([*arguments, "hydra.job.name=second"]) == [
        *arguments,
        "hydra.job.name=second",
    ]
    assert expand_resume([f"++resume='{tmp_path}'", "threads=1"]) == arguments
    assert (tmp_path / ".hydra" / "run.yaml").read_text() == stored


def test_a_run_of_version_0_1_is_converted_and_one_of_a_later_version_refused(tmp_path):
    path = tmp_path / ".hydra" / "run.yaml"
    path.parent.mkdir()
    path.write_text("seed: 3\ndata: {augment: {quarter_turns: false}, seed: '${seed}'}\n")
    expand_resume([f"resume={tmp_path}"])
    assert OmegaConf.to_container(OmegaConf.load(path)) == {
        "seed": 3,
        "data": {"augment": {"rotations": False}, "seed": "${seed}"},
        "format": 3,
        "optimized_metric": "val/auroc",
        "tags": [],
        "tta": False,
    }
    path.write_text("seed: 3\nformat: 4\n")
    with pytest.raises(UserError, match=r"run\.yaml \(resume\): has format 4"):
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


@pytest.mark.parametrize(
    ("override", "kept"),
    [("seed=1,2", ["upsampling=deconv"]), ("upsampling=nearest,unpool", []), ("+experiment=a", [])],
)
def test_a_sweep_keeps_the_upsampling_that_was_the_default_of_its_version(tmp_path, override, kept):
    hydra = {
        "overrides": {"task": [override], "hydra": []},
        "runtime": {"choices": {"upsampling": "deconv", "model": "strided"}},
    }
    OmegaConf.save(OmegaConf.create({"hydra": hydra}), tmp_path / "multirun.yaml")
    place = [f"hydra.sweep.dir='{tmp_path}'", f"resume='{tmp_path}'"]
    assert expand_resume([f"resume={tmp_path}"]) == ["--multirun", override, *kept, *place]


def test_a_sweep_of_one_experiment_keeps_the_upsampling_that_it_chose(tmp_path):
    hydra = {
        "overrides": {"task": ["experiment=massachusetts", "seed=1,2"], "hydra": []},
        "runtime": {"choices": {"upsampling": "deconv", "experiment": "massachusetts"}},
    }
    OmegaConf.save(OmegaConf.create({"hydra": hydra}), tmp_path / "multirun.yaml")
    assert "upsampling=deconv" in expand_resume([f"resume={tmp_path}"])


def test_another_upsampling_of_a_resumed_run_is_its_name(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "run.yaml").write_text("format: 3\nupsampling: {name: deconv}\n")
    arguments = expand_resume([f"resume={tmp_path}", "upsampling=[deconv,unpool]", "tta=true"])
    assert arguments[-2:] == ["upsampling.name=[deconv,unpool]", "tta=true"]


def test_a_sweep_over_a_setting_that_was_renamed_is_refused(tmp_path):
    overrides = {"task": ["data.augment.quarter_turns=true,false"], "hydra": []}
    stored = OmegaConf.create({"hydra": {"overrides": overrides}})
    OmegaConf.save(stored, tmp_path / "multirun.yaml")
    with pytest.raises(UserError, match=r"sweep of version 0\.1 .*data\.augment\.rotations"):
        expand_resume([f"resume={tmp_path}"])


def test_a_run_killed_before_it_stored_its_settings_is_composed_from_hydras(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("seed: 3\n")
    arguments = expand_resume([f"resume={tmp_path}"])
    assert arguments[:2] == [f"--config-path={tmp_path / '.hydra'}", "--config-name=config"]


def test_another_folder_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path}: is no run or sweep .*\(resume\)"):
        expand_resume([f"resume={tmp_path}"])


WRITTEN = ("metrics.json", "splits.csv", "checkpoints/last.ckpt")
"""Files each of which shows that a run has begun."""


@pytest.fixture
def stored(tmp_path):
    """Stores the settings of a run in a folder, as a training does.

    Gives a comparison with it, in turn with each file that shows that it has begun.
    """
    checkpoint = tmp_path / "start.ckpt"
    checkpoint.write_bytes(b"weights")
    given = ("data.root=scenes", f"init_from={checkpoint}", "data.num_workers=2", "threads=auto")
    cfg = composed("train", *given)
    add_origin(cfg)
    cfg.threads, cfg.trainer.precision = 3, "32-true"
    path = tmp_path / "run" / ".hydra" / "run.yaml"
    path.parent.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(asked_settings(cfg)), path)

    def compare(*overrides, written=WRITTEN, refused=None):
        asked = composed("train", *given, *overrides)
        for name in written or [None]:
            if name:
                path = tmp_path / "run" / name
                path.parent.mkdir(exist_ok=True)
                path.touch()
            expected = pytest.raises(UserError, match=refused) if refused else nullcontext()
            with expected:
                refuse_other_settings(asked, tmp_path / "run")
            if name:
                path.unlink()

    return compare


def test_a_run_with_the_settings_that_are_asked_for_is_the_same(stored, tmp_path):
    stored()
    stored("threads=3", "optimized_metric=test/f1", f"data.root={os.getcwd()}/scenes")
    stored(f"resume={tmp_path}", "data.root=elsewhere")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.learning_rate=0.5", "model.learning_rate was 0.005, not 0.5"),
        ("trainer.max_epochs=2", "trainer.max_epochs was 20, not 2"),
        ("seed=5", "seed was 0, not 5"),
        ("+trainer.limit_train_batches=3", "trainer.limit_train_batches was None, not 3"),
        ("data.num_workers=auto", "data.num_workers was 2, not auto"),
        ("threads=4", "threads was 3, not 4"),
        ("data.root=elsewhere", "data.root was"),
        ("data.source.size=288", "data.source.size was 480, not 288"),
        ("data.bands=[1,2]", "data.bands was None, not [1, 2]"),
        ("callbacks.panels=null", "callbacks.panels.tiles was 16, not None"),
        ("init_from=null", "init_from was"),
    ],
)
def test_a_run_with_other_settings_is_refused_by_name(stored, override, named):
    stored(override, refused=re.escape(named))


def test_a_run_that_ended_before_its_splits_were_drawn_is_started_with_others(stored, tmp_path):
    stored("data.split_seed=1", "seed=5", written=())
    run = tmp_path / "run"
    resumed = OmegaConf.load(run / ".hydra" / "run.yaml")
    resumed.resume, resumed.seed = str(run), 5
    assert not is_extended(resumed, run)
    (run / "splits.csv").touch()
    with pytest.raises(UserError, match="is started with other values of seed"):
        is_extended(resumed, run)


def test_a_run_that_started_from_another_checkpoint_is_refused(stored, tmp_path):
    (tmp_path / "start.ckpt").write_bytes(b"other weights")
    stored(refused="init_from_sha256 was")


def test_a_run_of_another_file_of_splits_of_the_same_name_is_refused(tmp_path):
    listed, run = tmp_path / "splits.csv", tmp_path / "run"
    listed.write_text("scene,split\na,train\n")
    given = ("data.root=scenes", f"data.split_file={listed}")
    cfg = composed("train", *given)
    add_origin(cfg)
    (run / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(asked_settings(cfg)), run / ".hydra" / "run.yaml")
    (run / "splits.csv").touch()
    refuse_other_settings(composed("train", *given), run)
    listed.write_text("scene,split\na,test\n")
    with pytest.raises(UserError, match="split_file_sha256 was"):
        refuse_other_settings(composed("train", *given), run)
    # a resumed run keeps its splits, and the digest of their file
    resumed = OmegaConf.load(run / ".hydra" / "run.yaml")
    resumed.resume = str(run)
    assert not is_extended(resumed, run)
    add_origin(resumed)
    assert resumed.split_file_sha256 == cfg.split_file_sha256
    add_origin(resumed, anew=True)
    assert resumed.split_file_sha256 != cfg.split_file_sha256


def test_a_job_is_not_done_with_other_corrections_of_the_same_name(tmp_path):
    path, run = tmp_path / "corrections.csv", tmp_path / "run"
    path.write_text("scene,row,col,new_label,digest\na,0,0,road,a0\n")
    given = ("data.root=scenes", f"data.corrections={path}")
    cfg = composed("train", *given)
    add_origin(cfg)
    (run / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(asked_settings(cfg)), run / ".hydra" / "run.yaml")
    for name in ("splits.csv", "metrics.json"):
        (run / name).touch()
    of_sweep = composed("train", *given, f"resume={tmp_path}")
    assert not is_extended(of_sweep, run)
    path.write_text("scene,row,col,new_label,digest\na,0,0,unsure,a0\n")
    with pytest.raises(UserError, match="corrections_sha256 was"):
        refuse_other_settings(composed("train", *given), run)
    with pytest.raises(UserError, match="is finished with other values of corrections_sha256"):
        is_extended(of_sweep, run)
    # a resumed run has its own
    resumed = OmegaConf.load(run / ".hydra" / "run.yaml")
    resumed.resume = str(run)
    assert not is_extended(resumed, run)


def test_digests_that_an_older_run_lacks_are_not_compared(stored, tmp_path):
    path = tmp_path / "run" / ".hydra" / "run.yaml"
    held = OmegaConf.load(path)
    del held["init_from_sha256"]
    OmegaConf.save(held, path)
    stored()


def test_a_finished_run_without_stored_settings_is_refused(tmp_path):
    refuse_other_settings(composed("train"), tmp_path)
    (tmp_path / "metrics.json").touch()
    with pytest.raises(UserError, match="holds a run with other settings"):
        refuse_other_settings(composed("train"), tmp_path)


@pytest.mark.parametrize("option", ["-m", "--multirun"])
def test_a_run_is_not_resumed_as_a_sweep(tmp_path, option):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("seed: 0")
    with pytest.raises(UserError, match=rf"^{option}: {tmp_path} is no sweep"):
        expand_resume([f"resume={tmp_path}", option, "seed=1,2"])


@pytest.mark.parametrize("argument", ["resume=", "resume=''", "+resume="])
def test_an_empty_folder_is_an_error(argument):
    with pytest.raises(UserError, match="resume= is empty"):
        expand_resume(["seed=1", argument])


def test_a_run_continues_in_its_own_folder(tmp_path):
    with pytest.raises(UserError, match=r"hydra\.run\.dir=other"):
        expand_resume([f"resume={tmp_path}", "hydra.run.dir=other"])


STORED = {
    "resume": None,
    "threads": 2,
    "tags": [],
    "seed": 1,
    "data": {"num_workers": 0, "root": "/data", "batch_size": 16},
    "trainer": {"max_epochs": 20, "precision": "32-true", "accumulate_grad_batches": 1},
    "callbacks": {"early_stopping": {"patience": 3}, "best": {"monitor": "val/loss"}},
    "upsampling": {"name": "deconv"},
    "tta": False,
}


def with_changes(folder, changes, *, is_done):
    (folder / ".hydra").mkdir(exist_ok=True)
    OmegaConf.save(OmegaConf.create(STORED), folder / ".hydra" / "run.yaml")
    (folder / "metrics.json").unlink(missing_ok=True)
    (folder / "splits.csv").touch()
    if is_done:
        (folder / "metrics.json").write_text("{}")
    cfg = OmegaConf.create(STORED | {"resume": str(folder)})
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value, merge=False)
    return is_extended(cfg, folder)


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize(
    ("changes", "extends"),
    [
        ({}, False),
        ({"threads": 1, "data.num_workers": 2, "data.root": "/moved"}, False),
        ({"trainer.max_epochs": 30}, True),
        ({"trainer.max_epochs": 30, "tags": ["longer"]}, True),
        ({"callbacks.early_stopping.patience": 9}, True),
        ({"callbacks.early_stopping": None}, True),
        ({"tta": True}, True),
    ],
)
def test_overrides_that_a_resumed_run_applies(tmp_path, changes, extends, is_done):
    assert with_changes(tmp_path, changes, is_done=is_done) is extends


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2},
        {"data.batch_size": 8, "trainer.max_epochs": 30},
        {"callbacks.best.monitor": "val/auroc"},
        {"trainer.accumulate_grad_batches": 2},
        {"upsampling": "bilinear"},
        {"added": 1},
    ],
)
def test_overrides_that_cannot_be_applied_are_refused_by_name(tmp_path, changes, is_done):
    with pytest.raises(UserError, match=rf"{next(iter(changes))}.* \(resume\)"):
        with_changes(tmp_path, changes, is_done=is_done)


def test_the_report_of_a_finished_run_is_not_changed(tmp_path):
    for changes in ({"tags": ["late"]}, {"upsampling.name": "bilinear"}):
        assert not with_changes(tmp_path, changes, is_done=False)
        with pytest.raises(
            UserError, match=f"is finished with other values of {next(iter(changes))}"
        ):
            with_changes(tmp_path, changes, is_done=True)
