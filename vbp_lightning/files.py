"""Atomic writing of files, pages among them, and digests of their content."""

import glob
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_HOST = re.sub(r"[^\w-]", "-", platform.node())[:32] or "host"
_LEFTOVER = re.compile(rf"\.(?:[^.]+|.+\.{re.escape(_HOST)})\.(\d+)\.tmp")
"""The name of a temporary file of this host, or one of version 0.1, which names no host."""


class WriteError(OSError):
    """A file could not be written; ``filename`` is its final name, or that of its folder."""


@contextmanager
def replacing(path: Path, *, subfolder: bool = False) -> Iterator[Path]:
    """Yields a temporary path in the same folder, renamed to ``path`` when the block succeeds.

    The temporary name holds the host and the process that writes. It keeps the suffix, since
    writers such as GDAL and matplotlib choose the format by it. An exception removes the temporary
    file and leaves an older ``path`` as it was.

    Args:
        path: The file to write or replace, or a folder that is missing. Its folder must exist, so
            that one that vanished, such as that of a run on a disk that was disconnected, is not
            made again.
        subfolder: Whether the file's folder is made if the folder above it exists.

    Raises:
        WriteError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.stem}.{_HOST}.{os.getpid()}.tmp{path.suffix}")
    try:
        if subfolder:
            path.parent.mkdir(exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        is_folder = error.filename == str(path.parent)
        name = str(path.parent if is_folder else path)
        raise WriteError(error.errno, error.strerror or str(error), name) from error
    finally:
        _remove(temporary)


def write_page(
    path: Path,
    template: tuple[str, str],
    content: Mapping[str, Any],
    **filters: Callable[..., object],
) -> None:
    """Writes an HTML page.

    Args:
        path: The file to write or replace.
        template: Dotted name of the package that holds the template, and the name of its file.
        content: What the template shows; text is escaped.
        **filters: Functions that the template uses.

    Raises:
        WriteError: The file cannot be written.
    """
    import jinja2

    package, name = template
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    page = environment.get_template(name)
    with replacing(path) as temporary:
        page.stream(content).dump(str(temporary), "utf-8")


def remove_unfinished(path: Path) -> None:
    """Removes the temporary files that killed processes left in :func:`replacing`.

    Args:
        path: The file that was to be written; no process may be writing it now.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}.*.tmp*"):
        _remove(leftover)


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files and folders whose processes on this host no longer run.

    Args:
        folder: Where to look; those of other hosts, and of processes that run, are left.
    """
    for path in list(folder.rglob(".*.tmp*")):
        owner = _LEFTOVER.match(path.name)
        if owner and not _runs(int(owner[1])):
            _remove(path)


def _remove(path: Path) -> None:
    """Removes a file or a folder if the disk allows it."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _runs(process: int) -> bool:
    if os.name == "nt":  # a file that a process has open cannot be removed there
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it belongs to another user
        pass
    return True


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
