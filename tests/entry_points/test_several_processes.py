"""``train.py`` in two processes that torchrun started."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.entry_points.test_train import assert_same_end

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="starts the processes by fork")


@pytest.fixture
def job(tmp_path):
    """Runs a job of two processes; returns their exit codes, standard output and errors."""

    def start(name, *settings, killed=-1):
        ended = subprocess.run(
            [sys.executable, "-m", "tests.helpers.ranks", name, str(killed), *settings],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        *output, codes = ended.stdout.strip().splitlines()
        return codes, output, ended.stderr

    return start


def test_a_job_of_two_processes_is_cut_off_and_resumed(job, run, tiny, tmp_path):
    settings = (*tiny, "trainer=ddp", "trainer.max_epochs=3", "seed=3")
    own_scenes = f"data.root={tmp_path / 'scenes'}"  # written by one of the processes
    codes, output, errors = job("whole", *settings, own_scenes)
    assert codes == "[0, 0]", errors
    assert "warning" not in errors.lower()
    assert sum(line.startswith("TensorBoard: ") for line in output) == 1
    (folder,) = (tmp_path / "outputs" / "train").iterdir()
    assert folder.name == "job_whole"
    through = folder.rename(tmp_path / "through")

    codes, output, errors = job("cut", *settings, "hydra.run.dir=cut", killed=1)
    assert codes == "[1, -9]", errors
    assert "Traceback" not in errors
    assert errors.count("error: ") == 1
    assert "another process of this job has ended" in errors

    shutil.copytree(tmp_path / "cut", tmp_path / "moved")
    codes, output, errors = job("resumed", "resume=cut")
    assert codes == "[0, 0]", errors
    assert_same_end(through, tmp_path / "cut")
    codes, output, errors = job("again", "resume=cut")
    assert codes == "[0, 0]", errors
    assert sum("is done: nothing to do" in line for line in output) == 1
    # Lightning starts the second process itself
    resumed = run("train.py", "resume=moved")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(through, tmp_path / "moved")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["data=massachusetts", "data.root=nowhere"], "error: {}/nowhere: is not a folder"),
        (["resume=nowhere"], "error: {}/nowhere: is no run or sweep"),
        (["seeed=1"], "Could not override 'seeed'."),
    ],
)
def test_an_error_of_all_processes_is_printed_once(job, settings, line, tmp_path):
    codes, _, errors = job("failing", *settings)
    assert codes == "[1, 1]"
    assert errors.count(line.format(tmp_path)) == 1, errors
    assert "Traceback" not in errors
