"""Writing files so that none is ever seen half-written, and digests of their content."""

import glob
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder, renamed to ``path`` when the block succeeds.

    The temporary name keeps the suffix, since writers such as GDAL and matplotlib choose the
    format by it. An exception removes the temporary file and leaves an older ``path`` as it was.

    Args:
        path: The file to write or replace; its folder is made if it is missing.

    Raises:
        OSError: The folder cannot be made or the file cannot be renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Removes what killed processes left of :func:`replacing` a path, which nobody is doing now.

    Args:
        path: The file that was to be written or replaced.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}.*.tmp*"):
        leftover.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
