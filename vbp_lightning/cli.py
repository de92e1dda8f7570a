"""Error output, exit codes and progress bars of both programs.

The module imports quickly, since ``--help`` needs it.
"""

import errno
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from vbp_lightning.errors import UserError, one_line, plain, reason
from vbp_lightning.files import WriteError, replacing
from vbp_lightning.jobs import is_first_process, new_folder

if TYPE_CHECKING:
    from rich.progress import Progress

_Item = TypeVar("_Item")

_SHORT_ERRORS = (CompactHydraException, OmegaConfBaseException)

FAILURE_FILE = "failed.txt"
"""The file with the error, in the folder of a failed job of a sweep or of a distributed run."""

STORED_CONFIG = Path(".hydra") / "run.yaml"
"""The settings of a run, without ``auto`` values, inside its folder."""

RESUMED_BY = (STORED_CONFIG, STORED_CONFIG.with_name("config.yaml"), Path("multirun.yaml"))
"""Files by one of which a run or a sweep is resumed."""

_FULL = "HYDRA_FULL_ERROR"
"""The variable of the environment by which the user asks for tracebacks."""

_OWN_FULL = "VBP_LIGHTNING_ERRORS"
"""Set where this module has set that variable, also in the processes that inherit it."""

_NAMES = re.compile(
    r"""(\+{0,2}(?:ckpt|input|output|resume|init_from|(?:network|model)\.weights
    |data\.(?:root|split_file|corrections)|data\.source\.(?:images|masks|labels|table|layer)|paths\.\w+
    |trainer\.default_root_dir|logger\.(?:\w+\.)?(?:save|run)_dir|callbacks\.\w+\.dirpath
    |hydra\.(?:run|sweep)\.(?:sub)?dir)=)(.+)""",
    re.VERBOSE,
)
"""Settings that name files and folders, and their values."""

_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?[\d_]*(e[+-]?\d+)?|\.\d[\d_]*|nan|inf)", re.IGNORECASE)
"""What Hydra reads as a number."""

_CHOICES = re.compile(
    r"""((?:data|model|upsampling|evidence|trainer|callbacks|logger|paths|experiment|debug
    |method|task|preprocess|\w+(?:/\w+)+)=)(.+)""",
    re.VERBOSE,
)
"""Config groups, and the choices of them."""

_NO_TEXT = re.compile(rf"{_NUMBER.pattern}|null|true|false", re.IGNORECASE)
"""What Hydra reads as another value than text."""

_LONGEST = 500
"""Characters of the message of an unexpected error that are printed."""

_INTERRUPTED = 128 + signal.SIGINT
"""The exit code of a program that Ctrl-C ended."""

_IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY)
"""Errors where a file has the name of a folder that is to be made, or the other way round."""

_DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG),
    *_IN_THE_WAY,
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT),
)

# used while Hydra composes a config, also in the processes of its launchers
OmegaConf.register_new_resolver("new_folder", new_folder, use_cache=True, replace=True)
OmegaConf.register_new_resolver(
    "one_or_all", lambda names: names[0] if len(names) == 1 else list(names), replace=True
)


