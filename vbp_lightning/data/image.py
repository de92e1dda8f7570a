"""Tiles of a raster that has no labels, for explaining what a classifier makes of it."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window
from torch import Tensor, from_numpy

from vbp_lightning.data.grid import tile_grid
from vbp_lightning.data.scenes import DataError, Tile


def image_tiles(
    path: Path, bands: Sequence[int], tile_size: int, count: int
) -> tuple[Tensor, list[Tile]]:
    """Reads some tiles of an image, spread evenly over it.

    Args:
        path: Any raster that GDAL opens.
        bands: Bands to read, counted from 1, as many as the classifier was trained with.
        tile_size: Tile size in pixels.
        count: How many tiles at most.

    Returns:
        ``(N, C, tile_size, tile_size)`` float32 in the raster's units, and where each tile lies,
        the scene's name being the file's.

    Raises:
        DataError: The file is missing or damaged, has other bands, or is smaller than a tile.
    """
    try:
        with warnings.catch_warnings(), rasterio.open(path) as raster:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            if raster.count < max(bands):
                raise DataError(
                    f"{path}: has {raster.count} bands, the checkpoint was trained with bands"
                    f" {', '.join(map(str, bands))} (input): give an image with the same bands"
                )
            if min(raster.shape) < tile_size:
                raise DataError(
                    f"{path}: is {raster.width} × {raster.height} px, smaller than a tile of"
                    f" {tile_size} px (input): give a larger image"
                )
            places = tile_grid(raster.shape, tile_size, tile_size, cover_edges=True)
            chosen = np.unique(np.linspace(0, len(places) - 1, count).round().astype(int))
            tiles = [Tile(path.stem, int(row), int(col)) for row, col in places[chosen]]
            pixels = [
                raster.read(list(bands), window=Window(tile.col, tile.row, tile_size, tile_size))
                for tile in tiles
            ]
    except (RasterioError, OSError) as error:
        raise DataError(
            f"{path}: cannot be read ({' '.join(str(error).split())}) (input): give an image that"
            " GDAL opens"
        ) from error
    return from_numpy(np.stack(pixels).astype(np.float32)), tiles
