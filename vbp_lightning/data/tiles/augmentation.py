"""Random changes of training tiles that keep their labels."""

from typing import Annotated, Any

from numpy.typing import NDArray
from pydantic import Field, StrictBool
from pydantic.dataclasses import dataclass

from vbp_lightning.records import RECORD, Count, Number


@dataclass(frozen=True, config=RECORD)
class Augmentation:
    """How training tiles are changed; drawn for each tile in every epoch.

    Args:
        flips: Whether to flip tiles up-down and left-right, each with probability 1/2.
        rotations: Whether to rotate tiles by 90 degrees with probability 1/2; with ``flips`` all
            eight symmetries of the square are equally frequent.
        brightness: Largest brightness shift of a tile, in standard deviations of each band; all
            bands of a tile are shifted in the same direction.
        contrast: Largest change of the contrast about the training mean: 0.2 gives factors from
            0.8 to 1.2.
        jitter: Largest shift of the crop in each direction, in pixels, where the shifted crop
            lies inside the scene and has the same label; otherwise the tile is not shifted.
    """

    flips: StrictBool = True
    rotations: StrictBool = True
    brightness: Annotated[Number, Field(ge=0)] = 0.2
    contrast: Annotated[Number, Field(ge=0, lt=1)] = 0.2
    jitter: Count = 0


def oriented(window: NDArray[Any], up_down: bool, left_right: bool, rotated: bool) -> NDArray[Any]:
    """A view of a crop under one symmetry of the square.

    Args:
        window: (C, H, W), square if ``rotated``.
        up_down: Reverse the rows.
        left_right: Reverse the columns.
        rotated: Then rotate by 90 degrees counter-clockwise.

    Returns:
        A view of ``window``.
    """
    if up_down:
        window = window[:, ::-1]
    if left_right:
        window = window[:, :, ::-1]
    return window.transpose(0, 2, 1)[:, ::-1] if rotated else window
