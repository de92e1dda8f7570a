"""Images that have no labels, read as a network takes them: cut into tiles, or resized whole."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor, from_numpy
from torch.nn.functional import interpolate

from vbp_lightning.data.grid import overlap, tile_grid
from vbp_lightning.data.ground import PixelGrid
from vbp_lightning.data.normalisation import gap_values
from vbp_lightning.data.raster import OpenImage, Reading, without_place
from vbp_lightning.data.scenes import DataError, Tile
from vbp_lightning.data.streaming import scan_windows
from vbp_lightning.data.white import WhiteGaps

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".webp", ".bmp", ".vrt", ".img")
"""What is taken for an image in a folder, in small letters."""

Pixels = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Bands (C, h, w), gaps filled, side by side in memory, and where there is imagery (h, w)."""

ReadPixels = Callable[[int, int, int, int], Pixels]
"""Reads row, column, height and width of a scene; what lies beyond it is filled and invalid."""

_KEY = "input"

_SCANNED = 1 << 22
"""Pixels that are looked through for white gaps at a time: some 50 MB."""


class ImageReader(Protocol):
    """Makes the inputs of a network from images."""

    @property
    def side(self) -> int | None:
        """Height and width of the inputs in pixels; None where they differ from image to image."""

    def places(self, path: Path) -> list[Tile]:
        """Where the inputs that an image gives lie; the scene's name is the file's."""

    def read(self, path: Path, places: Sequence[Tile]) -> Tensor:
        """``(N, C, H, W)`` float32, in the image's own units."""


def image_files(path: Path) -> list[Path]:
    """The image that a path names, or all images in a folder and below it, in order of names.

    Raises:
        DataError: There is no such file, or no image in the folder.
    """
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"{path}: no such file or folder ({_KEY}): give an image or a folder")
        return [path]
    files = [each for each in path.rglob("*") if each.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        known = ", ".join(IMAGE_SUFFIXES)
        raise DataError(f"{path}: holds no image ({_KEY}): give a folder with {known} files")
    return sorted(files)


@dataclass(frozen=True)
class CutImages:
    """Tiles next to each other, last ones shifted inwards, as a road classifier takes them.

    Args:
        reading: How the classifier's own scenes were read: bands, nodata, ground size.
        fill: What pixels without imagery are filled with, one value for each band.
        tile_size: Tile size in pixels.
        context: Margin on each side of a tile in pixels; beyond the image it is filled too.
        white_area: As of :func:`opened_filled`.
    """

    reading: Reading
    fill: tuple[float, ...]
    tile_size: int
    context: int = 0
    white_area: int = 0

    @property
    def side(self) -> int:
        """Height and width of the tiles in pixels, their margins included."""
        return self.tile_size + 2 * self.context

    def places(self, path: Path) -> list[Tile]:
        """The upper-left corners of all tiles of an image, row by row.

        Raises:
            DataError: The file is missing or damaged, has other bands, or is smaller than a tile.
        """
        grid = checked_grid(path, self.reading, len(self.fill), self.tile_size)
        corners = tile_grid(grid.shape, self.tile_size, self.tile_size, cover_edges=True)
        return [Tile(path.stem, int(row), int(col)) for row, col in corners]

    def read(self, path: Path, places: Sequence[Tile]) -> Tensor:
        """The tiles at some places of an image.

        Returns:
            ``(N, C, side, side)`` float32 in the raster's units.

        Raises:
            DataError: The file cannot be read.
        """
        margin, size = self.context, self.side
        with opened_filled(path, self.reading, self.fill, self.white_area) as read:
            pixels = [read(tile.row - margin, tile.col - margin, size, size)[0] for tile in places]
        return from_numpy(np.stack(pixels))


@dataclass(frozen=True)
class ResizedImages:
    """Whole images, resized and cropped about their centre, as classifiers of photos take them.

    Args:
        bands: Bands to read, in the network's order.
        fill: What pixels without imagery are filled with, one value for each band.
        resize: Length in pixels that the shorter side is brought to; None leaves the image.
        crop: Side in pixels of the square at the centre that is kept; None keeps all.
    """

    bands: tuple[int | str, ...]
    fill: tuple[float, ...]
    resize: int | None
    crop: int | None

    @property
    def side(self) -> int | None:
        """Height and width of the images in pixels, where they are cropped to a square."""
        return self.crop

    def places(self, path: Path) -> list[Tile]:
        """One, the image itself.

        Raises:
            DataError: The file is missing or damaged, or has other bands.
        """
        with without_place(), OpenImage(path, Reading(self.bands), key=_KEY):
            return [Tile(path.stem, 0, 0)]

    def read(self, path: Path, places: Sequence[Tile]) -> Tensor:
        """The image, resized by bilinear interpolation with antialiasing.

        Returns:
            ``(N, C, H, W)`` float32, once for each place.

        Raises:
            DataError: The file cannot be read, or is smaller than the crop.
        """
        with without_place(), OpenImage(path, Reading(self.bands), key=_KEY) as image:
            fill = np.array(self.fill, np.float32)
            bands, _ = _read_filled(image, 0, 0, *image.grid.shape, fill, None)
        pixels = from_numpy(np.ascontiguousarray(bands))[None]
        if self.resize is not None:
            factor = self.resize / min(pixels.shape[2:])
            size = [max(self.resize, round(factor * length)) for length in pixels.shape[2:]]
            pixels = interpolate(pixels, size, mode="bilinear", antialias=True)
        if self.crop is not None:
            height, width = pixels.shape[2:]
            if min(height, width) < self.crop:
                raise DataError(
                    f"{path}: is {width} × {height} px, smaller than the {self.crop} px that the "
                    f"network takes ({_KEY}): give a larger image, or set preprocess.resize"
                )
            top, left = round((height - self.crop) / 2), round((width - self.crop) / 2)
            pixels = pixels[:, :, top : top + self.crop, left : left + self.crop]
        return pixels.repeat(len(places), 1, 1, 1)


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
    with without_place(), OpenImage(path, reading, key=_KEY) as image:
        if image.count != bands:
            raise DataError(
                f"{path}: has {image.count} bands, the checkpoint was trained with {bands} "
                f"({_KEY}): give an image with the same bands"
            )
        if min(image.grid.shape) < tile_size:
            raise DataError(
                f"{path}: is {image.grid.width} × {image.grid.height} px, smaller than a tile of "
                f"{tile_size} px ({_KEY}): give a larger image"
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
    with without_place(), OpenImage(path, reading, key=_KEY) as image:
        values = gap_values(fill, image.dtype)

        def read(row: int, col: int, height: int, width: int) -> Pixels:
            return _read_filled(image, row, col, height, width, values, gaps)

        yield read


@lru_cache(maxsize=1)
def _white_gaps(path: Path, reading: Reading, white_area: int) -> WhiteGaps | None:
    """The white gaps of an image; the last one's are kept, as images are gone through in order."""
    with without_place(), OpenImage(path, reading, key=_KEY) as image:
        if not np.issubdtype(image.dtype, np.integer):
            return None
        shape = image.grid.shape
        parts = scan_windows(shape, image.is_striped, _SCANNED)
        return WhiteGaps(shape[1], white_area, parts, lambda part: image.read(part)[0])


def _read_filled(
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
