"""Images that have no labels: which files they are, and reading them with nodata filled."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from vbp_lightning.data.datasets.listing import files_below, is_file, is_folder, remedy
from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.datasets.virtual_path import VirtualPath, source_path
from vbp_lightning.data.imagery.extent import PixelGrid
from vbp_lightning.data.imagery.normalisation import nodata_values
from vbp_lightning.data.imagery.raster import OpenImage, Reading, without_place
from vbp_lightning.data.imagery.white import is_searched, read_white_nodata
from vbp_lightning.data.imagery.windows import overlap

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".webp", ".bmp", ".vrt", ".img")
"""Endings of the names of image files in a folder, in lower case."""

FilledWindow = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Bands (C, h, w) with nodata filled, adjacent in memory for each pixel; valid pixels (h, w)."""

ReadPixels = Callable[[int, int, int, int], FilledWindow]
"""Reads a window (row, column, height, width); pixels beyond the image are filled and invalid."""

INPUT_KEY = "input"
"""The config key that names images without labels."""


def image_files(name: str | Path) -> list[Path]:
    """Returns the image that a name stands for, or all images in a folder, sorted by name.

    Args:
        name: See :func:`~vbp_lightning.data.datasets.virtual_path.source_path`. Folders in the
            folder are searched too: see
            :func:`~vbp_lightning.data.datasets.listing.files_below`.

    Raises:
        DataError: There is no such file, or no image in the folder.
    """
    path = source_path(name)
    if is_file(path, INPUT_KEY):
        return [path]
    if not is_folder(path, INPUT_KEY):
        if isinstance(path, VirtualPath):
            on_web = "; folders of web servers cannot be listed" * (not path.can_be_listed)
            raise DataError(f"{path}: no such file or folder ({INPUT_KEY}): {remedy(path)}{on_web}")
        raise DataError(f"{path}: no such file or folder ({INPUT_KEY}): give an image or a folder")
    listed = files_below(path, INPUT_KEY)
    files = [path / each for each in listed if each.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        known = ", ".join(IMAGE_SUFFIXES)
        raise DataError(f"{path}: holds no image ({INPUT_KEY}): give a folder with {known} files")
    return sorted(files)


def checked_grid(path: Path, reading: Reading, bands: int, tile_size: int) -> PixelGrid:
    """Opens an image that a road classifier can be applied to, and returns its grid.

    Args:
        path: The image.
        reading: How the classifier's own scenes were read.
        bands: Number of bands that the classifier takes.
        tile_size: Tile size in pixels.

    Raises:
        DataError: The file is missing or damaged, has other bands, is smaller than a tile, or has
            an alpha band that is imagery.
    """
    with without_place(), OpenImage(path, reading, key=INPUT_KEY) as image:
        if image.count != bands:
            raise DataError(
                f"{path}: has {image.count} bands, the checkpoint was trained with {bands} "
                f"({INPUT_KEY}): give an image with the same bands"
            )
        if min(image.grid.shape) < tile_size:
            raise DataError(
                f"{path}: is {image.grid.width} × {image.grid.height} px, smaller than a tile of "
                f"{tile_size} px ({INPUT_KEY}): give a larger image"
            )
        image.sample_alpha()
        return image.grid


@contextmanager
def opened_filled(
    path: Path, reading: Reading, fill: Sequence[float], white_area: int = 0
) -> Iterator[ReadPixels]:
    """Opens an image for reading windows that may reach beyond it, with nodata filled.

    Args:
        path: The image.
        reading: How it is read.
        fill: The value of nodata pixels in each band.
        white_area: In an image of integers, connected white areas of at least this many saturated
            pixels are nodata too (see ``Scene.white_area``), and the image is read once more to
            find them; 0 for none.

    Yields:
        The function that reads a window; it may raise DataError too.

    Raises:
        DataError: The file is missing or damaged, or too large to be searched for white areas.
    """
    white = _white_nodata(path, reading, white_area) if white_area else None
    with without_place(), OpenImage(path, reading, key=INPUT_KEY) as image:
        yield partial(read_filled, image, fill=nodata_values(fill, image.dtype), white=white)


@lru_cache(maxsize=1)
def _white_nodata(path: Path, reading: Reading, white_area: int) -> NDArray[np.bool_] | None:
    """Returns the white nodata of an image; kept for its next windows, as images come in order."""
    with without_place(), OpenImage(path, reading, key=INPUT_KEY) as image:
        if not (np.issubdtype(image.dtype, np.integer) and is_searched(image)):
            return None
        return read_white_nodata(image, white_area)


def read_filled(
    image: OpenImage,
    row: int,
    col: int,
    height: int,
    width: int,
    fill: NDArray[Any],
    white: NDArray[np.bool_] | None,
) -> FilledWindow:
    """Reads a window that may reach beyond an image.

    Args:
        image: The image.
        row: First row of the window.
        col: First column of the window.
        height: Rows of the window.
        width: Columns of the window.
        fill: (C,) the values of nodata pixels.
        white: (H, W) nodata pixels beside those that the file marks; None for none.
    """
    bands = np.empty((height, width, image.count), np.float32)
    bands[...] = fill
    valid = np.zeros((height, width), dtype=bool)
    here, inside = overlap(row, col, height, width, image.grid.shape)
    if all(part.start < part.stop for part in here):
        pixels, shown = image.read(Window.from_slices(*here))
        if white is not None:
            shown &= ~white[here]
        valid[inside] = shown
        bands[inside] = pixels.transpose(1, 2, 0)
        if not shown.all():
            bands[inside][~shown] = fill
    return bands.transpose(2, 0, 1), valid
