"""Tiles of scenes as batches of tensors.

Where scenes are held in memory no file is touched here, so that worker processes, forked or
spawned, need nothing but this; streamed scenes open their files in each process anew.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vbp_lightning.data.imagery.windows import overlap
from vbp_lightning.data.tiles.augmentation import Augmentation, oriented
from vbp_lightning.data.tiles.grid import exceeds, labels_of
from vbp_lightning.data.tiles.keyed_random import keyed_uniforms
from vbp_lightning.data.tiles.store import Bands, Plane

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Raw tiles float32 (N, C, H, W), each with its context, and labels int64 (N,)."""


def crops(
    scenes: Sequence[Bands],
    positions: NDArray[np.int64],
    tile_size: int,
    context: int,
    fill: NDArray[Any],
) -> Tensor:
    """Raw tiles as they lie in their scenes, with the pixels around them.

    Args:
        scenes: (C, H, W) each, of one type and number of bands.
        positions: (N, 3) number of the scene, row and column of the upper-left corner.
        tile_size: Tile size in pixels.
        context: Margin on each side of a tile in pixels.
        fill: (C,) what the margin holds beyond the scene.

    Returns:
        (N, C, size, size) float32 with size = tile_size + 2·context, channels last in memory.
    """
    size = tile_size + 2 * context
    tiles = _empty_tiles(len(positions), len(scenes[0]), size)
    for tile, (scene, row, col) in zip(tiles, positions.tolist(), strict=True):
        tile[...] = _window(scenes[scene], row - context, col - context, size, fill)
    return torch.from_numpy(tiles)


def _window(bands: Bands, row: int, col: int, size: int, fill: NDArray[Any]) -> NDArray[Any]:
    """A square of a scene, filled up where it reaches beyond the scene."""
    height, width = bands.shape[1:]
    if 0 <= row <= height - size and 0 <= col <= width - size:  # all but a few tiles with context
        return bands[np.s_[:, row : row + size, col : col + size]]
    (rows, cols), (down, across) = overlap(row, col, size, size, (height, width))
    inside = bands[:, rows, cols]
    whole = np.empty((len(bands), size, size), inside.dtype)
    whole[...] = fill[:, None, None]
    whole[:, down, across] = inside
    return whole


def _empty_tiles(count: int, bands: int, tile_size: int) -> NDArray[np.float32]:
    """(N, C, tile_size, tile_size), channels last in memory, as scenes are held."""
    return np.empty((count, tile_size, tile_size, bands), np.float32).transpose(0, 3, 1, 2)


