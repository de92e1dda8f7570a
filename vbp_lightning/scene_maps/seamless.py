"""Seamless maps: the convolutional part runs over large blocks, so that no seams appear."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.graph.network_graph import graph_of
from vbp_lightning.models.networks import TILE_SIZE, TOTAL_STRIDE, RoadNetwork
from vbp_lightning.models.symmetries import SYMMETRIES, Symmetry, symmetric_view, undo_symmetry
from vbp_lightning.scene_maps.block_maps import BlockInputs, probabilities
from vbp_lightning.scene_maps.output_grid import Block, CellGrid

HALO = TILE_SIZE // 2 + TOTAL_STRIDE
"""Pixels around a block that its maps depend on: half a window, plus the 7 px by which the
receptive field of a feature reaches beyond its own 8×8 px, rounded up to the grid of features. The
mask needs less: a pixel depends on features within 14 px, whose receptive fields reach 7 px
further."""

_ROWS = 1024
"""Windows per evaluation of the head: their hidden layers fit in the processor's cache."""

_WINDOW = TILE_SIZE // TOTAL_STRIDE


class SeamlessMapper:
    """Maps of a scene that equal those of one pass over the whole scene, computed block by block.

    The features of the last block of the network are computed once for every 8×8 px. The global
    pooling of a tile becomes a sliding pooling over 12×12 features, and the head is evaluated at
    each position: P(road) of every window whose corner lies on the grid of features. The
    VisualBackProp mask is computed from the same features.

    The pass covers the scene, padded to multiples of 8 px and, for a network with context, by the
    context on each side; the padding and nodata pixels hold the fill values. The result of a block
    therefore does not depend on the size of the blocks.

    The probabilities of a network trained with context are those of its tiles. A network without
    context was trained with zero padding around its tiles, which a seamless pass does not have.

    Args:
        network: In eval mode.
        upsampling: Upsampling of VisualBackProp.
        max_invalid: Largest share of nodata pixels in a window, in [0, 1].
        tta: Average P(road) over the eight symmetric views of each window.

    Attributes:
        window: Side of a window in pixels.
        step: Distance between windows in pixels.
    """

    def __init__(
        self,
        network: RoadNetwork,
        upsampling: str = "deconv",
        max_invalid: float = 0.25,
        tta: bool = False,
    ) -> None:
        self.window = TILE_SIZE
        self.step = TOTAL_STRIDE
        self.max_invalid = max_invalid
        self.network = network
        self.tta = tta
        self._trunk = network.trunk  # a new module each time, which would be exported again
        self._method = VisualBackProp(self._trunk, upsampling)

    def inputs(self, grid: CellGrid, block: Block) -> BlockInputs:
        """The block with its halo, and the windows whose centres lie in the block.

        Args:
            grid: The grid of the cells.
            block: Its corner lies on multiples of 8 px.
        """
        top, bottom = self._reach(block.row, block.height, grid.shape[0])
        left, right = self._reach(block.col, block.width, grid.shape[1])
        area = Block(top, left, bottom - top, right - left)
        return BlockInputs(area, *grid.windows(block))

    def compute(
        self, bands: NDArray[np.float32], inputs: BlockInputs, usable: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """P(road) (rows, cols) of the windows and the raw VisualBackProp mask (h, w) of the area.

        Args:
            bands: (C, h, w) of the area.
            inputs: The area and its windows.
            usable: (rows, cols); without a usable window no probability is computed.
        """
        # Bands are read channels last, the memory format in which convolutions are fastest.
        pixels = torch.from_numpy(bands)[None].to(next(self.network.parameters()).device)
        graph_of(self._trunk, pixels, free_size=True)  # blocks differ in size
        features, relevance = self._method.attribute_with_logits(pixels, normalize=False)
        mask = relevance[0, 0].cpu().numpy()
        if not usable.any():
            return np.full(usable.shape, np.nan, np.float32), mask
        top, left = inputs.corners()[0, 0] // self.step
        rows, cols = (count + _WINDOW - 1 for count in usable.shape)
        if not self.tta:
            own = features[:, :, top : top + rows, left : left + cols]
            return window_probabilities(self.network, own), mask
        others = (self._of_view(pixels, symmetry) for symmetry in SYMMETRIES[1:])
        whole = np.mean([window_probabilities(self.network, features), *others], axis=0)
        return whole[top : top + usable.shape[0], left : left + usable.shape[1]], mask

    @torch.no_grad()
    def _of_view(self, pixels: Tensor, symmetry: Symmetry) -> NDArray[np.float32]:
        """P(road) of all windows of an area (1, C, h, w), computed from one symmetric view.

        The sides of the area are multiples of 8 px, so that a view has the same windows.
        """
        view = symmetric_view(pixels, symmetry).contiguous(memory_format=torch.channels_last)
        features = self._trunk(view)
        found = torch.from_numpy(window_probabilities(self.network, features))
        return undo_symmetry(found, symmetry).numpy()

    def _reach(self, start: int, size: int, whole: int) -> tuple[int, int]:
        """First pixel, and the one behind the last, that a block depends on along one axis."""
        end = whole + -whole % self.step + self.network.context
        stop = start + size + HALO
        return max(start - HALO, -self.network.context), min(stop + -stop % self.step, end)


@torch.no_grad()
def window_probabilities(network: RoadNetwork, features: Tensor) -> NDArray[np.float32]:
    """P(road) of every 12×12 window of the features of a scene.

    Args:
        network: In eval mode.
        features: ``(1, C, h, w)``, the output of the network's trunk.

    Returns:
        (h - 11, w - 11).
    """
    pooled = sliding_mean(features) if network.averages else sliding_max(features)
    flat = pooled[0].flatten(1).T.contiguous()
    head = network.head
    logits = torch.cat([head(part) for part in torch.split(flat, _ROWS)])
    return probabilities(logits).reshape(pooled.shape[2:])


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
