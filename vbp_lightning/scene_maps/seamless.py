"""Seamless maps: the convolutional part runs over large blocks, and no tile leaves a seam."""

from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.data.imagery.unlabelled import ReadPixels
from vbp_lightning.models.networks import TILE_SIZE, TOTAL_STRIDE, RoadNetwork
from vbp_lightning.scene_maps.block_maps import BlockMaps, usable_windows
from vbp_lightning.scene_maps.output_grid import Block, CellGrid

HALO = TILE_SIZE // 2 + TOTAL_STRIDE
"""Pixels around a block that its maps depend on: half a window and the 7 px by which a feature
looks beyond its own 8×8 px, rounded up to the grid of features. A mask needs less: a pixel's value
comes from features within 14 px, which look 7 px further."""

_ROWS = 1024
"""Windows that the head is evaluated at at a time: their hidden layers stay in the cache."""

_WINDOW = TILE_SIZE // TOTAL_STRIDE


class SeamlessMapper:
    """Maps of a scene as one pass over all of it gives them, block by block.

    The features of the last block are computed once for every 8×8 px; the global pooling of a tile
    becomes a sliding one over 12×12 features, and the head is evaluated at each of its positions:
    P(road) of every window whose corner lies on the grid of features. The VisualBackProp mask goes
    back from the same features.

    The one pass is over the scene continued to multiples of 8 px, and for a network with context
    by the context on each side, with what gaps are filled with. So every block gives what one pass
    gives, whatever the size of the blocks.

    For a network trained with context the probabilities are those of its tiles. Another network
    knows the zero padding around its tiles, which a seamless pass does not have.

    Args:
        network: In eval mode.
        upsampling: Of VisualBackProp.
        max_invalid: Largest share of a window's pixels without imagery, in [0, 1].
        masks: Whether to compute the masks; they are NaN otherwise.

    Attributes:
        window: Side of a window in pixels.
        step: Distance between windows in pixels.
    """

    def __init__(
        self,
        network: RoadNetwork,
        upsampling: str = "deconv",
        max_invalid: float = 0.25,
        masks: bool = True,
    ) -> None:
        self.window = TILE_SIZE
        self.step = TOTAL_STRIDE
        self.context = network.context
        self.max_invalid = max_invalid
        self.masks = masks
        parts = list(network.named_children())
        names = [name for name, _ in parts]
        behind = names.index("global_pool")
        self._convolutions = nn.Sequential(
            OrderedDict(part for part in parts[:behind] if part[0] != "crop")
        )
        self._head = nn.Sequential(OrderedDict(parts[names.index("flatten") + 1 :]))
        self._averages = isinstance(network.global_pool, nn.AdaptiveAvgPool2d)
        self._method = VisualBackProp(self._convolutions, upsampling)

    def maps(self, read: ReadPixels, shape: tuple[int, int], block: Block) -> BlockMaps:
        """The maps of one block.

        Args:
            read: Reads pixels of the scene.
            shape: Height and width of the scene in pixels.
            block: Its corner lies on multiples of 8 px.
        """
        grid = CellGrid(shape, self.window, self.step)
        (top, bottom), (left, right) = (
            self._reach(start, size, whole)
            for start, size, whole in (
                (block.row, block.height, shape[0]),
                (block.col, block.width, shape[1]),
            )
        )
        bands, valid = read(top, left, bottom - top, right - left)
        # Channels last in memory, as the bands are read, is what convolutions are fastest in.
        inputs = torch.from_numpy(bands)[None].to(next(self._convolutions.parameters()).device)
        features, relevance = self._features(inputs)
        own = np.s_[
            block.row - top : block.row - top + block.height,
            block.col - left : block.col - left + block.width,
        ]
        mask = np.full((block.height, block.width), np.nan, np.float32)
        if relevance is not None:
            mask = np.where(valid[own], relevance[0, 0].cpu().numpy()[own], np.float32(np.nan))

        cells = grid.block_cells(block)
        probability = np.full([each.stop - each.start for each in cells], np.nan, np.float32)
        rows = grid.origins(block.row, block.row + block.height, 0)
        cols = grid.origins(block.col, block.col + block.width, 1)
        if rows and cols:
            inner = features[
                :,
                :,
                (rows[0] - top) // self.step : (rows[-1] - top) // self.step + _WINDOW,
                (cols[0] - left) // self.step : (cols[-1] - left) // self.step + _WINDOW,
            ]
            values = self._probabilities(inner)
            usable = usable_windows(valid, rows, cols, top, left, grid, self.max_invalid)
            down, across = grid.cell(rows[0]), grid.cell(cols[0])
            target = probability[down - cells[0].start :, across - cells[1].start :]
            target[: len(rows), : len(cols)] = np.where(usable, values, np.float32(np.nan))
        return BlockMaps(probability, mask)

    def _reach(self, start: int, size: int, whole: int) -> tuple[int, int]:
        """First pixel and the one behind the last that a block's maps depend on."""
        end = whole + -whole % self.step + self.context
        stop = start + size + HALO
        return max(start - HALO, -self.context), min(stop + -stop % self.step, end)

    def _features(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.masks:
            features, relevance = self._method.attribute_with_logits(inputs, normalize=False)
            return features, relevance
        with torch.no_grad():
            return self._convolutions(inputs), None

    def _probabilities(self, features: Tensor) -> np.ndarray:
        """P(road) of all windows of features (1, C, h, w), float32."""
        with torch.no_grad():
            pooled = sliding_mean(features) if self._averages else sliding_max(features)
            flat = pooled[0].flatten(1).T.contiguous()
            parts = [self._head(part) for part in torch.split(flat, _ROWS)]
            logits = torch.cat(parts).double()
        values: np.ndarray = logits.sigmoid().float().view(pooled.shape[2:]).cpu().numpy()
        return values


def sliding_max(features: Tensor) -> Tensor:
    """Largest value of every 12×12 window of ``(N, C, h, w)``: ``(N, C, h-11, w-11)``.

    Windows of 1, 2, 4, 8 and 12 are each the maximum of two smaller ones.
    """
    for dim in (2, 3):
        for shift in (1, 2, 4, 4):
            length = features.shape[dim] - shift
            features = torch.maximum(
                features.narrow(dim, 0, length), features.narrow(dim, shift, length)
            )
    return features


def sliding_mean(features: Tensor) -> Tensor:
    """Mean of every 12×12 window of ``(N, C, h, w)``: ``(N, C, h-11, w-11)``."""
    return F.avg_pool2d(F.avg_pool2d(features, (_WINDOW, 1), 1), (1, _WINDOW), 1)
