"""Changes of a training tile that leave its label alone."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
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

    flips: bool = True
    rotations: bool = True
    brightness: float = 0.2
    contrast: float = 0.2
    jitter: int = 0

    def errors(self) -> list[str]:
        """What is wrong with the values, one line each."""
        lines = []
        if not self.brightness >= 0:
            lines.append(
                f"data.augment.brightness={self.brightness}: "
                "must be at least 0 (standard deviations of a band)"
            )
        if not 0 <= self.contrast < 1:
            lines.append(f"data.augment.contrast={self.contrast}: must be in [0, 1)")
        if self.jitter < 0:
            lines.append(f"data.augment.jitter={self.jitter}: must be at least 0 (pixels)")
        return lines


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
