"""Names, locks and metrics of run folders."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbp_lightning.errors import UserError
from vbp_lightning.training.folder import claimed, finished_metrics, job_folder, run_stamp


@given(st.text(min_size=0, max_size=400))
def test_a_jobs_folder_can_be_typed_on_the_command_line(overrides):
    name = job_folder(overrides)
    assert 0 < len(name) <= 200
    assert not set(name) & set("=,/\\ '\"[]{}()$:;")


def test_a_jobs_folder_is_named_after_its_overrides():
    assert job_folder("model-maxpool+seed-1+upsampling-deconv") == (
        "model-maxpool+seed-1+upsampling-deconv"
    )
    assert job_folder("data.root-/some/where+seed-1") == "data.root-_some_where+seed-1"
    assert job_folder("") == "default"


def test_long_names_that_differ_at_their_end_stay_apart():
    assert job_folder("a" * 300 + "1") != job_folder("a" * 300 + "2")


def test_every_process_of_a_slurm_step_names_the_same_folder(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert run_stamp() == "job_77.0"
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert run_stamp() != "job_77.0"


def test_a_folder_is_locked_by_one_process_and_freed_when_it_is_killed(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, pathlib\n"
            "from vbp_lightning.training.folder import claimed\n"
            "with claimed(pathlib.Path(sys.argv[1])):\n"
            "    print('held', flush=True); time.sleep(60)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline().strip() == "held"
    with pytest.raises(UserError, match="another process is writing"), claimed(tmp_path, 0):
        pass
    holder.kill()
    holder.communicate()
    with claimed(tmp_path):
        assert finished_metrics(tmp_path) is None
    (tmp_path / "metrics.json").write_text('{"val/auroc": 0.5}')
    assert finished_metrics(tmp_path) == {"val/auroc": 0.5}
