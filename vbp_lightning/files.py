"""Atomic writing of files, digests of their content, and folders of their own for programs."""

import atexit
import errno
import glob
import hashlib
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path

_HOST = re.sub(r"[^\w-]", "-", platform.node())[:32] or "host"
_LEFTOVER = re.compile(rf"\.(?:[^.]+|.+\.{re.escape(_HOST)})\.(\d+)\.tmp")
"""The name of a temporary file of this host, or one of version 0.1, which names no host."""

_INHERITED = "VBP_LIGHTNING_FOLDER_IN_"
"""The variable of the environment, with the parent folder, that hands a new folder on."""

_existing: set[Path] = set()
"""Folders that must not be made again after they vanished."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder, renamed to ``path`` when the block succeeds.

    The temporary name holds the host and the process that writes. It keeps the suffix, since
    writers such as GDAL and matplotlib choose the format by it. An exception removes the temporary
    file and leaves an older ``path`` as it was.

    Args:
        path: The file to write or replace; its folder is created if it is missing.

    Raises:
        OSError: The file cannot be written; ``filename`` is ``path``.
    """
    temporary = path.with_name(f".{path.stem}.{_HOST}.{os.getpid()}.tmp{path.suffix}")
    try:
        if any(path.is_relative_to(folder) and not folder.is_dir() for folder in _existing):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        # a full disk is reported without a name, other errors with that of the temporary file
        if error.filename in (None, str(temporary), str(path.parent)):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_unfinished(path: Path) -> None:
    """Removes the temporary files that killed processes left in :func:`replacing`.

    Args:
        path: The file that was to be written; no process may be writing it now.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}.*.tmp*"):
        leftover.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files below a folder whose processes on this host no longer run.

    Args:
        folder: Temporary files of other hosts, and those of processes that run, are left there.
    """
    for path in folder.rglob(".*.tmp*"):
        owner = _LEFTOVER.match(path.name)
        if owner and not _runs(int(owner[1])):
            with suppress(OSError):
                path.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it belongs to another user
        pass
    return True


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Within the block :func:`replacing` fails, instead of making the folder again, if it vanishes.

    Args:
        folder: An existing folder, such as that of a run on a disk that may be disconnected.
    """
    _existing.add(folder)
    try:
        yield
    finally:
        _existing.discard(folder)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def new_folder(parent: str) -> str:
    """The folder of a new run, sweep or explanation, named after date and time.

    It is made here, with a number behind the time if another program has that name, so that
    programs that start in the same second get different folders. If nothing is written to it, it is
    removed when the program ends. The processes of a job of SLURM or torchrun start at different
    times and must use the same folder: it is named after the job. Processes that Lightning starts
    use the folder of the process that started them.

    Args:
        parent: The folder of the runs.
    """
    environment = os.environ
    if "SLURM_STEP_ID" in environment and environment.get("SLURM_NTASKS", "1") != "1":
        return f"{parent}/job_{environment['SLURM_JOB_ID']}.{environment['SLURM_STEP_ID']}"
    if "TORCHELASTIC_RUN_ID" in environment:
        job = environment["TORCHELASTIC_RUN_ID"]
        return f"{parent}/job_{_launcher() if job == 'none' else job}"
    inherited = f"{_INHERITED}{parent}"
    if "LOCAL_RANK" in environment and inherited in environment:
        return environment[inherited]
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in count(1):
        folder = f"{parent}/{stamp}" + (f"_{number}" if number > 1 else "")
        try:
            Path(folder).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:  # reported where the folder is used
            return folder
        break
    atexit.register(_remove_empty, Path(folder).absolute())
    environment[inherited] = folder
    return folder


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _launcher() -> str:
    """Process and start time of torchrun, which gives jobs of one machine no id of their own."""
    process = os.getppid()
    try:  # clock ticks since the start of the system
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # other systems than Linux
        return str(process)
    return f"{process}-{fields[19]}"
