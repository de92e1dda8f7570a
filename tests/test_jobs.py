"""The folders of programs and jobs."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vbp_lightning.errors import UserError
from vbp_lightning.jobs import new_folder


def test_every_process_of_a_job_names_the_same_folder(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert new_folder("runs") == "runs/job_77.0"
    monkeypatch.delenv("SLURM_STEP_ID")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "an-id")
    assert new_folder("runs") == "runs/job_an-id"
    # torchrun's default is no id; its processes have the same parent
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert new_folder("runs") == new_folder("runs")
    assert str(os.getppid()) in new_folder("runs")
    # but not on other machines
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"--rdzv-id=NAME .* hydra\.run\.dir"):
        new_folder("runs")


def test_runs_in_a_shell_that_slurm_started_get_folders_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")
    assert new_folder(str(tmp_path)) != new_folder(str(tmp_path))


def test_runs_that_start_in_the_same_second_get_different_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(new_folder, [str(tmp_path / "runs")] * 8))
    assert len(set(folders)) == 8
    assert sorted(folders) == sorted(str(path) for path in (tmp_path / "runs").iterdir())
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d)?", Path(f).name) for f in folders)


NAMED = """
import sys
from pathlib import Path
from vbp_lightning.jobs import new_folder
sys.stdin.readline()
folder = Path(new_folder(sys.argv[1]))
(folder / "mine").write_text(sys.argv[2])
print(folder)
"""


def test_programs_that_start_at_once_get_different_folders(tmp_path):
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", NAMED, tmp_path / "runs", str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(6)
    ]
    for program in programs:
        program.stdin.write("\n")
        program.stdin.flush()
    folders = [Path(program.communicate()[0].strip()) for program in programs]
    assert sorted(folders) == sorted((tmp_path / "runs").iterdir())
    assert [(folder / "mine").read_text() for folder in folders] == list("012345")


def test_a_new_folder_is_handed_to_started_processes_and_removed_if_it_stays_empty(tmp_path):
    script = """
import os, subprocess, sys
from vbp_lightning.jobs import new_folder
print(new_folder(sys.argv[1]), flush=True)
if "LOCAL_RANK" not in os.environ:
    subprocess.run([sys.executable, *sys.orig_argv[1:]], env=os.environ | {"LOCAL_RANK": "1"})
"""
    command = [sys.executable, "-c", script, tmp_path / "runs"]
    first, second = subprocess.run(command, capture_output=True, text=True).stdout.split()
    assert first == second
    assert not (tmp_path / "runs").exists()
