"""The line and the exit code with which the programs end."""

import errno
import logging
import os
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import vbp_lightning
from tests.helpers.composed import composed
from vbp_lightning.cli import (
    end_with,
    explain_failure,
    names_as_text,
    one_line_errors,
    quiet_lightning,
    reported_once,
)
from vbp_lightning.data.datasets.scene import DataError
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
    by_bytes = explain_failure(OSError(code, os.strerror(code), b"/run/panels/a.png"))
    assert by_bytes is not None
    assert by_bytes.lines == explained.lines


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
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # of a job in another test


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


def test_an_error_of_the_program_is_one_line_with_the_file_of_its_traceback(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SystemExit, match="1"), one_line_errors():
        {}["a\x1b[31m"]
    (line,) = capsys.readouterr().err.splitlines()
    (log,) = tmp_path.iterdir()
    assert line.startswith("error: KeyError: 'a\\x1b[31m': an error of vbp_lightning itself")
    assert str(log) in line
    assert "report it" in line
    assert log.read_text().count("Traceback (most recent call last)") == 1
    assert "test_cli.py" in log.read_text()
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


@pytest.mark.parametrize("mode", [RunMode.RUN, RunMode.MULTIRUN])
def test_an_error_of_the_program_in_a_job_is_one_line(monkeypatch, tmp_path, capsys, mode):
    settings = SimpleNamespace(
        mode=mode,
        runtime=SimpleNamespace(output_dir=str(tmp_path)),
        job=SimpleNamespace(config_name="train"),
    )
    monkeypatch.setattr(HydraConfig, "get", lambda: settings)
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    error = ZeroDivisionError("division\nby zero")
    if mode == RunMode.RUN:
        with pytest.raises(SystemExit, match="1"):
            end_with(error)
    else:
        end_with(error)
        assert (tmp_path / "failed.txt").read_text().startswith("ZeroDivisionError: division by")
    (line,) = capsys.readouterr().err.splitlines()
    (log,) = tmp_path.glob("error_*.log")
    assert line.startswith("error: ZeroDivisionError: division by zero: an error of vbp_lightning")
    assert str(log) in line
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    if mode == RunMode.RUN:
        with pytest.raises(ZeroDivisionError):
            end_with(error)


class Failing(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise DataError("a.tif: is damaged (data.root)", "b.tif: is damaged (data.root)")


def test_an_error_in_a_loader_worker_keeps_its_lines():
    batches = iter(torch.utils.data.DataLoader(Failing(), num_workers=1))
    with pytest.raises(DataError, match="Traceback") as caught:
        next(batches)
    batches._shutdown_workers()  # which takes seconds if it is left to the garbage collector
    explained = explain_failure(caught.value)
    assert explained.lines == ("a.tif: is damaged (data.root)", "b.tif: is damaged (data.root)")


def test_only_warnings_that_nobody_can_heed_are_silent(recwarn):
    with quiet_lightning():
        warnings.warn(
            "adaptive_max_pool2d_backward_cuda does not have a deterministic implementation",
            stacklevel=1,
        )
        warnings.warn(
            "The 'predict_dataloader' does not have many workers which may be a bottleneck",
            stacklevel=1,
        )
        warnings.warn(
            "The 'train_dataloader' does not have many workers which may be a bottleneck",
            stacklevel=1,
        )
    assert [str(each.message)[:22] for each in recwarn] == ["The 'train_dataloader'"]


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (
            MisconfigurationException("No supported gpu backend\nfound!"),
            "trainer: No supported gpu",
        ),
        (MemoryError("Unable to allocate 3 GiB"), "lower data.batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory."), "lower data.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "lower data.batch_size"),
    ],
)
def test_errors_of_libraries_that_the_user_can_correct_name_a_setting(error, part):
    (line,) = explain_failure(error).lines
    assert part in line


@pytest.mark.parametrize(
    ("override", "quoted"),
    [
        ("data.root=/a/b=c", "'data.root=\"/a/b=c\"'"),
        ("input=a=b.tif", "'input=\"a=b.tif\"'"),
        ("ckpt=epoch=3.ckpt", "'ckpt=\"epoch=3.ckpt\"'"),
        ("data.root=/a,b", "'data.root=\"/a,b\"'"),
        ("input=(a", "'input=\"(a\"'"),
    ],
)
def test_a_value_with_characters_of_hydra_is_shown_with_its_quotes(capsys, override, quoted):
    with pytest.raises(SystemExit, match="1"), one_line_errors():
        composed("explain" if "data" not in override else "train", override)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {override}: cannot be read")
    assert line.endswith(quoted)
    (parsed,) = OverridesParser.create().parse_overrides([quoted[1:-1]])
    assert parsed.value() == override.partition("=")[2]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("input=5", "5"),
        ("output=2024.10", "2024.10"),
        ("data.root=2024_01", "2024_01"),
        ("+ckpt=1e3", "1e3"),
        ("resume=007", "007"),
        ("data.split_file=-3", "-3"),
        ("network.weights=.5", ".5"),
        ("model.weights=007", "007"),
        ("hydra.run.dir=2024", "2024"),
        ("paths.data_dir=nan", "nan"),
    ],
)
def test_names_of_files_that_look_like_numbers_stay_as_they_are(argument, value):
    (parsed,) = OverridesParser.create().parse_overrides(names_as_text([argument]))
    assert parsed.value() == value