def explain_failure(error: BaseException) -> UserError | None:
    """Converts an exception to an error that the user can correct.

    Args:
        error: The exception that ended the program.

    Returns:
        The error to print; None if ``error`` is an error of the program.
    """
    if isinstance(error, UserError):
        return _from_worker(error)
    if isinstance(error, InstantiationException):
        explained = explain_failure(error.__cause__) if error.__cause__ else None
        return explained or _cannot_be_built(error)
    if type(error).__name__ == "MisconfigurationException" or _is_refused_by_lightning(error):
        return UserError(f"trainer: {one_line(error)}")
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return UserError(
            f"memory is short: {one_line(error)[:200]}: lower data.batch_size, data.memory or"
            f" tiles, then {_continuation(_run_dir())}"
        )
    if isinstance(error, MissingMandatoryValue):
        return UserError(f"{error.full_key} is not set; add {error.full_key}=… to the command")
    if isinstance(error, OmegaConfBaseException):
        return UserError(one_line(error))
    if _is_disk_error(error):
        place = _named_file(error) or _run_dir() or "a file"
        why = one_line(OSError(error.strerror or error))
        is_taken = error.errno in _IN_THE_WAY
        remedy = "move what has its name" if is_taken else "make room or choose another folder"
        return UserError(
            f"{place}: cannot be written: {why} ({_folder_key()}); {remedy};"
            f" then {_continuation(place, vanished=error.errno == errno.ENOENT)}"
        )
    if _is_lost_process(error):
        return UserError(
            "another process of this job has ended (trainer.devices): see its error, or whether it"
            f" was killed, for example for lack of memory; then {_continuation(_run_dir())}"
        )
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        return UserError(
            f"{one_line(error)} (data.num_workers): if memory was short, set fewer workers or a"
            f" smaller data.memory, then {_continuation(_run_dir())}"
        )
    return None


def _cannot_be_built(error: InstantiationException) -> UserError:
    """The error of an object that a config names and Hydra refuses or fails to make."""
    text, _, key = one_line(error).partition(" full_key: ")
    place = f"{key}: cannot be built" if key else "a setting cannot be used"
    cause = error.__cause__
    return UserError(f"{place}: {f'{type(cause).__name__}: {reason(error)}' if cause else text}")


def _from_worker(error: UserError) -> UserError:
    """The error as a loader worker raised it: torch replaces its lines by a traceback."""
    text = str(error)
    if "\nOriginal Traceback" not in text:
        return error
    name = f"{type(error).__module__}.{type(error).__qualname__}: "
    return type(error)(*text.rpartition(name)[2].strip().splitlines())


def _is_refused_by_lightning(error: BaseException) -> bool:
    """Whether Lightning's trainer or one of its callbacks refuses a value of a setting."""
    module, _ = _origin(error)
    return (isinstance(error, ValueError) and module.startswith("pytorch_lightning.")) or (
        isinstance(error, RuntimeError) and module.startswith("pytorch_lightning.callbacks.")
    )


