"""Tiles of scenes as batches of tensors.

Scenes that are held in memory need no file here, neither in forked nor in spawned worker
processes; streamed scenes are opened by each process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vbp_lightning.data.imagery.windows import overlap
from vbp_lightning.data.tiles.augmentation import Augmentation, oriented
from vbp_lightning.data.tiles.corrections import overlapping
from vbp_lightning.data.tiles.evidence import Evidence, Kind, feathered
from vbp_lightning.data.tiles.grid import exceeds, labels_of
from vbp_lightning.data.tiles.keyed_random import keyed_uniforms
from vbp_lightning.data.tiles.store import Bands, SceneStore
from vbp_lightning.data.tiles.streaming import INVALID_PIXEL, ROAD_PIXEL

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Raw tiles float32 (N, C, H, W), each with its context, and labels int64 (N,)."""


def crops(store: SceneStore, positions: NDArray[np.int64], tile_size: int, context: int) -> Tensor:
    """Raw tiles with the pixels around them.

    Args:
        store: The scenes, of one type and number of bands.
        positions: (N, 3) index of the scene, row and column of the upper-left corner.
        tile_size: Tile size in pixels.
        context: Margin on each side of a tile in pixels; beyond the scene it holds ``store.fill``.

    Returns:
        (N, C, size, size) float32 with size = tile_size + 2·context, channels last in memory.
    """
    size = tile_size + 2 * context
    tiles = _empty_tiles(len(positions), len(store.fill), size)
    for tile, (scene, row, col) in zip(tiles, positions.tolist(), strict=True):
        tile[...] = _window(store.bands[scene], row - context, col - context, size, store.fill)
    return torch.from_numpy(tiles)


def road_masks(
    store: SceneStore, positions: NDArray[np.int64], tile_size: int, context: int
) -> NDArray[np.bool_]:
    """The road pixels of tiles and their context, pixel by pixel as in :func:`crops`.

    Args:
        store: The scenes.
        positions: (N, 3) index of the scene, row and column of the upper-left corner.
        tile_size: Tile size in pixels.
        context: Margin on each side of a tile in pixels; beyond the scene it holds no road.

    Returns:
        (N, size, size) with size = tile_size + 2·context; invalid pixels are false.
    """
    size = tile_size + 2 * context
    masks = np.zeros((len(positions), size, size), dtype=bool)
    for mask, (scene, row, col) in zip(masks, positions.tolist(), strict=True):
        labels = store.labels[scene]
        place, own = overlap(row - context, col - context, size, size, labels.shape)
        mask[own] = labels[place] == ROAD_PIXEL
    return masks


def _window(bands: Bands, row: int, col: int, size: int, fill: NDArray[Any]) -> NDArray[Any]:
    """A square of a scene; beyond the scene it holds the fill values."""
    height, width = bands.shape[1:]
    if 0 <= row <= height - size and 0 <= col <= width - size:  # nearly all tiles
        return bands[:, row : row + size, col : col + size]
    (rows, cols), (down, across) = overlap(row, col, size, size, (height, width))
    inside = bands[:, rows, cols]
    whole = np.empty((len(bands), size, size), inside.dtype)
    whole[...] = fill[:, None, None]
    whole[:, down, across] = inside
    return whole


