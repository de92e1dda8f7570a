"""Which files of a folder belong to a data set, and which files may be opened."""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from html import unescape
from pathlib import Path, PurePosixPath

from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.datasets.virtual_path import VirtualPath
from vbp_lightning.errors import one_line

_OTHERS_FOLDERS = {
    *("__macosx", "__pycache__", "$recycle.bin", "recycler", "system volume information"),
    *("lost+found", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
    *("~snapshot", "network trash folder", "temporary items"),
}
"""Folders that operating systems and network drives make, in lower case."""

_OTHERS_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}

_UNFINISHED = (
    *(".part", ".partial", ".crdownload", ".download", ".opdownload", ".filepart", ".aria2"),
    *(".!ut", ".!qb", ".!bt", ".tmp", ".temp", "_.gstmp", ".swp", ".swo", ".bak", ".orig", "~"),
    *(".lock", "_$folder$"),
)
"""Ends of the names of files that are being written, copies that editors keep, and markers."""

_SPECIAL = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}

_SOURCES = re.compile(r"<SourceFilename([^>]*)>([^<]*)<")

Enters = Callable[[tuple[str, ...]], bool]
"""Whether a folder, given by the names on its path, is listed."""


def is_leftover(name: str) -> bool:
    """Whether a file or folder is hidden, or was left by another program."""
    lower = name.lower()
    return (
        lower.startswith((".", "~$"))
        or lower in _OTHERS_FOLDERS
        or lower in _OTHERS_FILES
        or lower.endswith(_UNFINISHED)
    )


def files_below(
    root: Path, key: str, enters: Enters | None = None, once: bool = True
) -> list[PurePosixPath]:
    """Lists the regular files below a folder, without hidden files and those of other programs.

    Args:
        root: The folder.
        key: The config key that names it, for messages.
        enters: Which folders are listed; None for all.
        once: Whether a folder that links reach several times is listed once, by its own name if
            that is below ``root``. Links that form a circle end in any case.

    Returns:
        Their paths below ``root``, those of a folder together, ordered by name. A link to a file
        that is missing is listed too.

    Raises:
        DataError: A folder cannot be listed; one line.
    """
    found: list[PurePosixPath] = []
    visited: set[tuple[int, int]] = set()
    folders, links = [PurePosixPath()], list[PurePosixPath]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        if once and not _is_new(root / folder, visited):
            continue
        for name, is_folder, is_link in _entries(root / folder, key):
            path = folder / name
            if is_leftover(name):
                continue
            if not is_folder:
                found.append(path)
            elif enters is None or enters(path.parts):
                # Folders themselves come before links, so that their files get the shorter names.
                (links if is_link and once else folders).append(path)
    return sorted(found, key=lambda path: (path.parent.parts, path.name))


def _is_new(folder: Path, visited: set[tuple[int, int]]) -> bool:
    """Whether a folder was not visited before; it is then."""
    if isinstance(folder, VirtualPath):
        return True
    status = folder.stat()
    place = status.st_dev, status.st_ino
    is_new = place not in visited
    visited.add(place)
    return is_new


def _entries(folder: Path, key: str) -> Iterator[tuple[str, bool, bool]]:
    """Yields the name of each regular file and folder, whether it is a folder, and a link."""
    try:
        if isinstance(folder, VirtualPath):
            listed = folder.entries()
            if listed is None:
                raise DataError(why_no_folder(folder, key))
            yield from sorted((name, is_folder, False) for name, is_folder in listed)
            return
        with os.scandir(folder) as scanned:
            for entry in sorted(scanned, key=lambda entry: entry.name):
                is_broken = entry.is_symlink() and not os.path.exists(entry.path)
                if entry.is_dir() or entry.is_file() or is_broken:
                    yield entry.name, entry.is_dir(), entry.is_symlink()
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be listed ({error.strerror or one_line(error)}): make it readable, "
            f"or name a folder that is ({key})"
        ) from error


