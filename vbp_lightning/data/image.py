"""Images that have no labels, read as a network takes them: cut into tiles, or resized whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor, from_numpy
from torch.nn.functional import interpolate

from vbp_lightning.data.grid import overlap, tile_grid
from vbp_lightning.data.normalisation import gap_values
from vbp_lightning.data.raster import OpenImage, Reading, without_place
from vbp_lightning.data.scenes import DataError, Tile

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".webp", ".bmp", ".vrt", ".img")
"""What is taken for an image in a folder, in small letters."""

_KEY = "input"


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
    """

    reading: Reading
    fill: tuple[float, ...]
    tile_size: int
    context: int = 0

    @property
    def side(self) -> int:
        """Height and width of the tiles in pixels, their margins included."""
        return self.tile_size + 2 * self.context

    def places(self, path: Path) -> list[Tile]:
        """The upper-left corners of all tiles of an image, row by row.

        Raises:
            DataError: The file is missing or damaged, has other bands, or is smaller than a tile.
        """
        with without_place(), OpenImage(path, self.reading, key=_KEY) as image:
            if image.count != len(self.fill):
                raise DataError(
                    f"{path}: has {image.count} bands, the checkpoint was trained with "
                    f"{len(self.fill)} ({_KEY}): give an image with the same bands"
                )
            if min(image.grid.shape) < self.tile_size:
                raise DataError(
                    f"{path}: is {image.grid.width} × {image.grid.height} px, smaller than a tile "
                    f"of {self.tile_size} px ({_KEY}): give a larger image"
                )
            corners = tile_grid(image.grid.shape, self.tile_size, self.tile_size, cover_edges=True)
        return [Tile(path.stem, int(row), int(col)) for row, col in corners]

    def read(self, path: Path, places: Sequence[Tile]) -> Tensor:
        """The tiles at some places of an image.

        Returns:
            ``(N, C, side, side)`` float32 in the raster's units.

        Raises:
            DataError: The file cannot be read.
        """
        margin, size = self.context, self.side
        with without_place(), OpenImage(path, self.reading, key=_KEY) as image:
            fill = gap_values(self.fill, image.dtype)
            pixels = [
                read_filled(image, tile.row - margin, tile.col - margin, size, size, fill)[0]
                for tile in places
            ]
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
            bands, _ = read_filled(image, 0, 0, *image.grid.shape, np.array(self.fill, np.float32))
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


def read_filled(
    image: OpenImage, row: int, col: int, height: int, width: int, fill: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Reads a window that may reach beyond an image.

    Args:
        image: Open.
        row: First row, negative above the image.
        col: First column, negative to the left of it.
        height: Rows.
        width: Columns.
        fill: (C,) what pixels without imagery hold.

    Returns:
        Bands (C, height, width), side by side in memory, and where there is imagery
        (height, width).

    Raises:
        DataError: The file is damaged.
    """
    bands = np.empty((height, width, image.count), np.float32)
    bands[...] = fill
    valid = np.zeros((height, width), dtype=bool)
    (rows, cols), inside = overlap(row, col, height, width, image.grid.shape)
    if rows.start < rows.stop and cols.start < cols.stop:
        pixels, shown = image.read(Window.from_slices(rows, cols))
        valid[inside] = shown
        bands[inside] = pixels.transpose(1, 2, 0)
        if not shown.all():
            bands[inside][~shown] = fill
    return bands.transpose(2, 0, 1), valid
