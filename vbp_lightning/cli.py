"""How both programs end, and how they show the progress of long work."""

import errno
import logging
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from rich.console import Console
from rich.progress import Progress, track

from vbp_lightning.errors import UserError, one_line

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

FAILURE_FILE = "failed.txt"
"""In the folder of a sweep's job that failed: what went wrong."""

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)


def explain_failure(error: BaseException) -> UserError | None:
    """What a person can mend about an error, or None where it is a fault of the program."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return explain_failure(error.__cause__) or UserError(one_line(error))
    if isinstance(error, MissingMandatoryValue):
        return UserError(f"{error.full_key} is not set; add {error.full_key}=… to the command")
    if isinstance(error, OmegaConfBaseException):
        return UserError(one_line(error))
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return UserError(
            f"{error.filename or _run_folder()}: cannot be written: {error.strerror}"
            " (hydra.run.dir); make room or choose another folder, then go on with resume=RUN_DIR"
        )
    return None


def _run_folder() -> str:
    """The folder of this run, for a writer that does not say its file."""
    return HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else "output"


def leave_disk_errors_to_the_main_thread() -> None:
    """Prints no traceback where a full disk ends TensorBoard's writing thread.

    Its next use raises the same error in the main thread, which ends the run with one line.
    """

    def report(ended: threading.ExceptHookArgs) -> None:
        if not (isinstance(ended.exc_value, OSError) and ended.exc_value.errno in _DISK_ERRORS):
            threading.__excepthook__(ended)

    threading.excepthook = report


def print_error(error: UserError) -> int:
    """Prints one line a fault to standard error; returns the exit code, 1."""
    for line in error.lines:
        print(f"error: {line}", file=sys.stderr)
    return 1


def end_with(error: Exception) -> None:
    """Ends a job: prints one line a fault and exits with 1.

    A job of a sweep is marked as failed in its folder instead, and the sweep goes on.

    Args:
        error: What the job ended with.

    Raises:
        Exception: ``error`` itself, outside a sweep, where it is a fault of the program.
        SystemExit: Outside a sweep.
    """
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
    failure.write_text("\n".join(explained.lines) + "\n")


def shown_progress(items: Iterable[Item], what: str) -> Iterable[Item]:
    """The items, with a bar while they are taken.

    Args:
        items: Of known length, or the bar only moves.
        what: Stands before the bar.
    """
    return track(items, what, console=Console(stderr=True), transient=True)


def progress_bar() -> Progress:
    """A bar for work that tells its own steps; a context manager, gone afterwards."""
    return Progress(console=Console(stderr=True), transient=True)
