"""Seamless maps: the convolutional part runs over large blocks, so that no seams appear."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.graph.network_graph import graph_of
from vbp_lightning.graph.running import forward
from vbp_lightning.models.symmetries import SYMMETRIES, Symmetry, symmetric_view, undo_symmetry
from vbp_lightning.scene_maps.block_maps import BlockInputs
from vbp_lightning.scene_maps.output_grid import Block, CellGrid
from vbp_lightning.scene_maps.split_network import (
    NotConvolutionalError,
    SplitNetwork,
    split_network,
)


class SeamlessMapper:
    """Maps of a scene that equal those of one pass over the whole scene, computed block by block.

    The features that the network pools are computed once for every ``step`` pixels. The global
    pooling of a tile becomes a sliding pooling over the features of a window, and the head is
    evaluated at each position: P(road) of every window whose corner lies on the grid of features.
    The VisualBackProp mask is computed from the same features.

    The pass covers the scene, padded to multiples of the step and, for a network with context, by
    the context on each side; the padding and nodata pixels hold the fill values. The result of a
    block therefore does not depend on the size of the blocks.

    Args:
        network: In eval mode, raw tiles ``(N, C, T, T)`` to logits ``(N, 1)``.
        bands: ``C``.
        upsampling: Upsampling of VisualBackProp.
        max_invalid: Largest share of nodata pixels in a window, in [0, 1].
        tta: Average P(road) over the eight symmetric views of each window.
        window: Side of a window in pixels.
        context: Margin in pixels that the network takes on each side of a window.

    Raises:
        NotConvolutionalError: The network cannot run over a whole scene at once; names the layer.

    Attributes:
        step: Distance between windows in pixels.
        halo: Pixels around a block that its maps depend on, a multiple of the step.
        exact: Whether the probabilities are those of the network's tiles. Otherwise its features
            see the zero padding around a tile, which a seamless pass does not have.
    """

    def __init__(
        self,
        network: nn.Module,
        bands: int,
        upsampling: str = "deconv_normalized",
        max_invalid: float = 0.25,
        tta: bool = False,
        window: int = 96,
        context: int = 0,
    ) -> None:
        self.window = window
        self.max_invalid = max_invalid
        self.network = network
        self.tta = tta
        self.upsampling = upsampling
        self.context = context
        self._bands = bands
        split = self._split()
        low, high = (edge - context for edge in split.reach)
        self.step = split.step
        if context % self.step:
            raise NotConvolutionalError(
                f"{type(network).__name__}: its features are {self.step} px apart, "
                f"which does not divide the margin of {context} px"
            )
        self.exact = low >= -context and high < window + context
        # Half a window and what its features see beyond it; or what the mask of a pixel depends on:
        # features whose field it lies in, or for upsamplings that interpolate those beside them.
        before = max(-low, context - split.cropped * self.step)
        of_windows = max(window // 2 + before, high - window // 2)
        of_mask = max(split.field.size) + 2 * self.step
        self.halo = -(-max(of_windows, of_mask) // self.step) * self.step

    def _split(self) -> SplitNetwork:
        """The parts of the network on its present device."""
        device = next(self.network.parameters()).device
        side = self.window + 2 * self.context
        return split_network(self.network, torch.empty(1, self._bands, side, side, device=device))

    def inputs(self, grid: CellGrid, block: Block) -> BlockInputs:
        """The block with its halo, and the windows whose centres lie in the block.

        Args:
            grid: The grid of the cells.
            block: Its corner lies on multiples of the step.
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
        split = self._split()
        # Bands are read channels last, the memory format in which convolutions are fastest.
        pixels = torch.from_numpy(bands)[None].to(next(self.network.parameters()).device)
        method = VisualBackProp(split.trunk, self.upsampling)
        features, relevance = method.attribute_with_logits(pixels, normalize=False)
        mask = relevance[0, 0].cpu().numpy()
        if not usable.any():
            return np.full(usable.shape, np.nan, np.float32), mask
        first = (inputs.corners()[0, 0] - self.context) // self.step + split.cropped
        top, left = first.tolist()
        rows, cols = (count + split.features - 1 for count in usable.shape)
        if not self.tta:
            own = features[:, :, top : top + rows, left : left + cols]
            return split.window_probabilities(own), mask
        others = (_of_view(split, pixels, symmetry) for symmetry in SYMMETRIES[1:])
        whole = np.mean([split.window_probabilities(features), *others], axis=0)
        return whole[top : top + usable.shape[0], left : left + usable.shape[1]], mask

    def _reach(self, start: int, size: int, whole: int) -> tuple[int, int]:
        """First pixel, and the one behind the last, that a block depends on along one axis."""
        end = whole + -whole % self.step + self.context
        stop = start + size + self.halo
        return max(start - self.halo, -self.context), min(stop + -stop % self.step, end)


def _of_view(split: SplitNetwork, pixels: Tensor, symmetry: Symmetry) -> NDArray[np.float32]:
    """P(road) of all windows of an area (1, C, h, w), computed from one symmetric view.

    The sides of the area are multiples of the step, so that a view has the same windows.
    """
    view = symmetric_view(pixels, symmetry).contiguous(memory_format=torch.channels_last)
    features = forward(graph_of(split.trunk, view), view).output
    found = torch.from_numpy(split.window_probabilities(features))
    return undo_symmetry(found, symmetry).numpy()