def _origin(error: BaseException) -> tuple[str, str]:
    """The names of the module and of the function that raised an exception."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not frames:
        return "", ""
    return str(frames[-1].f_globals.get("__name__")), frames[-1].f_code.co_name


def _is_out_of_memory(error: BaseException) -> bool:
    is_cudas = any(base.__name__ == "OutOfMemoryError" for base in type(error).__mro__)
    return is_cudas or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


def _is_disk_error(error: BaseException | None) -> TypeGuard[OSError]:
    """Whether the system could not write a file; the folder of a run may also have vanished."""
    if isinstance(error, WriteError):
        return True
    if not isinstance(error, OSError):
        return False
    if error.errno != errno.ENOENT:
        return error.errno in _DISK_ERRORS
    name, run_dir = _named_file(error), _run_dir()
    if _origin(error)[1] in ("mkdir", "makedirs"):  # of a folder that takes none, such as /proc
        return True
    if name is None or run_dir is None:
        return False
    return Path(name).absolute().is_relative_to(run_dir)


def _named_file(error: OSError) -> str | None:
    """The file that an error names, if any; TensorBoard opens files by names of bytes."""
    name = error.filename
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) and name else None


def _is_lost_process(error: BaseException) -> bool:
    """Whether the connection to another process of a distributed job has broken."""
    is_torchs = any(base.__name__ == "DistError" for base in type(error).__mro__)
    return is_torchs or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def _run_dir() -> str | None:
    """The folder of the present job; None before Hydra has made one."""
    if not HydraConfig.initialized():
        return None
    try:
        run_dir: str = HydraConfig.get().runtime.output_dir
    except MissingMandatoryValue:  # the config is still being composed
        return None
    return run_dir


def _is_explanation() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().job.config_name == "explain"


def _folder_key() -> str:
    """The config key of the folder that the present program writes to."""
    if _is_explanation():
        return "output"
    is_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    return "hydra.sweep.dir" if is_sweep else "hydra.run.dir"


def _continuation(place: str | None, vanished: bool = False) -> str:
    """The way to continue the present program.

    Args:
        place: The file or folder that an error is about, or None.
        vanished: Whether its folder vanished, and may come back.

    Returns:
        ``resume=`` with the folder of the run or the sweep, if its settings are stored there.
    """
    if _is_explanation() or place is None:
        return "repeat the command"
    path = Path(place).absolute()
    for folder in (path, *path.parents):
        if any((folder / name).is_file() for name in RESUMED_BY):
            sweep = folder.parent
            is_job = (sweep / RESUMED_BY[-1]).is_file()
            return f"continue with resume={sweep if is_job else folder}"
    run_dir = _run_dir()
    if not vanished or run_dir is None:
        return "repeat the command"
    is_job = _folder_key() == "hydra.sweep.dir"
    return f"continue with resume={os.path.dirname(run_dir) if is_job else run_dir}"


def _report_in_thread(ended: threading.ExceptHookArgs) -> None:
    """Suppresses the traceback when a disk error ends TensorBoard's writing thread.

    The next use of the writer raises the same error in the main thread, which prints one line.
    """
    if not _is_disk_error(ended.exc_value):
        threading.__excepthook__(ended)


_of_network = re.compile(r"^(?=(model\.)?network\.\w)")


def names_as_text(arguments: list[str]) -> list[str]:
    """Quotes what Hydra would not read as text: files and folders such as ``2024.10``, choices.

    Hydra explains a choice that does not exist only if it is text. The arguments of a network are
    open: they may be given without the ``+`` by which Hydra adds a setting.

    Args:
        arguments: The command line, without the program's name.

    Raises:
        UserError: A list names a choice twice.
    """
    return [_of_network.sub("++", _quoted(each)) for each in arguments]


def _quoted(argument: str) -> str:
    # the values of a sweep, and for choices those of a list
    for keys, between, other in ((_NAMES, "(,)", _NUMBER), (_CHOICES, r"([],[])", _NO_TEXT)):
        if found := keys.fullmatch(argument):
            values = re.split(between, found[2])
            if keys is _CHOICES:
                _refuse_repeated(argument)
            return found[1] + "".join(f"'{v}'" if other.fullmatch(v) else v for v in values)
    return argument


def _refuse_repeated(argument: str) -> None:
    """Hydra merges the choices of a list, by which one that is named twice would count once."""
    for choices in re.findall(r"\[([^\[\]]*)\]", argument):
        names = [name.strip() for name in choices.split(",")]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{argument}: names {', '.join(repeated)} twice; name each choice once")


def _plain_record(*args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: ANN401
    """A record of the log without control characters, which names of files may hold."""
    record = logging.LogRecord(*args, **kwargs)
    record.msg = "\n".join(map(plain, record.getMessage().split("\n")))
    record.args = ()
    return record


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends a program with one line for each error, also those of Hydra and of the program itself.

    ``HYDRA_FULL_ERROR=1`` shows the traceback.

    Raises:
        SystemExit: After an interrupt or an error.
    """
    before = os.environ.get(_FULL)
    if not _shown_in_full():
        # without it Hydra prints tracebacks and exits by itself
        os.environ[_FULL] = os.environ[_OWN_FULL] = "1"
    threading.excepthook = _report_in_thread
    logging.setLogRecordFactory(_plain_record)
    try:
        yield
        print(end="", flush=True)
    except KeyboardInterrupt as error:
        _end_interrupted(error)
    except Exception as error:
        _end_if_unread(error)
        if _shown_in_full():
            raise
        # all processes of a job have the same command line
        is_reporting = is_first_process() or isinstance(error, OSError)
        if isinstance(error, CompactHydraException) and _syntax_error(error) is None:
            causes = [str(e) for e in (error, error.__cause__) if isinstance(e, _SHORT_ERRORS)]
            if is_reporting:
                print("\n".join(causes), file=sys.stderr)
        else:
            explained = _syntax_error(error) or explain_failure(error) or unexpected(error)
            if is_reporting:
                print_error(explained)
        sys.exit(1)
    finally:
        if not _shown_in_full():
            del os.environ[_OWN_FULL]
            if before is None:
                del os.environ[_FULL]
            else:
                os.environ[_FULL] = before


