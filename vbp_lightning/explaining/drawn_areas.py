"""Areas that a person drew or painted on images: vector files and masks, cut into tiles."""

import re
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from rasterio.windows import Window

from vbp_lightning.cli import shown_progress
from vbp_lightning.data.datasets.listing import is_file
from vbp_lightning.data.datasets.scene import DataError, VectorLabels
from vbp_lightning.data.datasets.virtual_path import source_path
from vbp_lightning.data.imagery.raster import without_place
from vbp_lightning.data.imagery.reading import OpenScene
from vbp_lightning.data.imagery.unlabelled import IMAGE_SUFFIXES
from vbp_lightning.data.imagery.windows import overlap
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.image_inputs import CutImages
from vbp_lightning.explaining.tile_sources import TileSource

KEY = "area"
"""The config key that names the file."""

_LOSSY = (".jpg", ".jpeg", ".jp2", ".webp")
"""Endings of the names of masks whose pixels may have changed."""

_OTHER_KEYS = re.compile(r"\((data\.[\w.]+|input)\)")


def areas_of(name: str, source: TileSource, reader: CutImages) -> dict[int, npt.NDArray[np.bool_]]:
    """The pixels of an area in each tile that it touches.

    Args:
        name: A vector file, or a mask whose pixels above 0 are the area. Vectors are placed on
            every georeferenced image; a mask belongs to the image of its name, or to the only one.
        source: The tiles.
        reader: How a road classifier takes tiles.

    Returns:
        ``(side, side)`` by the number of the tile.

    Raises:
        UserError: The file cannot be used, belongs to none of the images, or covers no tile.
    """
    path = source_path(name)
    if not is_file(path, KEY):
        raise UserError(f"{path}: no such file ({KEY}): give a vector file or a mask of the image")
    is_mask = path.suffix.lower() in IMAGE_SUFFIXES
    if path.suffix.lower() in _LOSSY:
        raise UserError(
            f"{path}: {path.suffix} files change the pixels around an area ({KEY}): save the mask"
            " as PNG or GeoTIFF"
        )
    scenes = list(source.by_scene())
    if is_mask and len(scenes) > 1:
        named = [each for each in scenes if each[0].name == path.stem]
        if len(named) != 1:
            raise UserError(
                f"{path}: a mask belongs to one image, and there are {len(scenes)}, of which"
                f" {len(named)} are called {path.stem} ({KEY}): give input=IMAGE, or a vector file"
            )
        scenes = named
    reading = replace(reader.reading, mask_threshold=0, road_values=None, ignore_values=())
    labels = path if is_mask else VectorLabels(path)
    side = reader.side
    found: dict[int, npt.NDArray[np.bool_]] = {}
    try:
        for scene, numbers in shown_progress(scenes, "Reading the area"):
            drawn_on = replace(scene, labels=labels, white_area=0)
            with without_place(), OpenScene(drawn_on, reading) as opened:
                shape = opened.info.grid.shape
                for number in numbers:
                    tile = source.places[number]
                    top, left = tile.row - reader.context, tile.col - reader.context
                    here, inside = overlap(top, left, side, side, shape)
                    drawn = opened.read(Window.from_slices(*here)).road
                    if drawn.any():
                        found[number] = np.zeros((side, side), dtype=bool)
                        found[number][inside] = drawn
    except DataError as error:
        raise UserError(*(_OTHER_KEYS.sub(f"({KEY})", line) for line in error.lines)) from error
    if not found:
        raise UserError(
            f"{path}: covers no pixel of the {len(source.places)} tiles ({KEY}): give polygons or"
            " lines that lie on the image (points cover none), or another split"
        )
    return found
