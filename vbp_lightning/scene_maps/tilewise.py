"""Maps composed of overlapping tiles, which the classifier takes as in training."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.models.symmetries import mean_over_views
from vbp_lightning.scene_maps.block_maps import BlockInputs, probabilities
from vbp_lightning.scene_maps.output_grid import Block, CellGrid

Blend = Literal["mean", "centre"]


class TileMapper:
    """Maps computed from separate windows at every ``stride`` px.

    The probability of a window is stored in the cell at its centre. VisualBackProp masks are
    min-max normalised tile by tile and blended where tiles overlap.

    Args:
        model: A road classifier in eval mode: raw tiles ``(N, C, H, W)`` to logits ``(N, 1)``.
        stride: Distance between windows in pixels, even.
        blend: ``mean`` of the overlapping masks, or ``centre``: the mask of the tile whose centre
            is nearest.
        window: Side of a window in pixels.
        context: Margin in pixels that the model takes on each side of a window.
        batch: Windows computed at once.
        upsampling: Upsampling of VisualBackProp.
        max_invalid: Largest share of nodata pixels in a window, in [0, 1].
        tta: Average P(road) over the eight symmetric views of each window.

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
        upsampling: str = "deconv_normalized",
        max_invalid: float = 0.25,
        tta: bool = False,
    ) -> None:
        if blend not in ("mean", "centre"):
            raise ValueError(f"blend is {blend!r}; choose mean or centre")
        self.model = model
        self.window = window
        self.step = stride
        self.blend = blend
        self.context = context
        self.batch = batch
        self.max_invalid = max_invalid
        self.tta = tta
        self._method = VisualBackProp(model, upsampling)

    def inputs(self, grid: CellGrid, block: Block) -> BlockInputs:
        """All windows that overlap the block, and the pixels of both with the context.

        Args:
            grid: The grid of the cells.
            block: Any rectangle of the scene.
        """
        # The centre of a window that overlaps the block lies within half a window of it.
        margin = self.window // 2 - 1
        row, col, height, width = block.row, block.col, block.height, block.width
        size = self.window - 1
        rows, cols = grid.windows(Block(row - margin, col - margin, height + size, width + size))
        top = min([row, *rows[:1]]) - self.context
        left = min([col, *cols[:1]]) - self.context
        bottom = max([row + height, *(last + self.window for last in rows[-1:])]) + self.context
        right = max([col + width, *(last + self.window for last in cols[-1:])]) + self.context
        return BlockInputs(Block(top, left, bottom - top, right - left), rows, cols)

    def compute(
        self, bands: NDArray[np.float32], inputs: BlockInputs, usable: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """P(road) (rows, cols) of the usable windows and their blended masks (h, w) in [0, 1].

        Args:
            bands: (C, h, w) of the area.
            inputs: The area and its windows.
            usable: (rows, cols) windows to compute; the probabilities of the others are NaN.
        """
        device = next(self.model.parameters()).device
        blended = _BlendedMasks(bands.shape[1:], self.window, self.blend)
        corners = inputs.corners()[usable].tolist()
        margin = self.context
        size = self.window + margin
        own = np.s_[margin:size, margin:size]
        found = np.empty(len(corners), np.float32)
        for start in range(0, len(corners), self.batch):
            batch = corners[start : start + self.batch]
            tiles = np.stack(
                [bands[:, r - margin : r + size, c - margin : c + size] for r, c in batch]
            )
            # In inference mode PyTorch does not decompose padding (of the context's crop), and the
            # method refuses operations that it does not know.
            with torch.inference_mode(mode=False):
                pixels = torch.from_numpy(tiles).to(device)
                logits, masks = self._method.attribute_with_logits(pixels)
                found[start : start + self.batch] = (
                    mean_over_views(self._probability, pixels).cpu().numpy()
                    if self.tta
                    else probabilities(logits)
                )
            for (row, col), mask in zip(batch, masks[:, 0].cpu().numpy(), strict=True):
                blended.add(row, col, mask[own])
        values = np.full(usable.shape, np.nan, np.float32)
        values[usable] = found
        return values, blended.mask()

    @torch.no_grad()
    def _probability(self, tiles: Tensor) -> Tensor:
        logits: Tensor = self.model(tiles)
        return logits[:, 0].cpu().double().sigmoid()  # MPS has no float64


class _BlendedMasks:
    """The masks of overlapping tiles in one array.

    Args:
        shape: Height and width of the array.
        window: Side of a mask in pixels.
        blend: ``mean`` or ``centre``.
    """

    def __init__(self, shape: tuple[int, ...], window: int, blend: Blend) -> None:
        self._sums = np.zeros(shape, np.float32)
        self._counts = np.zeros(shape, np.float32)
        self._nearest = np.full(shape, np.inf, np.float32)
        self._window = window
        self._blend = blend
        offsets = np.abs(np.arange(window) - (window - 1) / 2)
        self._distance = np.hypot(offsets[:, None], offsets[None]).astype(np.float32)

    def add(self, row: int, col: int, mask: NDArray[np.float32]) -> None:
        """Adds the mask (window, window) of the tile whose upper-left corner is given."""
        place = np.s_[row : row + self._window, col : col + self._window]
        if self._blend == "mean":
            self._sums[place] += mask
            self._counts[place] += 1
        else:
            nearer = self._distance < self._nearest[place]
            self._sums[place][nearer] = mask[nearer]
            self._nearest[place][nearer] = self._distance[nearer]
            self._counts[place] = 1

    def mask(self) -> NDArray[np.float32]:
        """The blended mask; NaN where no tile lies."""
        with np.errstate(invalid="ignore"):
            return self._sums / self._counts