def is_folder(path: Path, key: str) -> bool:
    """Whether a path is a folder that can be listed.

    Raises:
        DataError: It is a FIFO, a socket or a device, or its server cannot be asked; one line.
    """
    return _asked(path, key, path.is_dir, "listed")


def is_file(path: Path, key: str) -> bool:
    """Whether a path is a regular file.

    Raises:
        DataError: It is a FIFO, a socket or a device, or its server cannot be asked; one line.
    """
    return _asked(path, key, path.is_file, "read")


def _asked(path: Path, key: str, ask: Callable[[], bool], verb: str) -> bool:
    """The answer to a question about a path, whose server may not give one."""
    refuse_special(path, key)
    try:
        return ask()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be {verb} ({one_line(error)}): {remedy(path)} ({key})"
        ) from error


def remedy(path: Path) -> str:
    """What to do about a file or folder that cannot be read."""
    if not isinstance(path, VirtualPath):
        return "the file is damaged or not a raster; replace it"
    if path.is_on_network:
        return "check the name, the rights and the connection, and try again"
    return "check the name, and whether the archive and the files in it are whole"


def why_no_folder(path: Path, key: str) -> str:
    """The line about a path that should be a folder and is none."""
    if isinstance(path, VirtualPath) and not path.can_be_listed:
        return (
            f"{path}: is on a web server, whose folders cannot be listed ({key}): name one file, "
            "or a folder on disk, in an archive (zip+https://…) or in a store (s3://, gs://)"
        )
    if isinstance(path, VirtualPath):
        hint = remedy(path)
    elif path.suffix.lower() in (".zip", ".tar", ".tgz") and path.is_file():
        hint = f"{path.suffix[1:].lower().replace('tgz', 'tar')}://{path} reads an archive"
    else:
        hint = ""
    hint = f"; {hint}" if hint else ""
    return f"{path}: is not a folder: set {key} to the data set's folder{hint}"


def refuse_special(path: Path, key: str) -> None:
    """Refuses what is no regular file: a FIFO, a socket or a device would be waited for.

    Args:
        path: A file that is to be opened. GDAL also opens files beside it, and the sources of a
            virtual raster.
        key: The config key that names it, for messages.

    Raises:
        DataError: One of them is no regular file; one line.
    """
    if isinstance(path, VirtualPath):
        files = path.local_places
    else:
        files = [path, *_beside(path), *_sources(path, {path})]
    for file in files:
        try:
            mode = file.stat().st_mode
        except OSError:  # it is missing, or a name that GDAL alone understands
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            kind = _SPECIAL.get(stat.S_IFMT(mode), "a device")
            raise DataError(f"{file}: is {kind}, not a file: give a regular file ({key})")


def _beside(path: Path) -> Iterable[Path]:
    """The special files beside a file whose names begin with its own."""
    try:
        changed = path.parent.stat().st_mtime_ns
        names = _special_names(path.parent, changed)
    except OSError:
        return ()
    own = f"{path.name}.".lower(), f"{path.stem}.".lower()
    return [path.parent / name for name in names if name.lower().startswith(own)]


@lru_cache(maxsize=1 << 10)
def _special_names(folder: Path, _: int) -> tuple[str, ...]:
    """The special files of a folder; the time of its last change makes it be listed again."""
    with os.scandir(folder) as listed:
        return tuple(each.name for each in listed if not (each.is_file() or each.is_dir()))


def _sources(path: Path, visited: set[Path]) -> Iterator[Path]:
    """The local sources of a virtual raster, and theirs."""
    if path.suffix.lower() != ".vrt" or not path.is_file():
        return
    for attributes, name in _SOURCES.findall(path.read_text(errors="replace")):
        is_relative = re.search(r"relativeToVRT\s*=\s*['\"]1", attributes)
        source = Path(unescape(name))
        source = path.parent / source if is_relative else source
        if source not in visited:
            visited.add(source)
            yield source
            yield from _sources(source, visited)
