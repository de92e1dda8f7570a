"""The records of a tile: its place, its label and further properties."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, TypeAlias

from vbp_lightning.data.datasets.scene import Split


class Label(IntEnum):
    """The class of a tile, by the road share of its valid pixels."""

    IGNORED = -1
    """Some road, but less than ``road_share``, or ignored by hand: not for training or scores."""
    NON_ROAD = 0
    """No road pixel."""
    ROAD = 1
    """A road share of at least ``road_share``."""


Answer: TypeAlias = Literal["road", "non_road", "ignore", "unsure"]
"""What a person says about a tile: its class, or that it must not be used."""

ANSWERS: tuple[Answer, ...] = ("road", "non_road", "ignore", "unsure")
"""All answers, in the order of reports."""


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
        label: Its class, which follows from the share, or from the answer.
        split: The split of its scene.
        answer: The correction of its label; empty if there is none.
    """

    tile: Tile
    bounds: tuple[float, float, float, float]
    share: float
    label: Label
    split: Split
    answer: Answer | Literal[""] = ""

    @property
    def road_pixels_fit(self) -> bool:
        """False if the label is corrected, and the road pixels still say something else."""
        is_road = self.label == Label.ROAD
        return not self.answer or (self.label != Label.IGNORED and is_road == (self.share > 0))
