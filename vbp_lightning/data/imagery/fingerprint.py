"""What identifies an image: a digest of its content, equal for copies in other folders."""

import glob
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import RasterioIOError

from vbp_lightning.data.datasets.listing import is_file
from vbp_lightning.data.datasets.scene import ImageLabel, VectorLabels
from vbp_lightning.data.datasets.virtual_path import VirtualPath, size_and_times, source_path
from vbp_lightning.data.imagery.raster import palette_of, readable, without_place
from vbp_lightning.files import file_digest

_DESCRIBED = (".aux.xml", ".ovr")
"""Endings of files that are not digested. What an ``.aux.xml`` file changes is described by GDAL
and compared; its statistics, which programs write when they show an image, and overviews do not
change the pixels that are read."""

_COMPANIONS = {
    ".shp": (".shx", ".dbf", ".prj", ".cpg"),
    ".gml": (".gfs", ".xsd"),
    ".gpkg": (".gpkg-wal",),
    ".sqlite": (".sqlite-wal",),
}
"""Suffixes of further files that GDAL reads for a vector file, by its suffix."""

_SETTLED = 2 * 10**9
"""Nanoseconds after which a change of a file changes its time, also on FAT."""

_FRESH = 10
"""Seconds for which the stamps of a vector file of a server are kept at most."""

Stamp = tuple[str, int, int | str, int | str]
"""Path, size and times of a file, or its size, ETag and time on a server; while they stay, so does
its content. A file in an archive has those of the archive."""


@dataclass(frozen=True)
class Fingerprint:
    """Identifies the content of an image.

    Args:
        content: SHA-256 of the pixels, their mask and their interpretation (place, nodata values,
            colours, names of the bands); the same wherever the files are.
        files: SHA-256 of paths, sizes and times of the files; while it stays, so does the content.
    """

    content: str
    files: str


def fingerprint(image: Path, known: Fingerprint | None = None, key: str = "input") -> Fingerprint:
    """Computes the fingerprint of an image.

    The content is that of all files that GDAL reads for the image: the file itself, its mask
    (``.msk``), world file and ``.aux.xml`` file, and the sources of a virtual raster with theirs.
    That of a file on a server is its size and its ETag, so that a copy elsewhere counts as another
    file; without an ETag, the file is read. A file in an archive is read.

    Args:
        image: A raster file.
        known: An earlier fingerprint. Its content is taken if its files are the same.
        key: The config key that names the file, for messages.

    Raises:
        DataError: A file cannot be read.
    """
    with readable(image, key), without_place():
        parts = list(_parts(str(image), set()))
        descriptions = [description for description, _ in parts]
        paths = [path for _, own in parts for path in own]
        stamps = [stamp(path) for path in paths]
        files = _digest(descriptions, stamps)
        if known is not None and known.files == files:
            return known
        return Fingerprint(_digest(descriptions, [_stamped_digest(each) for each in stamps]), files)


def scene_digest(image: Path, labels: Path | VectorLabels | ImageLabel | None = None) -> str:
    """Computes the digest of the content of a scene, wherever its files are.

    Args:
        image: A raster file.
        labels: Of the scene; None for the image alone.

    Raises:
        DataError: A raster cannot be read.
    """
    parts: list[object] = [fingerprint(image, key="data.root").content]
    if isinstance(labels, ImageLabel):
        parts.append(labels.is_road)
    elif isinstance(labels, VectorLabels):
        parts += map(_stamped_digest, vector_stamps(labels.path))
    elif labels is not None:
        parts.append(fingerprint(labels, key="data.root").content)
    return _digest(*parts)


def vector_stamps(path: Path | None) -> tuple[Stamp, ...]:
    """Stamps of the files that GDAL reads for a vector file, itself first; all have its name.

    Args:
        path: None for no file; a folder, such as that of a File Geodatabase, for all files in it.
    """
    if isinstance(path, VirtualPath) and path.is_on_network:
        return _remote_stamps(path, int(time.monotonic() / _FRESH))
    return _vector_stamps(path)


@lru_cache(maxsize=16)
def _remote_stamps(path: Path, _: int) -> tuple[Stamp, ...]:
    """Stamps of a vector file of a server, which is not asked again for each scene."""
    is_file(path, "data.source.labels")  # a fault is one line
    return _vector_stamps(path)