def _empty_tiles(count: int, bands: int, tile_size: int) -> NDArray[np.float32]:
    """(N, C, tile_size, tile_size), channels last in memory, as scenes are held."""
    return np.empty((count, tile_size, tile_size, bands), np.float32).transpose(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class TileDataset(Dataset[Batch]):
    """Tiles in a fixed order, unchanged.

    Args:
        store: The scenes.
        positions: (N, 3) index of the scene, row and column.
        labels: (N,) values of :class:`~vbp_lightning.data.tiles.tile.Label`.
        tile_size: Tile size in pixels.
        context: Margin on each side of a tile in pixels; labels are those of the tile alone.
    """

    store: SceneStore
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]
    tile_size: int
    context: int

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Batch:
        """One tile (C, H, W) and its label."""
        tiles, labels = self.__getitems__([index])
        return tiles[0], labels[0]

    def __getitems__(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The tiles of a batch."""
        chosen = np.asarray(indices, dtype=np.int64)
        tiles = crops(self.store, self.positions[chosen], self.tile_size, self.context)
        return tiles, torch.from_numpy(self.labels[chosen])


@dataclass(frozen=True, eq=False)
class TrainingTiles(Dataset[Batch]):
    """Tiles by key, augmented by random numbers that depend on (seed, epoch, index) alone.

    Args:
        tiles: The training tiles.
        road_share: Smallest road share of a road tile.
        max_invalid: Largest share of invalid pixels.
        mean: (C,) training mean of each band: the contrast is changed about it.
        std: (C,) training standard deviation of each band: the unit of the brightness.
        augment: The augmentation; None for none.
        seed: Seed of the random numbers.
        fixed: (M, 3) index of the scene, row and column of tiles whose labels are corrected: no
            tile is shifted onto one of them, nor from its own place there.
        evidence: The composites that replace some tiles; None for none.
        reach: With composites, the dilation of the roads of each scene in pixels.
        until: The epoch from which on there are no composites.
    """

    tiles: TileDataset
    road_share: float
    max_invalid: float
    mean: Sequence[float]
    std: Sequence[float]
    augment: Augmentation | None
    seed: int
    fixed: NDArray[np.int64] | None = None
    evidence: Evidence | None = None
    reach: Sequence[float] = ()
    until: float = float("inf")

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitems__(self, keys: NDArray[np.int64]) -> Batch:
        """The tiles of a batch.

        Args:
            keys: (N, 3) epoch, index within the epoch, number of the tile; with composites
                (5, N, 3), see :class:`~vbp_lightning.data.tiles.sampling.BalancedBatches`.
        """
        if self.evidence is None:
            return self._augmented(keys)
        tiles, labels = self._augmented(keys[0])
        if keys[0, 0, 0] >= self.until:
            return tiles, labels
        for kind, places in self.evidence.places(keys[0, :, 1]).items():
            places = places[self._road_is_known[keys[1:, places, 2]].all(axis=0)]
            if len(places):
                tiles[places] = self._composites(kind, *keys[1:, places])
        return tiles, labels

    @cached_property
    def _road_is_known(self) -> NDArray[np.bool_]:
        """(N,) false for corrected tiles, whose road pixels may not be those of their label."""
        if self.fixed is None:
            return np.ones(len(self.tiles), bool)
        return ~overlapping(self.tiles.positions, self.fixed, 1)  # of 1 px: the same corner

    def _composites(
        self,
        kind: Kind,
        road: NDArray[np.int64],
        non_road: NDArray[np.int64],
        next_road: NDArray[np.int64],
        next_non_road: NDArray[np.int64],
    ) -> Tensor:
        """Composites (N, C, H, W) of one type, of the tiles of keys (N, 3)."""
        assert self.evidence is not None
        first, second = {
            "pasted": (road, non_road),
            "seam": (next_non_road, non_road),
            "removed": (non_road, road),
        }[kind]
        inside, outside = self._augmented(first)[0], self._augmented(second)[0]
        positions, symmetries = self._drawn(next_road if self.evidence.shuffled else road)[:2]
        masks = road_masks(self.tiles.store, positions, self.tiles.tile_size, self.tiles.context)
        weights = [
            feathered(oriented(mask[None], *symmetry)[0], self.reach[scene], self.evidence.feather)
            for mask, symmetry, scene in zip(
                masks, symmetries.tolist(), positions[:, 0].tolist(), strict=True
            )
        ]
        return outside + torch.from_numpy(np.stack(weights)[:, None]) * (inside - outside)

    def _drawn(
        self, keys: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]:
        """Positions (N, 3), symmetries (N, 3), and draws (N, 2) of the contrast and brightness."""
        epoch, index, number = keys.T
        positions = self.tiles.positions[number]
        if self.augment is None:
            return positions, np.zeros((len(keys), 3), bool), np.full((len(keys), 2), 0.5)
        draws = keyed_uniforms((self.seed, epoch, index), 7)
        if self.augment.jitter:
            labels = self.tiles.labels[number]
            positions = self._jittered(positions, labels, self.augment.jitter, draws[:, 5:7])
        allowed = (self.augment.flips, self.augment.flips, self.augment.rotations)
        return positions, (draws[:, :3] < 0.5) & np.array(allowed), draws[:, 3:5]

    def _augmented(self, keys: NDArray[np.int64]) -> Batch:
        """The tiles of keys (N, 3)."""
        if self.augment is None:
            return self.tiles.__getitems__(keys[:, 2])
        positions, symmetries, draws = self._drawn(keys)
        gain = 1 + self.augment.contrast * (2 * draws[:, :1] - 1)
        shift = self.augment.brightness * (2 * draws[:, 1:] - 1)
        offset = (1 - gain) * np.array(self.mean) + shift * np.array(self.std)
        labels = torch.from_numpy(self.tiles.labels[keys[:, 2]])
        return self._changed_crops(positions, symmetries, gain, offset), labels

    def _changed_crops(
        self,
        positions: NDArray[np.int64],
        symmetries: NDArray[np.bool_],
        gain: NDArray[np.float64],
        offset: NDArray[np.float64],
    ) -> Tensor:
        """Crops under symmetries (N, 3), times gain (N, 1), plus offset (N, C)."""
        store, context = self.tiles.store, self.tiles.context
        size = self.tiles.tile_size + 2 * context
        tiles = _empty_tiles(len(positions), len(store.fill), size)
        gains = gain.astype(np.float32)
        # Repeated for each pixel of a row: NumPy is slow on inner loops over few bands.
        offsets = np.tile(offset.astype(np.float32), (1, size))
        # Tile by tile, so that all passes over a tile find it in the processor's cache.
        for place, ((scene, row, col), symmetry) in enumerate(
            zip(positions.tolist(), symmetries.tolist(), strict=True)
        ):
            window = _window(store.bands[scene], row - context, col - context, size, store.fill)
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
        reach: int,
        draws: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """Positions shifted by up to ``reach`` pixels if the shifted tile has the same label."""
        store, size = self.tiles.store, self.tiles.tile_size
        shifted = positions.copy()
        shifted[:, 1:] += np.floor(draws * (2 * reach + 1)).astype(np.int64) - reach
        road, valid = np.zeros((2, len(positions)), dtype=np.int64)
        for place, (scene, row, col) in enumerate(shifted.tolist()):
            height, width = store.labels[scene].shape
            if 0 <= row <= height - size and 0 <= col <= width - size:
                window = store.labels[scene][row : row + size, col : col + size]
                road[place] = np.count_nonzero(window == ROAD_PIXEL)
                valid[place] = np.count_nonzero(window != INVALID_PIXEL)
        kept = (valid > 0) & ~exceeds(size**2 - valid, size**2, self.max_invalid)
        kept &= labels_of(road, np.maximum(valid, 1), self.road_share) == labels
        if self.fixed is not None:
            kept &= ~overlapping(shifted, self.fixed, size)
        return np.where(kept[:, None], shifted, positions)
