"""The records of a tile: its place, its label and further properties."""

from dataclasses import dataclass
from enum import IntEnum

from vbp_lightning.data.datasets.scene import Split


class Label(IntEnum):
    """The class of a tile, by the road share of its valid pixels."""

    IGNORED = -1
    """Some road, but less than ``road_share``: not used for training or scores."""
    NON_ROAD = 0
    """No road pixel."""
    ROAD = 1
    """A road share of at least ``road_share``."""


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
    """A tile with its label and further properties.

    Args:
        tile: The crop.
        bounds: Left, bottom, right, top in the scene's CRS (in pixels counted from the upper-left
            corner, so that bottom > top, where the scene is not georeferenced).
        share: Road share of its valid pixels, in [0, 1]; 0 or 1 where only the image has a label.
        label: Its class, which follows from the share.
        split: The split of its scene.
    """

    tile: Tile
    bounds: tuple[float, float, float, float]
    share: float
    label: Label
    split: Split
