"""Images that have no labels: which files they are, and reading them with nodata filled."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.imagery.extent import PixelGrid
from vbp_lightning.data.imagery.normalisation import nodata_values
from vbp_lightning.data.imagery.raster import OpenImage, Reading, without_place
from vbp_lightning.data.imagery.white import WhiteGaps
from vbp_lightning.data.imagery.windows import overlap, scan_windows

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".webp", ".bmp", ".vrt", ".img")
"""What is taken for an image in a folder, in small letters."""

Pixels = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Bands (C, h, w), gaps filled, side by side in memory, and where there is imagery (h, w)."""

ReadPixels = Callable[[int, int, int, int], Pixels]
"""Reads row, column, height and width of a scene; what lies beyond it is filled and invalid."""

INPUT_KEY = "input"

_SCANNED = 1 << 22
"""Pixels that are looked through for white gaps at a time: some 50 MB."""


def image_files(path: Path) -> list[Path]:
    """The image that a path names, or all images in a folder and below it, in order of names.

    Raises:
        DataError: There is no such file, or no image in the folder.
    """
    if not path.is_dir():
        if not path.exists():
            raise DataError(
                f"{path}: no such file or folder ({INPUT_KEY}): give an image or a folder"
            )
        return [path]
    files = [each for each in path.rglob("*") if each.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        known = ", ".join(IMAGE_SUFFIXES)
        raise DataError(f"{path}: holds no image ({INPUT_KEY}): give a folder with {known} files")
    return sorted(files)


def checked_grid(path: Path, reading: Reading, bands: int, tile_size: int) -> PixelGrid:
    """Where the pixels of an image lie that a road classifier can take.

    Args:
        path: The image.
        reading: How the classifier's own scenes were read.
        bands: Number of bands that the classifier takes.
        tile_size: Tile size in pixels.

    Raises:
        DataError: The file is missing or damaged, has other bands, or is smaller than a tile.
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
        grid: PixelGrid = image.grid
        return grid


@contextmanager
def opened_filled(
    path: Path, reading: Reading, fill: Sequence[float], white_area: int = 0
) -> Iterator[ReadPixels]:
    """Opens an image; yields what reads its windows, which may reach beyond it, gaps filled.

    Args:
        path: The image.
        reading: How it is read.
        fill: What pixels without imagery hold, one value for each band.
        white_area: In an image of integers, connected white areas holding at least this many
            saturated pixels are gaps too (see ``Scene.white_area``): it is read once more to find
            them; 0 takes every pixel for what it shows.

    Raises:
        DataError: The file is missing or damaged; the function that is yielded may raise it too.
    """
    gaps = _white_gaps(path, reading, white_area) if white_area else None
    with without_place(), OpenImage(path, reading, key=INPUT_KEY) as image:
        values = nodata_values(fill, image.dtype)

        def read(row: int, col: int, height: int, width: int) -> Pixels:
            return read_filled(image, row, col, height, width, values, gaps)

        yield read


@lru_cache(maxsize=1)
def _white_gaps(path: Path, reading: Reading, white_area: int) -> WhiteGaps | None:
    """The white gaps of an image; the last one's are kept, as images are gone through in order."""
    with without_place(), OpenImage(path, reading, key=INPUT_KEY) as image:
        if not np.issubdtype(image.dtype, np.integer):
            return None
        shape = image.grid.shape
        parts = scan_windows(shape, image.is_striped, _SCANNED)
        return WhiteGaps(shape[1], white_area, parts, lambda part: image.read(part)[0])


def read_filled(
    image: OpenImage,
    row: int,
    col: int,
    height: int,
    width: int,
    fill: NDArray[Any],
    gaps: WhiteGaps | None,
) -> Pixels:
    """Reads a window that may reach beyond an image; ``fill`` (C,) is what gaps hold."""
    bands = np.empty((height, width, image.count), np.float32)
    bands[...] = fill
    valid = np.zeros((height, width), dtype=bool)
    (rows, cols), inside = overlap(row, col, height, width, image.grid.shape)
    if rows.start < rows.stop and cols.start < cols.stop:
        pixels, shown = image.read(Window.from_slices(rows, cols))
        if gaps is not None:
            shown &= ~gaps.missing(rows.start, cols.start, *shown.shape)
        valid[inside] = shown
        bands[inside] = pixels.transpose(1, 2, 0)
        if not shown.all():
            bands[inside][~shown] = fill
    return bands.transpose(2, 0, 1), valid
