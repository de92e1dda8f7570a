"""Error output, exit codes and progress bars of both programs.

The module imports quickly, since ``--help`` needs it.
"""

import errno
import logging
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from vbp_lightning.errors import UserError, one_line

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")

FAILURE_FILE = "failed.txt"
"""The file with the error, in the folder of a failed job of a sweep."""

_DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG),
    *(errno.EEXIST, errno.ENOTDIR),  # a file where a folder is to be made
)


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
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        run_dir = HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else "RUN_DIR"
        return UserError(
            f"{error.filename or run_dir}: cannot be written: {error.strerror} (hydra.run.dir);"
            f" make room or choose another folder, then continue with resume={run_dir}"
        )
    return None


def silence_disk_errors_of_threads() -> None:
    """Suppresses the traceback when a full disk ends TensorBoard's writing thread.

    The next use of the writer raises the same error in the main thread, which prints one line.
    """

    def report(ended: threading.ExceptHookArgs) -> None:
        if not (isinstance(ended.exc_value, OSError) and ended.exc_value.errno in _DISK_ERRORS):
            threading.__excepthook__(ended)

    threading.excepthook = report


def print_error(error: UserError) -> int:
    """Prints each line of an error to standard error; returns the exit code, 1."""
    for line in error.lines:
        print(f"error: {line}", file=sys.stderr)
    return 1


def end_with(error: Exception) -> None:
    """Prints the error that ended a job, one line for each problem, and exits with 1.

    A job of a sweep is marked as failed in its folder instead, and the sweep continues.

    Args:
        error: The exception that ended the job.

    Raises:
        Exception: ``error`` itself, if it is an error of the program outside a sweep.
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

    return Progress(console=Console(stderr=True), transient=True)
