"""The maps of one block: P(road) of its cells and the VisualBackProp mask of its pixels."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vbp_lightning.data.imagery.unlabelled import ReadPixels
from vbp_lightning.data.imagery.windows import overlap
from vbp_lightning.data.tiles.grid import exceeds, tile_counts
from vbp_lightning.scene_maps.output_grid import Block, CellGrid


@dataclass(frozen=True, eq=False)
class BlockMaps:
    """The maps of a block.

    Args:
        probability: (rows, cols) of the cells whose centres lie in the block, float32, P(road) of
            the window around each; NaN where no full window fits or it holds too little imagery.
        mask: (h, w) of the block's pixels, float32, VisualBackProp mask; NaN at nodata pixels and
            where no window lies.
    """

    probability: NDArray[np.float32]
    mask: NDArray[np.float32]


@dataclass(frozen=True)
class BlockInputs:
    """The pixels and windows that the maps of a block are computed from.

    Args:
        area: The pixels to read; it may reach beyond the scene.
        rows: First pixel rows of the windows, in the scene.
        cols: First pixel columns of the windows, in the scene.
    """

    area: Block
    rows: range
    cols: range

    def corners(self) -> NDArray[np.int64]:
        """Upper-left corners (rows, cols, 2) of the windows, in pixels of the area."""
        rows, cols = (
            np.arange(each.start, each.stop, each.step) for each in (self.rows, self.cols)
        )
        grid = np.meshgrid(rows - self.area.row, cols - self.area.col, indexing="ij")
        return np.stack(grid, axis=-1)


class Mapper(Protocol):
    """Computes the maps of blocks, which do not depend on how the scene is divided into blocks."""

    window: int
    step: int
    max_invalid: float

    def inputs(self, grid: CellGrid, block: Block) -> BlockInputs:
        """The pixels and the windows that a block's maps depend on."""

    def compute(
        self, bands: NDArray[np.float32], inputs: BlockInputs, usable: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """P(road) (rows, cols) of the windows and the VisualBackProp mask (h, w) of the area.

        Args:
            bands: (C, h, w) of the area.
            inputs: The area and its windows.
            usable: (rows, cols) windows whose probability is used; the others may hold any value.

        Returns:
            Both float32.
        """


def block_maps(mapper: Mapper, read: ReadPixels, shape: tuple[int, int], block: Block) -> BlockMaps:
    """Computes the maps of one block.

    Args:
        mapper: Seamless or tile by tile.
        read: Reads pixels of the scene.
        shape: Height and width of the scene in pixels.
        block: Its corner lies on multiples of the mapper's step where the mapper is seamless.

    Returns:
        The maps, NaN where they have no value.

    Raises:
        FloatingPointError: P(road) of a window is not a number.
    """
    grid = CellGrid(shape, mapper.window, mapper.step)
    inputs = mapper.inputs(grid, block)
    area = inputs.area
    bands, valid = read(area.row, area.col, area.height, area.width)
    usable = usable_windows(valid, inputs, grid, mapper.max_invalid)
    values, mask = mapper.compute(bands, inputs, usable)
    if not np.isfinite(values[usable]).all():
        raise FloatingPointError("P(road) is not a number in a window")

    row, col = block.row - area.row, block.col - area.col
    own = np.s_[row : row + block.height, col : col + block.width]
    rows, cols = grid.block_cells(block)
    probability = np.full((rows.stop - rows.start, cols.stop - cols.start), np.nan, np.float32)
    row, col = grid.cell(inputs.rows.start) - rows.start, grid.cell(inputs.cols.start) - cols.start
    cells, windows = overlap(row, col, len(inputs.rows), len(inputs.cols), probability.shape)
    probability[cells] = np.where(usable, values, np.float32(np.nan))[windows]
    return BlockMaps(probability, np.where(valid[own], mask[own], np.float32(np.nan)))


def usable_windows(
    valid: NDArray[np.bool_], inputs: BlockInputs, grid: CellGrid, max_invalid: float
) -> NDArray[np.bool_]:
    """Which windows hold enough imagery, with at least one valid pixel in their central cell.

    Args:
        valid: (h, w) pixels of the area with imagery.
        inputs: The area and its windows.
        grid: The grid of the cells.
        max_invalid: Largest share of nodata pixels in a window, in [0, 1].

    Returns:
        (rows, cols) bool.
    """
    size, step = grid.window, grid.step
    corners = inputs.corners()
    flat = corners.reshape(-1, 2)
    missing = size**2 - tile_counts(valid, flat, size)
    usable = ~exceeds(missing, size**2, max_invalid)
    usable &= tile_counts(valid, flat + (size - step) // 2, step) > 0
    return usable.reshape(corners.shape[:2])


def probabilities(logits: Tensor) -> NDArray[np.float32]:
    """P(road) (N,) of logits ``(N, 1)``, computed in double precision."""
    values: NDArray[np.float32] = logits[:, 0].double().sigmoid().float().cpu().numpy()
    return values
