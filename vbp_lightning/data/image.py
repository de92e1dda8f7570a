"""Tiles of a raster that has no labels, for explaining what a classifier makes of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rasterio.windows import Window
from torch import Tensor, from_numpy

from vbp_lightning.data.grid import tile_grid
from vbp_lightning.data.raster import OpenImage, Reading, without_place
from vbp_lightning.data.scenes import DataError, Tile


def image_tiles(
    path: Path, reading: Reading, mean: Sequence[float], tile_size: int, count: int
) -> tuple[Tensor, list[Tile]]:
    """Reads some tiles of an image, spread evenly over it.

    Args:
        path: Any raster that GDAL opens.
        reading: How the classifier's own scenes were read: bands, nodata, ground size.
        mean: What pixels without imagery are filled with, one value for each of its bands.
        tile_size: Tile size in pixels.
        count: How many tiles at most.

    Returns:
        ``(N, C, tile_size, tile_size)`` float32 in the raster's units, and where each tile lies,
        the scene's name being the file's.

    Raises:
        DataError: The file is missing or damaged, has other bands, or is smaller than a tile.
    """
    with without_place(), OpenImage(path, reading, key="input") as image:
        if image.count != len(mean):
            raise DataError(
                f"{path}: has {image.count} bands, the checkpoint was trained with {len(mean)} "
                "(input): give an image with the same bands"
            )
        if min(image.grid.shape) < tile_size:
            raise DataError(
                f"{path}: is {image.grid.width} × {image.grid.height} px, smaller than a tile of"
                f" {tile_size} px (input): give a larger image"
            )
        places = tile_grid(image.grid.shape, tile_size, tile_size, cover_edges=True)
        chosen = np.unique(np.linspace(0, len(places) - 1, count).round().astype(int))
        tiles = [Tile(path.stem, int(row), int(col)) for row, col in places[chosen]]
        pixels = np.empty((len(tiles), image.count, tile_size, tile_size), np.float32)
        for target, tile in zip(pixels, tiles, strict=True):
            bands, valid = image.read(Window(tile.col, tile.row, tile_size, tile_size))
            target[...] = bands
            target[:, ~valid] = np.array(mean, np.float32)[:, None]
    return from_numpy(pixels), tiles
