"""Digests of the content of scenes, by which a changed scene is recognised."""

import hashlib
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import rasterio

from vbp_lightning.data.datasets.scene import ImageLabel, VectorLabels
from vbp_lightning.data.imagery.raster import readable, without_place
from vbp_lightning.files import file_digest


def scene_digest(image: Path, labels: Path | VectorLabels | ImageLabel | None = None) -> str:
    """Returns the digest of the content of a scene; names, places and times of files are left out.

    It covers the files that GDAL reads the pixels and their place from (the image, a world file, a
    mask, the sources of a virtual raster) and the labels, but no statistics and overviews, which
    viewers write beside an image.

    Args:
        image: A file that GDAL opens.
        labels: Of the scene; None for the image alone.

    Returns:
        SHA-256, hexadecimal.

    Raises:
        DataError: A raster cannot be opened or read.
    """
    if isinstance(labels, ImageLabel):
        parts = [str(labels.is_road)]
    elif isinstance(labels, VectorLabels):
        suffixes = (".dbf", ".prj") if labels.path and labels.path.suffix == ".shp" else ()
        files = [labels.path.with_suffix(suffix) for suffix in suffixes] if labels.path else []
        parts = [_file(path) for path in (labels.path, *files) if path and path.is_file()]
    else:
        parts = [] if labels is None else [_raster(labels)]
    return hashlib.sha256("\n".join([_raster(image), *parts]).encode()).hexdigest()


def _raster(path: Path) -> str:
    with readable(path), without_place(), rasterio.open(path) as raster:
        files = [Path(name) for name in raster.files or [path] if not name.endswith(".ovr")]
    inside = []
    if str(path).startswith("/vsi"):  # as /vsizip/archive.zip/image.tif
        inside = [path.name]
        files += Path(*path.parts[2:]).parents
    digests = sorted(_file(file) for file in files if file.is_file())
    return "\n".join([*inside, *filter(None, digests)])


def _file(path: Path) -> str:
    if path.name.endswith(".aux.xml"):
        return _metadata(path)
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest(path: Path, size: int, modified: int) -> str:
    """The digest of a file, computed again when its size or time differs."""
    return file_digest(path)


def _metadata(path: Path) -> str:
    """What GDAL's own sidecar says of an image, without the statistics that viewers store there."""
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError:
        return file_digest(path)
    for parent in root.iter():
        for child in list(parent):
            if child.tag == "Histograms" or child.get("key", "").startswith("STATISTICS_"):
                parent.remove(child)
    facts = [
        (each.tag, each.attrib, each.text) for each in root.iter() if (each.text or "").strip()
    ]
    return str(facts) if facts else ""
