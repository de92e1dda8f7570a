"""The inputs of a network from images without labels: tiles, or whole resized images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, from_numpy
from torch.nn.functional import interpolate

from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.imagery.extent import PixelGrid
from vbp_lightning.data.imagery.raster import OpenImage, Reading, without_place
from vbp_lightning.data.imagery.unlabelled import (
    INPUT_KEY,
    checked_grid,
    opened_filled,
    read_filled,
)
from vbp_lightning.data.tiles.corrections import tile_digest
from vbp_lightning.data.tiles.grid import tile_grid
from vbp_lightning.data.tiles.tile import Tile
from vbp_lightning.errors import plain


@dataclass(frozen=True)
class CutImages:
    """Adjacent tiles, the last ones shifted inwards, for a road classifier.

    Args:
        reading: Bands, nodata value and resolution of the scenes that the classifier knows.
        fill: Value of each band for nodata pixels.
        tile_size: Tile size in pixels.
        context: Margin on each side of a tile in pixels; beyond the image it is filled too.
        white_area: See :func:`~vbp_lightning.data.imagery.unlabelled.opened_filled`.
    """

    reading: Reading
    fill: tuple[float, ...]
    tile_size: int
    context: int = 0
    white_area: int = 0

    @property
    def side(self) -> int:
        """Height and width of the tiles in pixels, margins included."""
        return self.tile_size + 2 * self.context

    def grid(self, path: Path) -> PixelGrid:
        """Where the pixels of an image lie.

        Raises:
            DataError: The file is missing or damaged, has other bands, or is smaller than a tile.
        """
        return checked_grid(path, self.reading, len(self.fill), self.tile_size)

    def places(self, path: Path) -> list[Tile]:
        """The upper-left corners of all tiles of an image, row by row.

        Raises:
            DataError: The file is missing or damaged, has other bands, or is smaller than a tile.
        """
        shape = self.grid(path).shape
        corners = tile_grid(shape, self.tile_size, self.tile_size, cover_edges=True)
        return [Tile(plain(path.stem), int(row), int(col)) for row, col in corners]

    def read(self, path: Path, places: Sequence[Tile]) -> Tensor:
        """Reads the tiles at some places of an image.

        Returns:
            ``(N, C, side, side)`` float32 in the units of the raster.

        Raises:
            DataError: The file cannot be read.
        """
        margin, size = self.context, self.side
        with opened_filled(path, self.reading, self.fill, self.white_area) as read:
            pixels = [read(tile.row - margin, tile.col - margin, size, size)[0] for tile in places]
        return from_numpy(np.stack(pixels))

    def digests(self, path: Path, places: Sequence[Tile]) -> list[str]:
        """:func:`~vbp_lightning.data.tiles.corrections.tile_digest` of the tiles at some places.

        Raises:
            DataError: The file cannot be read.
        """
        size = self.tile_size
        with opened_filled(path, self.reading, self.fill, self.white_area) as read:
            return [tile_digest(*read(tile.row, tile.col, size, size)) for tile in places]


@dataclass(frozen=True)
class ResizedImages:
    """Whole images, resized and cropped to their centre, for a classifier of photos.

    Args:
        bands: Bands to read, in the order of the network.
        fill: Value of each band for nodata pixels.
        resize: New length of the shorter side in pixels; None for the original size.
        crop: Side in pixels of the square at the centre; None for the whole image.
    """

    bands: tuple[int | str, ...]
    fill: tuple[float, ...]
    resize: int | None
    crop: int | None

    @property
    def side(self) -> int | None:
        """Height and width of the images in pixels; None if they differ between images."""
        return self.crop

    def places(self, path: Path) -> list[Tile]:
        """One place, for the image itself.

        Raises:
            DataError: The file is missing or damaged, or has other bands.
        """
        with without_place(), OpenImage(path, Reading(self.bands), key=INPUT_KEY) as image:
            image.sample_alpha()
            return [Tile(plain(path.stem), 0, 0)]

    def read(self, path: Path, places: Sequence[Tile]) -> Tensor:
        """Reads the image and resizes it by bilinear interpolation with antialiasing.

        Returns:
            ``(N, C, H, W)`` float32, the same image for each place.

        Raises:
            DataError: The file cannot be read, or is smaller than the crop.
        """
        with without_place(), OpenImage(path, Reading(self.bands), key=INPUT_KEY) as image:
            fill = np.array(self.fill, np.float32)
            bands, _ = read_filled(image, 0, 0, *image.grid.shape, fill, None)
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
                    f"network takes ({INPUT_KEY}): give a larger image, or set preprocess.resize"
                )
            top, left = round((height - self.crop) / 2), round((width - self.crop) / 2)
            pixels = pixels[:, :, top : top + self.crop, left : left + self.crop]
        return pixels.repeat(len(places), 1, 1, 1)


ImageReader = CutImages | ResizedImages
"""Makes the inputs of a network from images."""
