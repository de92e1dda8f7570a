"""Atomic writing of files, the temporary files of processes that ended, and new folders."""

import errno
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vbp_lightning.files import kept, new_folder, remove_leftovers, replacing


def test_the_temporary_name_holds_host_and_process(tmp_path):
    with replacing(tmp_path / "a.png") as temporary:
        temporary.write_bytes(b"content")
        assert temporary.name == f".a.{platform.node()[:32]}.{os.getpid()}.tmp.png"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_only_leftovers_of_dead_processes_of_this_host_are_removed(tmp_path):
    host = platform.node()[:32]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "panels").mkdir()
    removed = [
        f".metrics.{host}.{ended.pid}.tmp.json",
        f".best.{ended.pid}.tmp.ckpt",  # of version 0.1
        f"panels/.epoch_001.{host}.{ended.pid}.tmp.png",
        f".a.b.{host}.{ended.pid}.tmp",
    ]
    left = [
        f".metrics.{host}.{os.getpid()}.tmp.json",
        f".metrics.another-{host}.{ended.pid}.tmp.json",
        f"metrics.{host}.{ended.pid}.tmp.json",
        ".notes.tmp",
    ]
    for name in (*removed, *left):
        (tmp_path / name).write_text("half")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*left, "panels"])
    assert not list((tmp_path / "panels").iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.ESTALE])
def test_a_failed_write_leaves_the_older_file(tmp_path, code):
    path = tmp_path / "metrics.json"
    path.write_text("older")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(code, os.strerror(code))

    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        fail()
    assert caught.value.filename == str(path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("metrics.json", "older")]


def test_a_folder_that_vanished_is_not_made_again(tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with kept(run_dir):
        with replacing(run_dir / "panels" / "a.png") as temporary:
            temporary.touch()
        shutil.rmtree(run_dir)
        with pytest.raises(FileNotFoundError), replacing(run_dir / "panels" / "b.png"):
            pass
        assert not run_dir.exists()
    with replacing(run_dir / "panels" / "b.png") as temporary:
        temporary.touch()
    assert (run_dir / "panels" / "b.png").is_file()


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
from vbp_lightning.files import new_folder
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
from vbp_lightning.files import new_folder
print(new_folder(sys.argv[1]), flush=True)
if "LOCAL_RANK" not in os.environ:
    subprocess.run([sys.executable, *sys.orig_argv[1:]], env=os.environ | {"LOCAL_RANK": "1"})
"""
    command = [sys.executable, "-c", script, tmp_path / "runs"]
    first, second = subprocess.run(command, capture_output=True, text=True).stdout.split()
    assert first == second
    assert list((tmp_path / "runs").iterdir()) == []