def _end_if_unread(error: BaseException) -> None:
    """Exits with 1 and no message if the program that reads the output has ended, as ``head``."""
    if not isinstance(error, BrokenPipeError):
        return
    try:
        print(flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # Python flushes it again at its end
        sys.exit(1)


def _shown_in_full() -> bool:
    """Whether the user asks for tracebacks."""
    return os.environ.get(_FULL) == "1" and _OWN_FULL not in os.environ


def _syntax_error(error: Exception) -> UserError | None:
    """The error of an override that Hydra cannot read, with the quoting that it needs."""
    ambiguous = re.match(r"Ambiguous value for argument '(.*)'$", str(error), re.MULTILINE)
    if isinstance(error, OverrideParseException):
        override = error.override
        told = one_line(error).partition(" See https")[0]
    elif ambiguous:
        override, told = ambiguous[1], "a list needs square brackets, a sweep needs -m"
    else:
        return None
    key, _, value = override.partition("=")
    quoted = value.strip("'\"").replace("\\", "\\\\").replace('"', '\\"')
    return UserError(
        f"{override}: cannot be read ({told}): quote a value with = , : ( ) [ ] {{ }} or quotes"
        f" twice, for the shell and for Hydra, as in '{key}=\"{quoted}\"'"
    )


def unexpected(error: BaseException) -> UserError:
    """The line about an error of the program, whose traceback is written to a file.

    Args:
        error: The exception that ended the program.

    Returns:
        The name and the message of the exception, the file, and what to do with it.
    """
    folders = [Path(tempfile.gettempdir())]
    run_dir = _run_dir()
    if run_dir is not None and not _is_explanation():
        folders.insert(0, Path(run_dir))
    stamp = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}"
    place = "HYDRA_FULL_ERROR=1 shows the traceback: report it with that"
    for path in (folder / f"error_{stamp}.log" for folder in folders):
        try:
            with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{' '.join(sys.argv)}\n\n")
                traceback.print_exception(error, file=file)
        except OSError:
            continue
        place = f"its traceback is in {path.absolute()}: report it with that file"
        break
    return UserError(
        f"{type(error).__name__}: {one_line(error)[:_LONGEST]}: an error of vbp_lightning itself;"
        f" {place} where you got vbp_lightning from"
    )


