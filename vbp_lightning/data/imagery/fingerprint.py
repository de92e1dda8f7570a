"""What identifies an image: a digest of its content, equal for copies in other folders."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import RasterioIOError

from vbp_lightning.data.datasets.scene import ImageLabel, VectorLabels
from vbp_lightning.data.imagery.raster import palette_of, readable, without_place
from vbp_lightning.files import file_digest

_DESCRIBED = (".aux.xml", ".ovr")
"""Endings of files that are not digested. What an ``.aux.xml`` file changes is described by GDAL
and compared; its statistics, which programs write when they show an image, and overviews do not
change the pixels that are read."""


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
    Pixels in archives and on servers are read through GDAL each time.

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
        times = [(str(path.absolute()), *_size_and_times(path)) for path in paths]
        files = _digest(descriptions, times)
        if known is not None and known.files == files:
            return known
        return Fingerprint(_digest(descriptions, [file_digest(path) for path in paths]), files)


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
        suffixes = (".dbf", ".prj") if labels.path and labels.path.suffix == ".shp" else ()
        files = [labels.path.with_suffix(suffix) for suffix in suffixes] if labels.path else []
        parts += [
            _vector_digest(path, _size_and_times(path))
            for path in (labels.path, *files)
            if path and path.is_file()
        ]
    elif labels is not None:
        parts.append(fingerprint(labels, key="data.root").content)
    return _digest(*parts)


@lru_cache(maxsize=256)
def _vector_digest(path: Path, times: tuple[int, int, int]) -> str:
    """The digest of a vector file, which may serve all scenes; again when size or time differ."""
    return file_digest(path)


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


def _size_and_times(path: Path) -> tuple[int, int, int]:
    # The second time changes also when a program restores the first, as ``cp -p`` does.
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _parts(name: str, visited: set[str]) -> Iterator[tuple[str, list[Path]]]:
    """Yields the description and the files of a raster, then those of its sources."""
    visited.add(name)
    with rasterio.open(name) as raster:
        listed = [file for file in raster.files if not file.endswith(_DESCRIBED)]
        sources = listed if raster.driver == "VRT" else []
        own = [Path(file) for file in listed if file == name or not sources]
        description = _description(raster)
        if not all(path.is_file() for path in own):
            own, description = [], description + _pixel_digest(raster)
        yield description, own
    for source in sources:
        if source not in visited:
            try:
                yield from _parts(source, visited)
            except RasterioIOError:  # a file that is no raster, such as a world file
                yield "", [Path(source)]


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