def _vector_stamps(path: Path | None) -> tuple[Stamp, ...]:
    if path is not None and path.is_dir():
        return tuple(stamp(each) for each in sorted(path.rglob("*")) if each.is_file())
    if path is None or not path.is_file():
        return ()
    suffixes = _COMPANIONS.get(path.suffix.lower(), ())
    others: list[Path]
    if isinstance(path, VirtualPath):
        named = [path.with_suffix(each) for low in suffixes for each in (low, low.upper())]
        others = [each for each in named if each.is_file()]
    else:
        beside = path.parent.glob(f"{glob.escape(path.stem)}.*") if suffixes else ()
        others = sorted(each for each in beside if each.suffix.lower() in suffixes)
    return tuple(map(stamp, [path, *others]))


def stamp(path: Path) -> Stamp:
    """Path, size and times of a file, or what a server or an archive says instead."""
    if isinstance(path, VirtualPath):
        headers = path.headers()
        if headers is not None:
            size = headers.get("content-range", "").rpartition("/")[2]
            size = size or headers.get("content-length", "")
            etag, modified = headers.get("etag", ""), headers.get("last-modified", "")
            if not etag and not _is_settled(modified, headers.get("date", "")):
                modified = str(time.time_ns())
            return str(path), int(size) if size.isdigit() else -1, etag, modified
        return str(path), *(stamp(path.archive[0])[1:] if path.archive else (-1, "", ""))
    length, changed, changed_too = size_and_times(path)
    return str(path.absolute()), length, changed, changed_too


def _is_settled(modified: str, now: str) -> bool:
    """Whether a file on a server was changed long ago: the times have full seconds."""
    try:
        age = parsedate_to_datetime(now) - parsedate_to_datetime(modified)
    except ValueError:
        return False
    return age.total_seconds() * 10**9 > _SETTLED


def _stamped_digest(file: Stamp) -> str:
    """The digest of a file, which is read once in a process while its stamp stays."""
    name, size, changed, changed_too = file
    if isinstance(changed, int) and isinstance(changed_too, int):
        is_settled = time.time_ns() - max(changed, changed_too) > _SETTLED
        return _kept_digest(file) if is_settled else file_digest(source_path(name))
    path = source_path(name)
    is_archived = isinstance(path, VirtualPath) and path.is_archived
    return file_digest(path) if is_archived or not changed else _digest(size, changed)


@lru_cache(maxsize=1 << 16)
def _kept_digest(file: Stamp) -> str:
    return file_digest(source_path(file[0]))


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


def _parts(name: str, visited: set[str]) -> Iterator[tuple[str, list[Path]]]:
    """Yields the description and the files of a raster, then those of its sources."""
    visited.add(name)
    with rasterio.open(name) as raster:
        listed = [file for file in raster.files if not file.endswith(_DESCRIBED)]
        sources = listed if raster.driver == "VRT" else []
        own = [source_path(file) for file in listed if file == name or not sources]
        description = _description(raster)
        if not own or not all(path.is_file() for path in own):
            own, description = [], description + _pixel_digest(raster)
        yield description, own
    for source in sources:
        if source not in visited:
            try:
                yield from _parts(source, visited)
            except RasterioIOError:  # a file that is no raster, such as a world file
                yield "", [source_path(source)]


def _description(raster: Any) -> str:  # noqa: ANN401
    """How the pixels are to be understood, whether the file says it or another beside it."""
    points, points_crs = raster.gcps
    palette = palette_of(raster)
    return repr(
        (
            (raster.shape, raster.dtypes, raster.nodatavals, raster.descriptions),
            [colour.name for colour in raster.colorinterp],
            None if palette is None else palette.tolist(),
            [crs and crs.to_wkt() for crs in (raster.crs, points_crs)],
            tuple(raster.transform),
            [(point.row, point.col, point.x, point.y, point.z) for point in points],
        )
    )


def _pixel_digest(raster: Any) -> str:  # noqa: ANN401
    content = hashlib.sha256()
    for _, window in raster.block_windows(1):
        content.update(raster.read(window=window).tobytes())
        content.update(raster.read_masks(window=window).tobytes())
    return content.hexdigest()
