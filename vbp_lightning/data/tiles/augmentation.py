"""Changes of a training tile that leave its label alone."""

from typing import Annotated, Any

from numpy.typing import NDArray
from pydantic import Field, StrictBool
from pydantic.dataclasses import dataclass

from vbp_lightning.records import RECORD, Count, Number


@dataclass(frozen=True, config=RECORD)
class Augmentation:
    """What is done to training tiles, each drawn anew in every epoch.

    Args:
        flips: Mirror up-down and left-right, each for half of the tiles.
        rotations: Turn half of the tiles by 90 degrees; with ``flips`` all eight symmetries of
            the square come out equally often.
        brightness: Largest shift of a tile, in standard deviations of each band; all bands of a
            tile go the same way.
        contrast: Largest change of the contrast about the training mean: 0.2 gives factors from
            0.8 to 1.2.
        jitter: Largest shift of the crop in each direction, in pixels, where the shifted crop
            lies inside the scene and has the same label; otherwise the tile stays where it is.
    """

    flips: StrictBool = True
    rotations: StrictBool = True
    brightness: Annotated[Number, Field(ge=0)] = 0.2
    contrast: Annotated[Number, Field(ge=0, lt=1)] = 0.2
    jitter: Count = 0


def oriented(window: NDArray[Any], up_down: bool, left_right: bool, turned: bool) -> NDArray[Any]:
    """A view of a crop under one symmetry of the square.

    Args:
        window: (C, H, W), square if ``turned``.
        up_down: Mirror the rows.
        left_right: Mirror the columns.
        turned: Then turn by 90 degrees counter-clockwise.

    Returns:
        A view of ``window``.
    """
    if up_down:
        window = window[:, ::-1]
    if left_right:
        window = window[:, :, ::-1]
    return window.transpose(0, 2, 1)[:, ::-1] if turned else window
