"""The line and the exit code with which the programs end."""

import errno
import os
from types import SimpleNamespace

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode

from vbp_lightning.cli import end_with, explain_failure, one_line_errors, reported_once
from vbp_lightning.errors import UserError


@pytest.mark.parametrize(
    "code",
    [
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE),
        *(errno.EPERM, errno.EISDIR, errno.ENOTDIR),
    ],
)
def test_every_disk_error_is_one_line_that_names_the_file(code):
    explained = explain_failure(OSError(code, os.strerror(code), "/run/panels/a.png"))
    assert explained is not None
    (line,) = explained.lines
    assert line.startswith(f"/run/panels/a.png: cannot be written: {os.strerror(code)}")
    assert "hydra.run.dir" in line


def test_a_missing_file_outside_a_run_is_an_error_of_the_program():
    assert explain_failure(FileNotFoundError(errno.ENOENT, "No such file", "/other")) is None


@pytest.mark.parametrize("stored", [".hydra/run.yaml", ".hydra/config.yaml", "multirun.yaml"])
def test_a_disk_error_names_the_folder_that_is_resumed(tmp_path, stored):
    (tmp_path / "a" / ".hydra").mkdir(parents=True)
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a" / "panels" / "p"))
    assert explain_failure(error).lines[0].endswith("; then repeat the command")
    (tmp_path / "a" / stored).touch()
    assert explain_failure(error).lines[0].endswith(f"; then continue with resume={tmp_path}/a")
    (tmp_path / "multirun.yaml").touch()  # a is a job of this sweep
    assert explain_failure(error).lines[0].endswith(f"; then continue with resume={tmp_path}")


@pytest.mark.parametrize("marked", [True, False])
def test_a_sweep_goes_on_after_a_failed_job_if_it_can_be_marked(
    tmp_path, monkeypatch, capsys, marked
):
    job = tmp_path / "job"
    settings = SimpleNamespace(
        mode=RunMode.MULTIRUN,
        runtime=SimpleNamespace(output_dir=str(job)),
        job=SimpleNamespace(config_name="train"),
    )
    monkeypatch.setattr(HydraConfig, "get", lambda: settings)
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    error = UserError("a: wrong (b)")
    if marked:
        job.mkdir()
        end_with(error)
        assert (job / "failed.txt").read_text() == "a: wrong (b)\n"
    else:
        with pytest.raises(SystemExit) as ended:
            end_with(error)
        assert ended.value.code == 1
    assert capsys.readouterr().err == "error: a: wrong (b)\n"


def test_a_killed_loader_worker_is_one_line():
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    explained = explain_failure(error)
    assert explained is not None
    assert explained.lines[0].startswith("DataLoader worker (pid 7) is killed by signal: Killed.")
    assert "data.num_workers" in explained.lines[0]
    assert explain_failure(RuntimeError("another")) is None


@pytest.fixture(autouse=True)
def interrupts_stay(monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (UserError("a: wrong (b)"), 1, "error: a: wrong (b)\n"),
        (OSError(errno.EIO, "Input/output error", "f"), 1, "error: f: cannot be written"),
        (ConfigCompositionException("no such key"), 1, "no such key\n"),
    ],
)
def test_errors_outside_the_job_end_the_program(capsys, error, code, line):

    @one_line_errors()
    def end():
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
        raise error

    with pytest.raises(SystemExit) as ended:
        end()
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith(line)
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_errors_of_the_program_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError


def test_the_exit_of_lightning_after_an_interrupt_is_130():
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904  as Lightning does
    except SystemExit as error:
        with pytest.raises(SystemExit) as ended:
            end_with(error)
    assert ended.value.code == 130


LOST = [
    RuntimeError("[/a/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:1: Connection reset"),
    torch.distributed.DistNetworkError("Broken pipe"),
    torch.distributed.DistBackendError("NCCL communicator was aborted"),
]


@pytest.mark.parametrize("error", LOST)
def test_a_killed_process_of_a_job_is_one_line_of_the_others(error):
    explained = explain_failure(error)
    assert explained is not None
    (line,) = explained.lines
    assert line.startswith("another process of this job has ended (trainer.devices)")
    assert line.endswith("for example for lack of memory; then repeat the command")


@pytest.mark.parametrize("launcher", [("MASTER_ADDR", "localhost"), ("SLURM_NTASKS", "2")])
@pytest.mark.parametrize("second", [UserError("first"), UserError("other"), *LOST])
def test_one_process_of_a_job_reports_an_error(monkeypatch, tmp_path, launcher, second):
    monkeypatch.setenv(*launcher)
    with pytest.raises(UserError, match="first"), reported_once(tmp_path):
        raise UserError("first")
    assert (tmp_path / "failed.txt").read_text() == "first\n"
    with pytest.raises(SystemExit, match="1"), reported_once(tmp_path):
        raise second


def test_other_runs_and_errors_of_the_program_are_always_reported(monkeypatch, tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match="alone"), reported_once(tmp_path):
            raise UserError("alone")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), reported_once(tmp_path):
            raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID"])
def test_the_first_process_reports_errors_of_the_command_line(monkeypatch, capsys, name):
    for rank, printed in (("1", False), ("0", True)):
        monkeypatch.setenv(name, rank)
        for error in (UserError("wrong"), ConfigCompositionException("wrong")):
            with pytest.raises(SystemExit, match="1"), one_line_errors():
                raise error
            assert ("wrong" in capsys.readouterr().err) is printed