def _end_interrupted(error: BaseException) -> None:
    """Prints one line in the first process of a job and exits with 130."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C again while the program ends
    if is_first_process():
        is_run = HydraConfig.initialized() and not _is_explanation()
        way_out = _continuation(_run_dir()) if is_run else ""
        print(f"Interrupted. {way_out[:1].upper()}{way_out[1:]}".rstrip(), file=sys.stderr)
    raise SystemExit(_INTERRUPTED) from error


def print_error(error: UserError) -> int:
    """Prints each line of an error to standard error; returns the exit code, 1."""
    for line in error.lines:
        print(f"error: {plain(line)}", file=sys.stderr)
    return 1


def end_with(error: BaseException) -> None:
    """Prints the error that ended a job, one line for each problem, and exits.

    The exit code is 1, or 130 for an interrupt.

    A job of a sweep is marked as failed in its folder instead, and the sweep continues.

    Args:
        error: The exception that ended the job.

    Raises:
        Exception: ``error`` itself, if ``HYDRA_FULL_ERROR=1`` is set.
        SystemExit: Outside a sweep, after an interrupt, or if the job cannot be marked.
    """
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        _end_interrupted(error)  # Lightning exits with 1 after an interrupt
    if not isinstance(error, Exception):
        raise error
    _end_if_unread(error)
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if _shown_in_full():
        if not in_sweep:
            raise error
        traceback.print_exception(error)
    explained = explain_failure(error) or unexpected(error)
    exit_code = print_error(explained)
    if not in_sweep:
        sys.exit(exit_code)
    failure = Path(HydraConfig.get().runtime.output_dir) / FAILURE_FILE
    try:
        with replacing(failure) as temporary:
            temporary.write_text("\n".join(explained.lines) + "\n")
    except OSError:  # without the mark, the sweep would end as if no job had failed
        sys.exit(exit_code)


@contextmanager
def quiet_loggers(level: int, *names: str) -> Iterator[None]:
    """Within the block, some loggers say nothing below a level.

    Args:
        level: Of ``logging``, such as ``logging.WARNING``.
        *names: Of the loggers.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(level)
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Within the block, Lightning and DDP say nothing that a user can do nothing about.

    These are Lightning's notes about devices; its use of a deprecated function of torch; that it
    cannot know whether a batch sampler gives a prediction every tile, as those of this project do;
    that blocks of a scene are read without workers; that DDP copies the gradient of a 1 × 1
    convolution, where a stride has no meaning; and that the backward pass of the global max pooling
    has no deterministic CUDA kernel, which ``trainer.deterministic=warn`` allows.
    """
    harmless = (
        ".*LeafSpec",
        ".*custom batch sampler.*predict",
        ".*predict_dataloader.*many workers",
        "Grad strides",
        "adaptive_max_pool2d_backward_cuda",
    )
    with (
        quiet_loggers(logging.WARNING, "pytorch_lightning", "lightning_fabric"),
        warnings.catch_warnings(),
    ):
        for message in harmless:
            warnings.filterwarnings("ignore", message=message)
        yield


@contextmanager
def reported_once(run_dir: Path) -> Iterator[None]:
    """Within the block only the first of a job's processes that fail prints an error.

    The processes of a job often meet the same error, and those that have not failed lose the
    connection to the one that has. The first failure is marked in the folder of the run.

    Args:
        run_dir: The run's folder, the same for all processes; without a mark of an earlier start.

    Raises:
        SystemExit: Another process has printed its error.
    """
    try:
        yield
        if is_first_process():  # a process that outlived an earlier start may have left it
            (run_dir / FAILURE_FILE).unlink(missing_ok=True)
    except Exception as error:
        explained = explain_failure(error) or UserError(
            f"{type(error).__name__}: {one_line(error)}"
        )
        if _is_reported(explained, run_dir, _is_lost_process(error)):
            raise SystemExit(1) from error
        raise


def _is_reported(error: UserError, run_dir: Path, is_lost: bool) -> bool:
    """Whether another process of a job has failed already; otherwise marks that this one has."""
    # Lightning and torchrun set the address for all processes that they start
    if "MASTER_ADDR" not in os.environ and os.environ.get("SLURM_NTASKS", "1") == "1":
        return False
    try:
        with (run_dir / FAILURE_FILE).open("x") as mark:
            mark.write("\n".join(error.lines) + "\n")
    except FileExistsError:
        return True
    except OSError:  # it cannot be known
        return is_lost and not is_first_process()
    return False


def shown_progress(items: Iterable[_Item], what: str) -> Iterable[_Item]:
    """Yields the items and shows a progress bar on standard error.

    Args:
        items: What to iterate over. The bar shows the share that is done if their number is
            known.
        what: The text before the bar.

    Yields:
        The items.
    """
    from rich.markup import escape

    with progress_bar() as bar:
        yield from bar.track(items, description=escape(plain(what)))


def progress_bar() -> "Progress":
    """A context manager of a progress bar on standard error, which is removed at the end."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)
