"""Error output, exit codes and progress bars of both programs.

The module imports quickly, since ``--help`` needs it.
"""

import errno
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from vbp_lightning.errors import UserError, one_line
from vbp_lightning.files import WriteError, replacing
from vbp_lightning.jobs import is_first_process, new_folder

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")

_SHORT_ERRORS = (CompactHydraException, OmegaConfBaseException)

FAILURE_FILE = "failed.txt"
"""The file with the error, in the folder of a failed job of a sweep or of a distributed run."""

STORED_CONFIG = Path(".hydra") / "run.yaml"
"""The settings of a run, without ``auto`` values, inside its folder."""

RESUMED_BY = (STORED_CONFIG, STORED_CONFIG.with_name("config.yaml"), Path("multirun.yaml"))
"""Files by one of which a run or a sweep is resumed."""

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


def explain_failure(error: BaseException) -> UserError | None:
    """Converts an exception to an error that the user can correct.

    Args:
        error: The exception that ended the program.

    Returns:
        The error to print; None if ``error`` is an error of the program.
    """
    if isinstance(error, UserError):
        return error
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return explain_failure(error.__cause__) or UserError(one_line(error))
    if isinstance(error, MissingMandatoryValue):
        return UserError(f"{error.full_key} is not set; add {error.full_key}=… to the command")
    if isinstance(error, OmegaConfBaseException):
        return UserError(one_line(error))
    if _is_disk_error(error):
        place = error.filename or _run_dir() or "a file"
        reason = one_line(OSError(error.strerror or error))
        is_taken = error.errno in _IN_THE_WAY
        remedy = "move what has its name" if is_taken else "make room or choose another folder"
        return UserError(
            f"{place}: cannot be written: {reason} ({_folder_key()}); {remedy};"
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


def _is_disk_error(error: BaseException | None) -> TypeGuard[OSError]:
    """Whether the system could not write a file; the folder of a run may also have vanished."""
    if isinstance(error, WriteError):
        return True
    if not isinstance(error, OSError):
        return False
    vanished = error.errno == errno.ENOENT and error.filename is not None and _run_dir() is not None
    if vanished and Path(error.filename).absolute().is_relative_to(str(_run_dir())):
        return True
    return error.errno in _DISK_ERRORS


def _is_lost_process(error: BaseException) -> bool:
    """Whether the connection to another process of a distributed job has broken."""
    is_torchs = any(base.__name__ == "DistError" for base in type(error).__mro__)
    return is_torchs or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def _run_dir() -> str | None:
    """The folder of the present job."""
    if not HydraConfig.initialized():
        return None
    run_dir: str = HydraConfig.get().runtime.output_dir
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


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends a program with one line for errors outside its job: Hydra's, interrupts, disk errors.

    Raises:
        SystemExit: After an interrupt or an error that the user can correct.
    """
    shown_in_full = "HYDRA_FULL_ERROR" in os.environ
    # without it Hydra prints the traceback of a disk error and exits by itself
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    threading.excepthook = _report_in_thread
    try:
        yield
    except KeyboardInterrupt as error:
        _end_interrupted(error)
    except CompactHydraException as error:
        if shown_in_full:
            raise
        causes = [str(e) for e in (error, error.__cause__) if isinstance(e, _SHORT_ERRORS)]
        if is_first_process():  # all processes of a job have the same command line
            print("\n".join(causes), file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        explained = explain_failure(error)
        if explained is None:
            raise
        if is_first_process() or isinstance(error, OSError):
            print_error(explained)
        sys.exit(1)
    finally:
        if not shown_in_full:
            os.environ.pop("HYDRA_FULL_ERROR", None)


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
        print(f"error: {line}", file=sys.stderr)
    return 1


def end_with(error: BaseException) -> None:
    """Prints the error that ended a job, one line for each problem, and exits.

    The exit code is 1, or 130 for an interrupt.

    A job of a sweep is marked as failed in its folder instead, and the sweep continues.

    Args:
        error: The exception that ended the job.

    Raises:
        Exception: ``error`` itself, if it is an error of the program outside a sweep.
        SystemExit: Outside a sweep, after an interrupt, or if the job cannot be marked.
    """
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        _end_interrupted(error)  # Lightning exits with 1 after an interrupt
    if not isinstance(error, Exception):
        raise error
    explained = explain_failure(error)
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if explained is None and not in_sweep:
        raise error
    if explained is None:
        logger.error("this job failed", exc_info=error)
        explained = UserError(f"{type(error).__name__}: {error}")
    exit_code = print_error(explained)
    if not in_sweep:
        sys.exit(exit_code)
    failure = Path(HydraConfig.get().runtime.output_dir) / FAILURE_FILE
    try:
        with replacing(failure) as temporary:
            temporary.write_text("\n".join(explained.lines) + "\n")
    except OSError:  # without the mark, the sweep would end as if no job had failed
        sys.exit(exit_code)


def hide_notes_of_lightning() -> None:
    """Hides Lightning's notes about devices, and its warning about its own use of torch."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec", module="pytorch_lightning")


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
        explained = explain_failure(error)
        if explained is not None and _is_reported(explained, run_dir, _is_lost_process(error)):
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
    with progress_bar() as bar:
        yield from bar.track(items, description=what)


def progress_bar() -> "Progress":
    """A context manager of a progress bar on standard error, which is removed at the end."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)
