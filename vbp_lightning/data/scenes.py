"""The records of the data side: scenes, tiles, labels, and the error they raise."""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal, TypeAlias

from vbp_lightning.errors import UserError

Split: TypeAlias = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")


class DataError(UserError):
    """A data set cannot be used as it is: one line a fault, every fault that was found."""


class Label(IntEnum):
    """What a tile shows, by the road share of its valid pixels."""

    IGNORED = -1
    """Some road, but less than ``road_share``: neither trained on nor counted."""
    NON_ROAD = 0
    """No road pixel at all."""
    ROAD = 1
    """A road share of at least ``road_share``."""


@dataclass(frozen=True)
class Scene:
    """One raster with its road mask.

    Args:
        name: Unique name in the data set.
        image: The raster, any number of bands.
        mask: The road mask, one band, of the same size and grid as the image.
        split: Where the scene belongs, or None to have it drawn.
        white_area: Connected white areas holding at least this many saturated pixels are missing
            imagery; 0 takes every pixel for what it shows.
    """

    name: str
    image: Path
    mask: Path
    split: Split | None = None
    white_area: int = 0


@dataclass(frozen=True, order=True)
class Tile:
    """A square crop of a scene.

    Args:
        scene: The scene's name.
        row: First pixel row, counted from the top of the scene.
        col: First pixel column, counted from the left of the scene.
    """

    scene: str
    row: int
    col: int


@dataclass(frozen=True)
class LabelledTile:
    """A tile with all that is known of it.

    Args:
        tile: The crop.
        bounds: Left, bottom, right, top in the scene's CRS (in pixels counted from the upper-left
            corner, so that bottom > top, where the scene is not georeferenced).
        share: Road share of its valid pixels, in [0, 1].
        label: What the share makes of it.
        split: The split of its scene.
    """

    tile: Tile
    bounds: tuple[float, float, float, float]
    share: float
    label: Label
    split: Split
