"""Atomic writing of files, and digests of their content."""

import glob
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder, renamed to ``path`` when the block succeeds.

    The temporary name keeps the suffix, since writers such as GDAL and matplotlib choose the
    format by it. An exception removes the temporary file and leaves an older ``path`` as it was.

    Args:
        path: The file to write or replace; its folder is created if it is missing.

    Raises:
        OSError: The file cannot be written; ``filename`` is ``path``.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
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


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
