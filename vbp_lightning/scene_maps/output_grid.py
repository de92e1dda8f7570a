"""Positions of the blocks, windows and cells of a scene map."""

from collections.abc import Iterator
from dataclasses import dataclass

from affine import Affine

from vbp_lightning.data.imagery.windows import rescaled


@dataclass(frozen=True, order=True)
class Block:
    """A rectangle of pixels of a scene.

    Args:
        row: First pixel row.
        col: First pixel column.
        height: Number of pixel rows.
        width: Number of pixel columns.
    """

    row: int
    col: int
    height: int
    width: int


@dataclass(frozen=True)
class CellGrid:
    """The cells of a probability raster, each at the centre of the window that its value describes.

    The centre of cell ``m`` of an axis lies on pixel edge ``first + m · step``, and the cell spans
    ``step`` pixels, so the raster begins ``step / 2 - first`` pixels before the scene. Where no
    full window fits around a centre, the cell has no value.

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
        """Centre of the first cell in pixels from the border of the scene, less than one step."""
        return (self.window // 2) % self.step

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the raster, up to the last centre inside the scene."""
        rows, cols = self.block_cells(Block(0, 0, *self.shape))
        return rows.stop, cols.stop

    def windows(self, block: Block) -> tuple[range, range]:
        """First pixel rows and first pixel columns of the windows whose centres lie in a block.

        Args:
            block: Any rectangle; only windows that fit into the scene are returned.
        """
        rows = self._origins(block.row, block.height, self.shape[0])
        return rows, self._origins(block.col, block.width, self.shape[1])

    def _origins(self, start: int, size: int, whole: int) -> range:
        half = self.window // 2
        first = max(0, start - half)
        last = min(whole - self.window, start + size - half - 1)
        return range(first + -first % self.step, last + 1, self.step)

    def cell(self, origin: int) -> int:
        """The row or column of the cell whose window begins at a pixel."""
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
        """The transform from (column, row) of the raster to coordinates.

        Args:
            scene: The transform from (column, row) of the scene to the same coordinates.
        """
        return rescaled(scene, self.shift, self.shift, self.step, self.step)

    @property
    def shift(self) -> float:
        """Upper-left corner of the raster in pixels of the scene, along both axes."""
        return self.first - self.step / 2


def blocks_of(shape: tuple[int, int], size: int) -> Iterator[Block]:
    """The blocks of a scene, row by row; those at its lower and right borders are smaller.

    Args:
        shape: Height and width of the scene in pixels.
        size: Side of a block in pixels, a multiple of the cells' step.
    """
    height, width = shape
    for row in range(0, height, size):
        for col in range(0, width, size):
            yield Block(row, col, min(size, height - row), min(size, width - col))
