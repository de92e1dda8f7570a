"""``train.py`` in two processes that torchrun started."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.entry_points.test_train import assert_same_end

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts the processes by fork")
def test_jobs_of_two_processes(tiny, tmp_path):
    settings = (*tiny, "trainer=ddp", "trainer.max_epochs=3", "seed=3")
    scenes = f"data.root={tmp_path / 'scenes'}"  # not there yet: one of the processes writes them
    jobs = [
        ["whole", -1, [*settings, scenes]],
        ["cut", 1, [*settings, scenes, "hydra.run.dir=cut"]],
        ["resumed", -1, ["resume=cut"]],
        ["finished", -1, ["resume=cut"]],
        ["other", -1, [*settings, scenes, "hydra.run.dir=cut", "seed=4"]],
        ["no_data", -1, ["data=massachusetts", "data.root=nowhere"]],
        ["no_run", -1, ["resume=nowhere"]],
        ["no_setting", -1, ["seeed=1"]],
    ]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.helpers.ranks"],
        cwd=tmp_path,
        env=os.environ | environment,
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr
    codes = dict(zip((job[0] for job in jobs), ended.stdout.splitlines(), strict=True))
    errors = {job: (tmp_path / f"{job}.err").read_text() for job in codes}
    output = {job: (tmp_path / f"{job}.out").read_text() for job in codes}

    assert codes["whole"] == "[0, 0]", errors["whole"]
    assert "warning" not in errors["whole"].lower()
    assert output["whole"].count("TensorBoard: ") == 1
    runs = tmp_path / "outputs" / "train"
    assert {path.name for path in runs.iterdir()} == {"job_whole", "job_no_data"}

    assert codes["cut"] == "[1, -9]", errors["cut"]
    assert errors["cut"].count("error: ") == 1
    assert "error: another process of this job has ended" in errors["cut"]
    assert codes["resumed"] == codes["finished"] == "[0, 0]", errors["resumed"]
    assert_same_end(runs / "job_whole", tmp_path / "cut")
    assert output["finished"].count("is done: nothing to do") == 1

    # errors that all processes meet are printed once
    for job, line in (
        ("other", "error: {}/cut: holds a run with other settings, seed was 3, not 4"),
        ("no_data", "error: {}/nowhere: is not a folder"),
        ("no_run", "error: {}/nowhere: is no run or sweep"),
        ("no_setting", "Could not override 'seeed'."),
    ):
        assert codes[job] == "[1, 1]"
        assert errors[job].count(line.format(tmp_path)) == 1, errors[job]
        assert "Traceback" not in errors[job]
