"""Opening rasters, wherever they are."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vbp_lightning.data.datasets.virtual_path import VirtualPath, source_path
from vbp_lightning.data.imagery.integrity import whole_raster

_BY_WINDOW = frozenset({"GTiff", "COG", "JP2OpenJPEG", "VRT"})
"""Drivers of GDAL that report each byte that is missing in a window."""

COPIES = "vbp_lightning_"
"""Beginning of the names of the temporary folders of copies."""

_BESIDE = (".msk", ".aux.xml")
"""Ends of the names of files beside an image that change its pixels or their meaning."""


@contextmanager
def opened_raster(path: Path) -> Iterator[Any]:
    """Opens a raster whose files are whole and whose size is plausible.

    GeoTIFF and JPEG 2000 files of servers and archives are read by window. Other files are fetched
    whole with the files beside them, because GDAL decodes what arrived of a PNG or a WebP file
    without an error.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be opened or fetched, or is damaged.
        rasterio.errors.RasterioError: GDAL cannot open it.
    """
    with ExitStack() as stack:
        if isinstance(path, VirtualPath):
            path.check()
        raster = stack.enter_context(whole_raster(path))
        if isinstance(path, VirtualPath):
            raster = _fetched(raster, path, stack)
        yield raster


def _fetched(raster: Any, path: VirtualPath, stack: ExitStack) -> Any:  # noqa: ANN401
    """The raster itself if it can be read by window, else one of copies of its files."""
    files = [source_path(name) for name in raster.files or [str(path)]]
    for file in files:
        if isinstance(file, VirtualPath):
            file.check()
    for suffix in _BESIDE:
        _ask(VirtualPath(path.with_name(path.name + suffix)))
    if raster.driver in _BY_WINDOW or raster.count == 0:
        return raster
    folder = stack.enter_context(copies(files))
    return stack.enter_context(whole_raster(Path(folder) / path.name))


def copies(files: Iterable[Path]) -> TemporaryDirectory[str]:
    """A temporary folder with copies of files, each under its name."""
    folder = TemporaryDirectory(prefix=COPIES)
    try:
        for file in files:
            with file.open("rb") as source, (Path(folder.name) / file.name).open("wb") as target:
                shutil.copyfileobj(source, target)
    except BaseException:
        folder.cleanup()
        raise
    return folder


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
