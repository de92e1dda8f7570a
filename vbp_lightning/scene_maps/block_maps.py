"""What is computed of a block: the values of both maps, and where there are none."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vbp_lightning.data.imagery.unlabelled import ReadPixels
from vbp_lightning.data.tiles.grid import exceeds, tile_counts
from vbp_lightning.scene_maps.output_grid import Block, CellGrid


@dataclass(frozen=True, eq=False)
class BlockMaps:
    """The maps of a block.

    Args:
        probability: (rows, cols) of the cells that lie in the block, float32, P(road) of the
            window around each; NaN where no full window fits or too little imagery is.
        mask: (h, w) of the block's pixels, float32; NaN where there is no imagery.
    """

    probability: NDArray[np.float32]
    mask: NDArray[np.float32]


class Mapper(Protocol):
    """Computes the maps of blocks; no block depends on how the scene is divided."""

    window: int
    step: int

    def maps(self, read: ReadPixels, shape: tuple[int, int], block: Block) -> BlockMaps:
        """The maps of one block."""


def usable_windows(
    valid: NDArray[np.bool_],
    rows: range,
    cols: range,
    top: int,
    left: int,
    grid: CellGrid,
    max_invalid: float,
) -> NDArray[np.bool_]:
    """Which windows hold enough imagery, and some at their centre.

    Args:
        valid: (h, w) pixels with imagery, from row ``top`` and column ``left`` of the scene on.
        rows: First rows of the windows.
        cols: First columns of the windows.
        top: See above.
        left: See above.
        grid: Of the cells.
        max_invalid: Largest share of pixels without imagery, in [0, 1].

    Returns:
        (rows, cols).
    """
    if not rows or not cols:
        return np.zeros((len(rows), len(cols)), dtype=bool)
    size, step = grid.window, grid.step
    if valid[rows[0] - top : rows[-1] + size - top, cols[0] - left : cols[-1] + size - left].all():
        return np.ones((len(rows), len(cols)), dtype=bool)
    corners = np.array([(row - top, col - left) for row in rows for col in cols], dtype=np.int64)
    corners = corners.reshape(-1, 2)
    missing = size**2 - tile_counts(valid, corners, size)
    usable = ~exceeds(missing, size**2, max_invalid)
    usable &= tile_counts(valid, corners + (size - step) // 2, step) > 0
    return usable.reshape(len(rows), len(cols))
