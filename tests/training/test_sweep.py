"""The summary of a sweep from the files in its jobs' folders."""

import csv
import itertools
import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from tests.helpers.sweeps import write_job, write_sweep
from vbp_lightning.training.sweep import SweepSummary, saved_trainings, write_summary
from vbp_lightning.training.sweep_table import SHOWN_METRICS


def test_every_job_has_a_row_in_the_csv(tmp_path):
    sweep = write_sweep(tmp_path)
    write_summary(sweep)
    rows = list(csv.DictReader((sweep / "summary.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["failed", "unfinished", *["done"] * 6]
    assert [row["path"] for row in rows] == sorted(str(path) for path in sweep.glob("*-*"))
    assert list(rows[0]) == [
        *("status", "model", "model.head", "threads", "seed", "tags"),
        *(*SHOWN_METRICS, "threshold", "test/f1", "path"),
    ]
    assert rows[2]["val/auroc"] == "0.433333"
    assert rows[2]["tags"] == "maxpool first"
    assert rows[2]["threads"] == "1"
    assert rows[0]["val/auroc"] == rows[0]["seed"] == rows[0]["tags"] == ""


@pytest.mark.parametrize("name", ["summary.csv", "sweep.html"])
def test_a_summary_that_cannot_be_written_ends_the_sweep_with_one_line(tmp_path, capsys, name):
    """Hydra would only warn of an exception in a callback, and exit with 0."""
    write_job(tmp_path / "a", ["seed=1"], {"val/auroc": 0.5})
    (tmp_path / "multirun.yaml").touch()
    (tmp_path / name).mkdir()
    leftover = tmp_path / ".multirun.99999999.tmp.yaml"
    leftover.touch()
    hydra = {"sweep": {"dir": str(tmp_path)}, "mode": "MULTIRUN"}
    config = OmegaConf.create({"hydra": hydra, "optimized_metric": "val/auroc"})
    with pytest.raises(SystemExit) as ended:
        SweepSummary().on_multirun_end(config)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / name}: cannot be written: Is a directory")
    assert line.endswith(f"continue with resume={tmp_path}")
    assert not leftover.exists()


def grouped(overrides):
    """The jobs of a sweep, and the groups of jobs that are equal in all other settings."""
    axes = [
        [f"{key}={value}" for value in re.split(r",(?![^[]*\])", values)]
        for key, _, values in (each.partition("=") for each in overrides)
    ]
    jobs = [*itertools.product(*axes)]
    return len(jobs), len(
        {tuple(each for each in job if not each.startswith("upsampling")) for job in jobs}
    )


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["upsampling=deconv,bilinear"], "deconv,bilinear"),
        (["model=strided,maxpool", "upsampling='deconv',unpool", "seed=1,2,3"], "deconv,unpool"),
        (["upsampling.name=deconv,bilinear,nearest", "threads=1"], "deconv,bilinear,nearest"),
        (["seed=1,2", "upsampling=nearest,[deconv,nearest]"], "nearest,deconv"),
    ],
)
def test_the_trainings_that_a_list_of_upsamplings_saves(overrides, names):
    line = saved_trainings(OverridesParser.create().parse_overrides(overrides))
    jobs, groups = grouped(overrides)
    assert line.startswith(f"{jobs - groups} of {jobs} trainings ")
    assert f"'upsampling=[{names}]'" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=strided,maxpool"],
        ["upsampling=deconv", "seed=1,2"],
        ["upsampling=[deconv,bilinear]", "seed=1,2"],
        ["upsampling=deconv,bilinear", "upsampling=unpool"],
        [],
    ],
)
def test_other_sweeps_need_all_their_trainings(overrides):
    assert saved_trainings(OverridesParser.create().parse_overrides(overrides)) is None


@pytest.mark.parametrize("resume", [None, "sweep"])
def test_the_line_is_printed_at_the_start_of_a_new_sweep_only(capsys, resume):
    sweeper = {"_target_": "x.BasicSweeper", "params": {"upsampling": "deconv,bilinear"}}
    hydra = {"sweeper": sweeper, "overrides": {"task": ["seed=1,2"], "hydra": []}}
    SweepSummary().on_multirun_start(OmegaConf.create({"hydra": hydra, "resume": resume}))
    printed = capsys.readouterr().out
    assert (printed.splitlines()[0][:16] == "2 of 4 trainings") if resume is None else not printed