@pytest.mark.parametrize(
    "argument", ["input=null", "seed=5", "tiles=4", "output=out", "-m", "input='5'", "input=[5]"]
)
def test_other_arguments_are_left_alone(argument):
    assert names_as_text([argument]) == [argument]


def test_the_folders_of_a_sweep_are_text_too():
    (argument,) = names_as_text(["data.root=2024,2025.10,a"])
    (parsed,) = OverridesParser.create().parse_overrides([argument])
    assert [getattr(value, "text", value) for value in parsed.value().list] == [
        *("2024", "2025.10", "a"),
    ]


@pytest.mark.parametrize(
    ("argument", "choices"),
    [
        ("trainer=null", ["null"]),
        ("data=5", ["5"]),
        ("task=true", ["true"]),
        ("hydra/launcher=1e3", ["1e3"]),
        ("method=[lrp,5]", ["lrp", "5"]),
    ],
)
def test_choices_are_text_so_that_hydra_lists_those_that_exist(argument, choices):
    (parsed,) = OverridesParser.create().parse_overrides(names_as_text([argument]))
    assert parsed.value() == (choices if "[" in argument else choices[0])


@pytest.mark.parametrize(
    "argument",
    [
        *("upsampling=[deconv,deconv]", "upsampling=[unpool,deconv, unpool]"),
        *("method=nearest,[lrp,lrp]", "logger=[csv,csv]"),
    ],
)
def test_a_list_that_names_a_choice_twice_is_one_line(argument):
    with pytest.raises(UserError, match=r"twice; name each choice once") as caught:
        names_as_text([argument])
    assert str(caught.value).startswith(f"{argument}: names ")


def test_a_sweep_over_lists_may_repeat_a_choice():
    argument = "upsampling=[deconv,unpool],[deconv,bilinear]"
    assert names_as_text([argument]) == [argument]


@pytest.mark.parametrize("override", ["model=null", "data=7", "trainer=[null]"])
def test_a_choice_that_does_not_exist_is_an_error_of_the_command(capsys, override):
    with pytest.raises(SystemExit, match="1"), one_line_errors():
        composed("train", *names_as_text([override]))
    assert capsys.readouterr().err.startswith("In 'train': Could not")


def test_every_config_group_is_known_as_one():
    root = Path(vbp_lightning.__file__).parents[1] / "conf"
    groups = {path.name for path in root.iterdir() if path.is_dir()} - {"tiling"}
    assert [name for name in groups if names_as_text([f"{name}=5"]) != [f"{name}='5'"]] == []


def test_a_target_that_hydra_refuses_names_its_key():
    with pytest.raises(InstantiationException) as raised:
        instantiate({"model": {"_target_": "os.system", "command": "true"}})
    (line,) = explain_failure(raised.value).lines
    assert line.startswith("model: cannot be built: Target 'os.system' is blocklisted")


@pytest.mark.parametrize(("error", "code"), [(KeyError("a"), 1), (KeyboardInterrupt(), 130)])
def test_errors_before_a_job_has_its_folder_are_one_line(monkeypatch, tmp_path, error, code):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = HydraConfig()
    config.set_config(OmegaConf.create({"hydra": OmegaConf.structured(HydraConf)}))
    config.cfg.hydra._set_flag("readonly", False)
    config.cfg.hydra.job.config_name = "train"
    monkeypatch.setattr(HydraConfig, "instance", lambda: config)
    with pytest.raises(SystemExit, match=str(code)), one_line_errors():
        raise error


@pytest.mark.parametrize("in_job", [True, False])
def test_a_closed_pipe_ends_the_program_without_a_word(monkeypatch, capsys, in_job):
    read, write = os.pipe()
    os.close(read)

    @one_line_errors()
    def end():
        try:
            print("a line", flush=True)
        except BrokenPipeError as error:
            if in_job:
                end_with(error)
            raise

    with open(write, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        with pytest.raises(SystemExit, match="1"):
            end()
    assert capsys.readouterr().err == ""


def test_names_of_files_cannot_control_the_terminal(capsys):
    with pytest.raises(SystemExit), one_line_errors():
        raise UserError("c\x1b[2J\x9b1m\u202e\udcff\nd: is damaged")
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: c\\x1b[2J\\x9b1m\\u202e\\udcff\\nd: is damaged"
    )


def test_the_log_holds_no_control_characters(caplog):
    with one_line_errors():
        logging.getLogger("here").warning("%s\n%s", "a\x1b]0;title\x07", "b")
    assert caplog.messages == ["a\\x1b]0;title\\x07\nb"]


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


def test_errors_of_other_runs_are_always_reported(tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match="alone"), reported_once(tmp_path):
            raise UserError("alone")
    assert not list(tmp_path.iterdir())


def test_errors_of_the_program_that_follow_another_are_not_reported(monkeypatch, tmp_path):
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(ZeroDivisionError), reported_once(tmp_path):
        raise ZeroDivisionError("by\nzero")
    assert (tmp_path / "failed.txt").read_text() == "ZeroDivisionError: by zero\n"
    with pytest.raises(SystemExit, match="1"), reported_once(tmp_path):
        raise ZeroDivisionError


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID"])
def test_the_first_process_reports_errors_of_the_command_line(monkeypatch, capsys, name):
    for rank, printed in (("1", False), ("0", True)):
        monkeypatch.setenv(name, rank)
        for error in (UserError("wrong"), ConfigCompositionException("wrong")):
            with pytest.raises(SystemExit, match="1"), one_line_errors():
                raise error
            assert ("wrong" in capsys.readouterr().err) is printed
