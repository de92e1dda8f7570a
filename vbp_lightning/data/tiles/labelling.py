"""The tiles of a data set as columns: millions of them fit into memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from vbp_lightning.data.datasets.scene import Split
from vbp_lightning.data.imagery.reading import SceneInfo
from vbp_lightning.data.tiles.grid import exceeds, labels_of, tile_bounds
from vbp_lightning.data.tiles.tile import Label, LabelledTile, Tile


class TileTable(Sequence[LabelledTile]):
    """The labelled tiles of a split; each record is made when it is asked for.

    Args:
        infos: The scenes.
        split: The split of all tiles.
        positions: (N, 3) number of the scene, row and column.
        shares: (N,) road share of the valid pixels.
        labels: (N,) values of :class:`Label`.
        tile_size: Tile size in pixels.
    """

    def __init__(
        self,
        infos: Sequence[SceneInfo],
        split: Split,
        positions: NDArray[np.int64],
        shares: NDArray[np.float64],
        labels: NDArray[np.int64],
        tile_size: int,
    ) -> None:
        self.infos = infos
        self.split = split
        self.positions = positions
        self.shares = shares
        self.labels = labels
        self.tile_size = tile_size

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> LabelledTile: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[LabelledTile]: ...

    def __getitem__(self, index: int | slice) -> LabelledTile | Sequence[LabelledTile]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        scene, row, col = self.positions[index].tolist()
        info = self.infos[scene]
        return LabelledTile(
            tile=Tile(info.scene.name, row, col),
            bounds=tile_bounds(info.grid.transform, row, col, self.tile_size),
            share=float(self.shares[index]),
            label=Label(int(self.labels[index])),
            split=self.split,
        )

    def __eq__(self, other: object) -> bool:
        """Tables are equal to sequences of equal tiles."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(
            mine == theirs for mine, theirs in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class CountedTiles:
    """The tiles of one scene with what their pixels hold.

    Args:
        corners: (N, 2) rows and columns of upper-left corners.
        splits: (N,) places in ``SPLITS``.
        road: (N,) valid road pixels.
        valid: (N,) valid pixels.
    """

    corners: NDArray[np.int64]
    splits: NDArray[np.int64]
    road: NDArray[np.int64]
    valid: NDArray[np.int64]


def label_tiles(
    infos: Sequence[SceneInfo],
    counted: Sequence[CountedTiles],
    split: Split,
    number: int,
    tile_size: int,
    road_share: float,
    max_invalid: float,
) -> tuple[TileTable, dict[str, int]]:
    """The tiles of a split, and how many there are of each label.

    Args:
        infos: The scenes.
        counted: The tiles of each scene.
        split: Which.
        number: Its place in ``SPLITS``.
        tile_size: Tile size in pixels.
        road_share: Least road share of a road tile.
        max_invalid: Largest share of invalid pixels; tiles above it are dropped.

    Returns:
        The tiles that are kept, and counts by label name in lower case and of those ``dropped``.
    """
    positions, roads, valids = [], [], []
    for scene, tiles in enumerate(counted):
        own = tiles.splits == number
        corners = tiles.corners[own]
        positions.append(np.insert(corners, 0, scene, axis=1))
        roads.append(tiles.road[own])
        valids.append(tiles.valid[own])
    places = np.concatenate([np.zeros((0, 3), np.int64), *positions])
    road = np.concatenate([np.zeros(0, np.int64), *roads])
    valid = np.concatenate([np.zeros(0, np.int64), *valids])
    kept = (valid > 0) & ~exceeds(tile_size**2 - valid, tile_size**2, max_invalid)
    places, road, valid = places[kept], road[kept], valid[kept]
    labels = labels_of(road, valid, road_share)
    table = TileTable(infos, split, places, road / np.maximum(valid, 1), labels, tile_size)
    counts = {
        label.name.lower(): int(np.count_nonzero(labels == label)) for label in reversed(Label)
    }
    return table, counts | {"dropped": int(np.count_nonzero(~kept))}