class TileDataset(Dataset[Batch]):
    """Tiles in a fixed order, unchanged.

    Args:
        scenes: (C, H, W) each.
        positions: (N, 3) number of the scene, row and column.
        labels: (N,) values of :class:`~vbp_lightning.data.tiles.tile.Label`.
        tile_size: Tile size in pixels.
        context: Margin on each side of a tile in pixels.
        fill: (C,) what the margin holds beyond the scene.
    """

    def __init__(
        self,
        scenes: Sequence[Bands],
        positions: NDArray[np.int64],
        labels: NDArray[np.int64],
        tile_size: int,
        context: int,
        fill: NDArray[Any],
    ) -> None:
        self.scenes = scenes
        self.positions = positions
        self.labels = labels
        self.tile_size = tile_size
        self.context = context
        self.fill = fill

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Batch:
        """One tile (C, H, W) and its label."""
        tiles, labels = self.__getitems__([index])
        return tiles[0], labels[0]

    def __getitems__(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The tiles of a batch, cut at once."""
        chosen = np.asarray(indices, dtype=np.int64)
        tiles = crops(self.scenes, self.positions[chosen], self.tile_size, self.context, self.fill)
        return tiles, torch.from_numpy(self.labels[chosen])


class TrainingTiles(Dataset[Batch]):
    """Tiles by key, augmented by draws that depend on (seed, epoch, index) alone.

    Args:
        scenes: (C, H, W) each.
        road: (H, W) valid road pixels of each scene.
        valid: (H, W) valid pixels of each scene.
        positions: (N, 3) number of the scene, row and column.
        labels: (N,) values of :class:`~vbp_lightning.data.tiles.tile.Label`.
        tile_size: Tile size in pixels.
        context: Margin on each side of a tile in pixels; labels are those of the tile alone.
        fill: (C,) what the margin holds beyond the scene.
        road_share: Least road share of a road tile.
        max_invalid: Largest share of invalid pixels.
        mean: Training mean of each band: what the contrast is changed about.
        std: Training standard deviation of each band: the unit of the brightness.
        augment: What is changed; None for nothing.
        seed: Of the draws.
    """

    def __init__(
        self,
        scenes: Sequence[Bands],
        road: Sequence[Plane],
        valid: Sequence[Plane],
        positions: NDArray[np.int64],
        labels: NDArray[np.int64],
        tile_size: int,
        context: int,
        fill: NDArray[Any],
        road_share: float,
        max_invalid: float,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augmentation | None,
        seed: int,
    ) -> None:
        self.scenes = scenes
        self.road = road
        self.valid = valid
        self.positions = positions
        self.labels = labels
        self.tile_size = tile_size
        self.context = context
        self.fill = fill
        self.road_share = road_share
        self.max_invalid = max_invalid
        self.mean = np.array(mean)
        self.std = np.array(std)
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.positions)

    def __getitems__(self, keys: NDArray[np.int64]) -> Batch:
        """The tiles of a batch.

        Args:
            keys: (N, 3) epoch, index within the epoch, number of the tile.
        """
        epoch, index, number = keys.T
        positions, labels = self.positions[number], torch.from_numpy(self.labels[number])
        if self.augment is None:
            tiles = crops(self.scenes, positions, self.tile_size, self.context, self.fill)
            return tiles, labels
        draws = keyed_uniforms((self.seed, epoch, index), 7)
        if self.augment.jitter:
            positions = self._jittered(positions, self.labels[number], draws[:, 5:7])
        allowed = (self.augment.flips, self.augment.flips, self.augment.rotations)
        symmetries = (draws[:, :3] < 0.5) & np.array(allowed)
        gain = 1 + self.augment.contrast * (2 * draws[:, 3:4] - 1)
        shift = self.augment.brightness * (2 * draws[:, 4:5] - 1)
        offset = (1 - gain) * self.mean + shift * self.std
        return self._changed_crops(positions, symmetries, gain, offset), labels

    def _changed_crops(
        self,
        positions: NDArray[np.int64],
        symmetries: NDArray[np.bool_],
        gain: NDArray[np.float64],
        offset: NDArray[np.float64],
    ) -> Tensor:
        """Crops under symmetries (N, 3), times gain (N, 1), plus offset (N, C)."""
        size = self.tile_size + 2 * self.context
        tiles = _empty_tiles(len(positions), len(self.mean), size)
        gains = gain.astype(np.float32)
        # Once for each pixel of a row: numpy would loop over the bands of each pixel.
        offsets = np.tile(offset.astype(np.float32), (1, size))
        # Tile by tile, so that the passes over a tile find it in the cache.
        for place, ((scene, row, col), symmetry) in enumerate(
            zip(positions.tolist(), symmetries.tolist(), strict=True)
        ):
            window = _window(
                self.scenes[scene], row - self.context, col - self.context, size, self.fill
            )
            tile = tiles[place]
            tile[...] = oriented(window, *symmetry)
            rows = tile.transpose(1, 2, 0).reshape(size, -1)  # the same memory
            rows *= gains[place]
            rows += offsets[place]
        return torch.from_numpy(tiles)

    def _jittered(
        self,
        positions: NDArray[np.int64],
        labels: NDArray[np.int64],
        draws: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """Positions shifted wherever the shifted tile has the label of the old one."""
        assert self.augment is not None
        reach, size = self.augment.jitter, self.tile_size
        shifted = positions.copy()
        shifted[:, 1:] += np.floor(draws * (2 * reach + 1)).astype(np.int64) - reach
        road = np.zeros(len(positions), dtype=np.int64)
        seen = np.zeros(len(positions), dtype=np.int64)
        for place, (scene, row, col) in enumerate(shifted.tolist()):
            height, width = self.valid[scene].shape
            if 0 <= row <= height - size and 0 <= col <= width - size:
                window = np.s_[row : row + size, col : col + size]
                road[place] = np.count_nonzero(self.road[scene][window])
                seen[place] = np.count_nonzero(self.valid[scene][window])
        kept = (seen > 0) & ~exceeds(size**2 - seen, size**2, self.max_invalid)
        kept &= labels_of(road, np.maximum(seen, 1), self.road_share) == labels
        return np.where(kept[:, None], shifted, positions)
