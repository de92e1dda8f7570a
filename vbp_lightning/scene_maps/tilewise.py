"""Maps laid together from tiles: the classifier exactly as it was trained."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.data.imagery.unlabelled import ReadPixels
from vbp_lightning.scene_maps.block_maps import BlockMaps, usable_windows
from vbp_lightning.scene_maps.output_grid import Block, CellGrid

Blend = Literal["mean", "max", "centre"]


class TileMapper:
    """Maps from the windows at every ``stride`` px, each taken for itself.

    The probability of a window stands at its centre. Masks are min-max normalised tile by tile and
    laid together where tiles overlap.

    Args:
        model: A road classifier in eval mode: raw tiles ``(N, C, H, W)`` to logits ``(N, 1)``.
        stride: Distance between windows in pixels, even.
        blend: ``mean`` or ``max`` of the overlapping masks, or ``centre``: that of the tile whose
            centre is nearest.
        window: Side of a window in pixels.
        context: Margin in pixels that the model takes on each side of a window.
        batch: Windows computed at once.
        upsampling: Of VisualBackProp.
        max_invalid: Largest share of a window's pixels without imagery, in [0, 1].
        masks: Whether to compute the masks; they are NaN otherwise.

    Raises:
        ValueError: The blend is unknown.

    Attributes:
        step: The stride.
    """

    def __init__(
        self,
        model: nn.Module,
        stride: int = 48,
        blend: Blend = "mean",
        window: int = 96,
        context: int = 0,
        batch: int = 64,
        upsampling: str = "deconv",
        max_invalid: float = 0.25,
        masks: bool = True,
    ) -> None:
        if blend not in ("mean", "max", "centre"):
            raise ValueError(f"blend is {blend!r}; choose mean, max or centre")
        self.model = model
        self.window = window
        self.step = stride
        self.blend = blend
        self.context = context
        self.batch = batch
        self.max_invalid = max_invalid
        self.masks = masks
        self._method = VisualBackProp(model, upsampling)

    def maps(self, read: ReadPixels, shape: tuple[int, int], block: Block) -> BlockMaps:
        """The maps of one block, from all windows that overlap it.

        Args:
            read: Reads pixels of the scene.
            shape: Height and width of the scene in pixels.
            block: Any rectangle of the scene.
        """
        grid = CellGrid(shape, self.window, self.step)
        half = self.window // 2
        # Of a window that touches the block the centre lies within half a window of it.
        rows = grid.origins(block.row - half + 1, block.row + block.height + half, 0)
        cols = grid.origins(block.col - half + 1, block.col + block.width + half, 1)
        top = min([block.row, *rows[:1]]) - self.context
        left = min([block.col, *cols[:1]]) - self.context
        bottom = max([block.row + block.height, *(r + self.window for r in rows[-1:])])
        right = max([block.col + block.width, *(c + self.window for c in cols[-1:])])
        bands, valid = read(top, left, bottom + self.context - top, right + self.context - left)
        own = np.s_[
            block.row - top : block.row - top + block.height,
            block.col - left : block.col - left + block.width,
        ]
        cells = grid.block_cells(block)
        probability = np.full([each.stop - each.start for each in cells], np.nan, np.float32)
        laid = _Laid(valid.shape, self.window, self.blend)
        usable = usable_windows(valid, rows, cols, top, left, grid, self.max_invalid)
        corners = [
            (row, col)
            for row, line in zip(rows, usable, strict=True)
            for col, kept in zip(cols, line, strict=True)
            if kept
        ]
        size = self.window + 2 * self.context
        for start in range(0, len(corners), self.batch):
            part = corners[start : start + self.batch]
            tiles = torch.from_numpy(
                np.stack(
                    [
                        bands[:, r : r + size, c : c + size]
                        for r, c in (
                            (row - top - self.context, col - left - self.context)
                            for row, col in part
                        )
                    ]
                )
            )
            values, masks = self._run(tiles)
            for number, (row, col) in enumerate(part):
                down, across = grid.cell(row) - cells[0].start, grid.cell(col) - cells[1].start
                if 0 <= down < probability.shape[0] and 0 <= across < probability.shape[1]:
                    probability[down, across] = values[number]
                if masks is not None:
                    laid.add(row - top, col - left, masks[number])
        mask = laid.mask()
        mask[~valid] = np.nan
        return BlockMaps(probability, np.ascontiguousarray(mask[own]))

    def _run(self, tiles: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """P(road) (N,) and masks (N, window, window) of tiles with their context."""
        tiles = tiles.to(next(self.model.parameters()).device)
        masks = None
        if self.masks:
            logits, found = self._method.attribute_with_logits(tiles)
            own = slice(self.context, self.context + self.window)
            masks = found[:, 0, own, own].cpu().numpy()
        else:
            with torch.no_grad():
                logits = self.model(tiles)
        values: NDArray[np.float32] = logits[:, 0].double().sigmoid().float().cpu().numpy()
        return values, masks


class _Laid:
    """Masks of overlapping tiles laid together."""

    def __init__(self, shape: tuple[int, ...], window: int, blend: Blend) -> None:
        self._values = np.zeros(shape, np.float32)
        self._counts = np.zeros(shape, np.float32)
        self._window = window
        self._blend = blend
        middle = np.abs(np.arange(window) - (window - 1) / 2)
        self._distance = np.hypot(middle[:, None], middle[None]).astype(np.float32)
        self._nearest = np.full(shape, np.inf, np.float32)

    def add(self, row: int, col: int, mask: NDArray[np.float32]) -> None:
        place = np.s_[row : row + self._window, col : col + self._window]
        self._counts[place] += 1
        values = self._values[place]
        if self._blend == "mean":
            values += mask
        elif self._blend == "max":
            np.maximum(values, mask, out=values)
        else:
            nearer = self._distance < self._nearest[place]
            values[nearer] = mask[nearer]
            self._nearest[place][nearer] = self._distance[nearer]

    def mask(self) -> NDArray[np.float32]:
        """The masks laid together; NaN where no tile lies."""
        divisor = self._counts if self._blend == "mean" else np.ones_like(self._counts)
        covered = self._counts > 0
        result = np.full(self._values.shape, np.nan, np.float32)
        result[covered] = self._values[covered] / divisor[covered]
        return result
