"""Where the blocks, windows and cells of a scene map lie."""

from collections.abc import Iterator
from dataclasses import dataclass

from affine import Affine

from vbp_lightning.data.imagery.windows import rescaled


@dataclass(frozen=True, order=True)
class Block:
    """A rectangle of a scene that is computed at a time.

    Args:
        row: First pixel row, a multiple of the cells' step.
        col: First pixel column, likewise.
        height: Pixel rows; smaller at the lower border of the scene.
        width: Pixel columns; smaller at its right border.
    """

    row: int
    col: int
    height: int
    width: int


@dataclass(frozen=True)
class CellGrid:
    """The cells of a probability raster: each is centred on the window that its value is of.

    Cell ``m`` of an axis has its centre on pixel edge ``first + m · step`` and spans ``step``
    pixels, so that the raster begins ``step / 2 - first`` pixels before the scene. Where no full
    window fits around a centre, the cell has no value.

    Args:
        shape: Height and width of the scene in pixels.
        window: Side of a window in pixels, even.
        step: Distance between windows in pixels, even.
    """

    shape: tuple[int, int]
    window: int
    step: int

    @property
    def first(self) -> int:
        """Centre of the first cell, in pixels: at most half a step beyond the scene's border."""
        return (self.window // 2) % self.step

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the raster: up to the last centre inside the scene."""
        rows, cols = (max(0, -(-(size - self.first) // self.step)) for size in self.shape)
        return rows, cols

    def origins(self, start: int, stop: int, axis: int) -> range:
        """First pixels of the windows whose centres lie in some pixels of one axis.

        Args:
            start: First pixel.
            stop: Behind the last pixel.
            axis: 0 for rows, 1 for columns.
        """
        half, step = self.window // 2, self.step
        least = max(0, start - half)
        least += -least % step
        most = min(self.shape[axis] - self.window, stop - half - 1)
        return range(least, most + 1, step)

    def cell(self, origin: int) -> int:
        """The row or column of the cell of the window that begins at a pixel."""
        return (origin + self.window // 2 - self.first) // self.step

    def block_cells(self, block: Block) -> tuple[slice, slice]:
        """The cells whose centres lie in a block."""
        rows, cols = (
            slice(
                max(0, -(-(start - self.first) // self.step)),
                max(0, -(-(start + size - self.first) // self.step)),
            )
            for start, size in ((block.row, block.height), (block.col, block.width))
        )
        return rows, cols

    def transform(self, scene: Affine) -> Affine:
        """From (column, row) of the raster to the coordinates of the scene.

        Args:
            scene: From (column, row) of the scene to the same coordinates.
        """
        shift = self.first - self.step / 2
        return rescaled(scene, shift, shift, self.step, self.step)


def blocks_of(shape: tuple[int, int], size: int) -> Iterator[Block]:
    """The blocks of a scene, row by row.

    Args:
        shape: Height and width of the scene in pixels.
        size: Side of a block in pixels.
    """
    height, width = shape
    for row in range(0, height, size):
        for col in range(0, width, size):
            yield Block(row, col, min(size, height - row), min(size, width - col))
