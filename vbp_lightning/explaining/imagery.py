"""Compares images with the imagery that a classifier was trained with."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vbp_lightning.data.imagery.extent import ground_sampling_distance
from vbp_lightning.data.imagery.raster import OpenImage, without_place
from vbp_lightning.data.imagery.unlabelled import INPUT_KEY, opened_filled
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.image_inputs import CutImages

_LARGEST_RATIO = 1.25
"""Ratio of ground sampling distances up to which they are taken for the same."""

_OUTSIDE = 0.25
"""Share of the pixels of a band that may lie outside of the values of training."""

_IMAGES = 64
"""Images that are compared; of more, evenly spread ones."""

_TILES = 16
"""Tiles of an image whose values are compared, evenly spread."""

_log = logging.getLogger(__name__)


def warn_of_other_imagery(
    files: Sequence[Path], reader: CutImages, trained: Mapping[str, Any] | None
) -> None:
    """Logs one line each if images have other bands, pixels of another size, or other values.

    Images that cannot be read are left to the task.

    Args:
        files: The images.
        reader: How they are read.
        trained: ``RoadTileDataModule.imagery`` of the training; None in older checkpoints, where
            nothing is compared.
    """
    if trained is None:
        return
    bands: list[str] = []
    sizes: list[str] = []
    values: list[str] = []
    chosen = np.linspace(0, len(files) - 1, min(len(files), _IMAGES)).round().astype(int)
    for number in chosen.tolist():
        try:
            path = files[number]
            with without_place(), OpenImage(path, reader.reading, key=INPUT_KEY) as image:
                names, size = image.band_names, ground_sampling_distance(image.grid)
            bands += _other_bands(path, names, trained["bands"])
            sizes += _other_size(path, size, trained["ground_sampling_distance"])
            values += _other_values(path, reader, trained["values"])
        except UserError:
            continue
    for lines in (bands, sizes, values):
        if lines:
            more = f" (and {len(lines) - 1} more images)" if len(lines) > 1 else ""
            _log.warning("%s%s", lines[0], more)


def _other_bands(path: Path, own: Sequence[str], trained: Sequence[str]) -> list[str]:
    """A line if bands that both name are in other places, or others beside them.

    Names that have nothing in common, such as those of two sensors, and mere numbers are not
    compared.
    """
    pairs = [
        (mine.lower(), its.lower())
        for mine, its in zip(own, trained, strict=False)
        if not (mine.isdigit() or its.isdigit())
    ]
    common = {mine for mine, _ in pairs} & {its for _, its in pairs}
    if not common or all(mine == its for mine, its in pairs):
        return []
    return [
        f"{path}: its bands are {', '.join(own)}, in the training imagery {', '.join(trained)}: "
        f"give them in that order, or train with data.bands ({INPUT_KEY})"
    ]


def _other_size(
    path: Path, size: tuple[float, float] | None, trained: Sequence[float] | None
) -> list[str]:
    if size is None or trained is None:
        return []
    low, high = trained
    if low / _LARGEST_RATIO <= min(size) and max(size) <= high * _LARGEST_RATIO:
        return []
    return [
        f"{path}: a pixel is {_span(min(size), max(size))} m on the ground, in the training "
        f"imagery {_span(low, high)} m: resample the image to that size (gdalwarp -tr), or train "
        f"with data.resolution ({INPUT_KEY})"
    ]


def _other_values(path: Path, reader: CutImages, trained: Sequence[Sequence[float]]) -> list[str]:
    places, size = reader.places(path), reader.tile_size
    spread = np.linspace(0, len(places) - 1, min(len(places), _TILES)).round().astype(int)
    with opened_filled(path, reader.reading, reader.fill, reader.white_area) as read:
        tiles = [read(places[n].row, places[n].col, size, size) for n in spread.tolist()]
    pixels = np.concatenate([bands[:, valid] for bands, valid in tiles], axis=1)
    if pixels.shape[1] == 0:
        return []
    for number, (band, (low, high)) in enumerate(zip(pixels, trained, strict=True), 1):
        if np.mean((band < low) | (band > high)) > _OUTSIDE:
            own = np.percentile(band, (1, 99)).tolist()
            return [
                f"{path}: 98 % of the values of band {number} are {_span(*own)}, in the training "
                f"imagery {_span(low, high)}: give an image of the same sensor, type and "
                f"processing ({INPUT_KEY})"
            ]
    return []


def _span(low: float, high: float) -> str:
    """One number if both are written the same, else both."""
    return " to ".join(
        dict.fromkeys(f"{value:.{3 if value < 1000 else 6}g}" for value in (low, high))
    )
