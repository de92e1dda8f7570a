"""Opening rasters, wherever they are."""

from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import rasterio
from rasterio.io import MemoryFile

from vbp_lightning.data.datasets.virtual_path import VirtualPath, source_path

_BY_WINDOW = frozenset({"GTiff", "COG", "JP2OpenJPEG", "VRT"})
"""Drivers of GDAL that report each byte that is missing in a window."""

_BESIDE = (".msk", ".aux.xml")
"""Ends of the names of files beside an image that change its pixels or their meaning."""


def open_raster(path: Path, stack: ExitStack) -> Any:  # noqa: ANN401
    """Opens a raster.

    GeoTIFF and JPEG 2000 files of servers and archives are read by window. Other files are fetched
    whole with the files beside them, because GDAL decodes what arrived of a PNG or a WebP file
    without a word.

    Args:
        path: The file.
        stack: Closes it.

    Raises:
        OSError: It cannot be opened or fetched.
    """
    if isinstance(path, VirtualPath):
        path.check()
    raster = stack.enter_context(rasterio.open(path))
    if not isinstance(path, VirtualPath):
        return raster
    files = [source_path(name) for name in raster.files or [str(path)]]
    for file in files:
        if isinstance(file, VirtualPath):
            file.check()
    for suffix in _BESIDE:
        _ask(VirtualPath(path.with_name(path.name + suffix)))
    if raster.driver in _BY_WINDOW or raster.count == 0:
        return raster
    folder = uuid4().hex
    own, *_ = [
        stack.enter_context(MemoryFile(_content(file), dirname=folder, filename=file.name))
        for file in sorted(files, key=lambda file: file != path)
    ]
    return stack.enter_context(rasterio.open(own.name))


@lru_cache(maxsize=1 << 12)
def _ask(path: VirtualPath) -> None:
    """Raises the error of a server that does not answer whether a file exists.

    GDAL opens an image without its mask then. Stores also refuse files that are missing.
    """
    try:
        path.headers()
    except FileNotFoundError:
        pass
    except OSError as error:
        if "403" not in str(error):
            raise


def _content(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read()
