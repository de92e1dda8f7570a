"""Where the tiles of each scene lie and what they are for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from vbp_lightning.data.datasets.scene import SPLITS
from vbp_lightning.data.imagery.extent import footprint
from vbp_lightning.data.imagery.reading import SceneInfo
from vbp_lightning.data.tiles.grid import tile_grid
from vbp_lightning.data.tiles.splits import Region, inner_footprint, overlaps, split_of_tiles


@dataclass(frozen=True)
class TilePlan:
    """Where the tiles of a scene lie and what they are for.

    Args:
        corners: (N, 2) rows and columns of upper-left corners.
        splits: (N,) places in ``SPLITS``.
    """

    corners: NDArray[np.int64]
    splits: NDArray[np.int64]


def plan_tiles(
    infos: Sequence[SceneInfo],
    regions: Mapping[str, Sequence[Region]],
    tile_size: int,
    train_stride: int,
    stride: int,
    cover_edges: bool,
    margin: int,
) -> list[TilePlan]:
    """The tiles of each scene, training and held-out ones on grids of their own.

    Args:
        infos: The scenes.
        regions: The splits of each.
        tile_size: Tile size in pixels.
        train_stride: Distance between training tiles in pixels.
        stride: Distance between other tiles in pixels.
        cover_edges: Whether last tiles, shifted inwards, take what the strides leave.
        margin: Pixels between training tiles and held-out pixels, in scenes that are divided.
    """
    plans = []
    for info in infos:
        shape, own = info.grid.shape, regions[info.scene.name]
        kept = margin if len(own) > 1 else 0
        corners, splits = [], []
        for is_training, step in ((True, train_stride), (False, stride)):
            grid = tile_grid(shape, tile_size, step, cover_edges)
            places = split_of_tiles(grid, tile_size, kept, own, shape)
            chosen = places == 0 if is_training else places > 0
            corners.append(grid[chosen])
            splits.append(places[chosen])
        plans.append(TilePlan(np.concatenate(corners), np.concatenate(splits)))
    return plans


def without_shared_ground(
    infos: Sequence[SceneInfo],
    plans: Sequence[TilePlan],
    regions: Mapping[str, Sequence[Region]],
    tile_size: int,
    margin: int,
) -> list[TilePlan]:
    """Plans less the training tiles that come near held-out ground of another scene.

    Args:
        infos: All scenes.
        plans: The tiles of each.
        regions: The splits of each.
        tile_size: Tile size in pixels.
        margin: Pixels around a training tile that must not be held out either.
    """
    training = SPLITS.index("train")
    kept = [np.ones(len(plan.corners), dtype=bool) for plan in plans]
    side = tile_size + 2 * margin - 1
    for pair in overlaps(infos):
        for one, other in (pair, pair[::-1]):
            own = np.flatnonzero(plans[one].splits == training)
            held_out = [
                inner_footprint(infos[other].grid, r)
                for r in regions[infos[other].scene.name]
                if r.split != "train"
            ]
            if len(own) == 0 or not held_out:
                continue
            tiles = [
                footprint(infos[one].grid, row - margin + 0.5, col - margin + 0.5, side, side)
                for row, col in plans[one].corners[own].tolist()
            ]
            hit, _ = shapely.STRtree(held_out).query(tiles, predicate="intersects")
            kept[one][own[np.unique(hit)]] = False
    return [
        TilePlan(plan.corners[keep], plan.splits[keep])
        for plan, keep in zip(plans, kept, strict=True)
    ]
