"""The labelled tiles of a split, held as arrays: a million of them take 40 MB."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from vbp_lightning.data.datasets.scene import SPLITS, Split
from vbp_lightning.data.imagery.reading import SceneInfo
from vbp_lightning.data.tiles.grid import exceeds, labels_of, tile_bounds
from vbp_lightning.data.tiles.store import ScannedScene
from vbp_lightning.data.tiles.tile import ANSWERS, Label, LabelledTile, Tile


@dataclass(frozen=True, eq=False)
class TileTable(Sequence[LabelledTile]):
    """The labelled tiles of a split; indexing makes the record of a tile.

    Args:
        infos: The scenes.
        split: The split of all tiles.
        positions: (N, 3) index of the scene, row and column.
        shares: (N,) road share of the valid pixels.
        labels: (N,) values of :class:`~vbp_lightning.data.tiles.tile.Label`.
        tile_size: Tile size in pixels.
        dropped: Number of further tiles that hold too little imagery.
        answers: (N,) indices into :data:`~vbp_lightning.data.tiles.tile.ANSWERS` of the
            corrections; -1 for none.
    """

    infos: Sequence[SceneInfo]
    split: Split
    positions: NDArray[np.int64]
    shares: NDArray[np.float64]
    labels: NDArray[np.int64]
    tile_size: int
    dropped: int
    answers: NDArray[np.int64]

    @property
    def ignored_by_hand(self) -> NDArray[np.bool_]:
        """(N,) whether each tile belongs to no metric at all, since a person said so."""
        chosen: NDArray[np.bool_] = (self.answers >= 0) & (self.labels == Label.IGNORED)
        return chosen

    @property
    def counts(self) -> dict[str, int]:
        """Number of tiles by label name in lower case, and of those ``dropped``."""
        counts = {
            label.name.lower(): int(np.count_nonzero(self.labels == label))
            for label in reversed(Label)
        }
        return counts | {"dropped": self.dropped}

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
        info, answer = self.infos[scene], int(self.answers[index])
        return LabelledTile(
            tile=Tile(info.scene.name, row, col),
            bounds=tile_bounds(info.grid.transform, row, col, self.tile_size),
            share=float(self.shares[index]),
            label=Label(int(self.labels[index])),
            split=self.split,
            answer=ANSWERS[answer] if answer >= 0 else "",
        )


def label_tiles(
    scanned: Sequence[ScannedScene],
    split: Split,
    tile_size: int,
    road_share: float,
    max_invalid: float,
) -> TileTable:
    """Labels the tiles of a split.

    Args:
        scanned: The scenes.
        split: The split.
        tile_size: Tile size in pixels.
        road_share: Smallest road share of a road tile.
        max_invalid: Largest share of invalid pixels; tiles above it are dropped.

    Returns:
        The tiles that are kept, by scene and then in the order of the plans.
    """
    members = [item.plan.splits == SPLITS.index(split) for item in scanned]
    columns = [
        np.column_stack([np.full(len(own), scene), item.plan.corners, item.road, item.valid])[own]
        for scene, (item, own) in enumerate(zip(scanned, members, strict=True))
    ]
    table = np.concatenate([np.zeros((0, 5), np.int64), *columns])
    road, valid = table[:, 3], table[:, 4]
    kept = (valid > 0) & ~exceeds(tile_size**2 - valid, tile_size**2, max_invalid)
    road, valid = road[kept], valid[kept]
    return TileTable(
        infos=[item.info for item in scanned],
        split=split,
        positions=table[kept, :3],
        shares=road / valid,
        labels=labels_of(road, valid, road_share),
        tile_size=tile_size,
        dropped=int(np.count_nonzero(~kept)),
        answers=np.full(np.count_nonzero(kept), -1),
    )
