"""The positions of the tiles of each scene, and the split of each tile."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from vbp_lightning.data.datasets.scene import SPLITS
from vbp_lightning.data.imagery.extent import (
    Ball,
    ball,
    ground_sampling_distance,
    overlap_on_ground,
    pixels_of,
)
from vbp_lightning.data.imagery.reading import SceneInfo
from vbp_lightning.data.tiles.grid import tile_grid
from vbp_lightning.data.tiles.splits import Region, Regions, rectangles

_TRAIN = SPLITS.index("train")

_HALF = 0.5
"""Pixels that outlines are moved inwards, so that scenes that only touch do not intersect."""

_CHUNK = 100_000
"""Tiles whose outlines exist at once: each takes some 400 bytes."""


@dataclass(frozen=True, eq=False)
class TilePlan:
    """The tiles of a scene.

    Args:
        corners: (N, 2) rows and columns of upper-left corners.
        splits: (N,) indices into ``SPLITS``.
        shared: Number of training tiles that are excluded because a scene of another split shows
            their extent too.
    """

    corners: NDArray[np.int64]
    splits: NDArray[np.int64]
    shared: int


def overlaps(infos: Sequence[SceneInfo]) -> list[tuple[int, int]]:
    """Pairs of scenes whose extents overlap by more than a pixel at their borders.

    Args:
        infos: Scenes; those that are not georeferenced are not compared.

    Returns:
        Indices into ``infos``, the smaller one first, in ascending order.
    """
    placed = [n for n, info in enumerate(infos) if ground_sampling_distance(info.grid) is not None]
    if not placed:
        return []
    balls = [ball(infos[number].grid) for number in placed]
    every = Ball(np.stack([each.centre for each in balls]), np.array([e.radius for e in balls]))
    found = []
    for n, (first, own) in enumerate(zip(placed, balls, strict=True)):
        for other in np.flatnonzero(every.touches(own)[:n]).tolist():
            if overlap_on_ground(infos[first].grid, infos[placed[other]].grid, _HALF):
                found.append((placed[other], first))
    return sorted(found)


def intersecting(shapes: NDArray[np.object_], others: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Whether each shape (N,) intersects any of the others (M,)."""
    found = np.zeros(len(shapes), dtype=bool)
    found[shapely.STRtree(others).query(shapes, predicate="intersects")[0]] = True
    return found


def assign_tiles(
    corners: NDArray[np.int64], tile_size: int, margin: int, regions: Sequence[Region]
) -> NDArray[np.int64]:
    """The split that each tile of a scene belongs to.

    A tile belongs to a split if all of its pixels do, and to the training split only if every
    held-out pixel is more than ``margin`` pixels away from it along a row or a column.

    Args:
        corners: (N, 2) rows and columns of upper-left corners; every tile lies inside the scene.
        tile_size: Tile size in pixels.
        margin: Pixels.
        regions: Of the scene.

    Returns:
        (N,) indices into ``SPLITS``; -1 for none.
    """
    # A quarter of a pixel inwards, so that tiles do not intersect regions that they only touch.
    extent = shapely.union_all(rectangles(regions))
    shapely.prepare(extent)
    others = [rectangles([r for r in regions if r.split != split]) for split in SPLITS]
    splits = np.full(len(corners), -1, np.int64)
    for chunk in _chunks(len(corners)):
        tiles = _squares(corners[chunk], tile_size, -0.25)
        widened = _squares(corners[chunk], tile_size, margin - 0.25)
        covered = shapely.covers(extent, tiles)
        for number in range(len(SPLITS)):
            touched = intersecting(widened if number == _TRAIN else tiles, others[number])
            splits[chunk][covered & ~touched] = number
    return splits


def _chunks(count: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, count, _CHUNK)]


def _squares(corners: NDArray[np.int64], tile_size: int, widened: float) -> NDArray[np.object_]:
    """Outlines of tiles, widened on all sides by some pixels."""
    rows, cols = corners.T
    low, high = -widened, tile_size + widened
    squares: NDArray[np.object_] = shapely.box(cols + low, rows + low, cols + high, rows + high)
    return squares


def plan_tiles(
    infos: Sequence[SceneInfo],
    regions: Regions,
    pairs: Sequence[tuple[int, int]],
    tile_size: int,
    train_stride: int,
    stride: int,
    cover_edges: bool,
    margin: int,
    added: NDArray[np.int64] | None = None,
) -> list[TilePlan]:
    """The tiles of each scene; training tiles lie on a grid of their own.

    Training tiles keep a margin from the held-out pixels of their own scene and of all scenes that
    overlap it.

    Args:
        infos: All scenes.
        regions: The splits of each.
        pairs: Indices of the scenes that overlap.
        tile_size: Tile size in pixels.
        train_stride: Distance between training tiles in pixels.
        stride: Distance between other tiles in pixels.
        cover_edges: Whether last tiles, shifted inwards, cover the pixels beyond the last stride.
        margin: Pixels between training tiles and held-out pixels.
        added: (N, 3) index of the scene, row and column of further training tiles.
    """
    neighbours: dict[int, list[SceneInfo]] = defaultdict(list)
    for first, second in pairs:
        neighbours[first].append(infos[second])
        neighbours[second].append(infos[first])
    plans = []
    for number, info in enumerate(infos):
        shape, own = info.grid.shape, regions[info.scene.name]
        held = tile_grid(shape, tile_size, stride, cover_edges)
        splits = assign_tiles(held, tile_size, margin, own)
        held, splits = held[splits > _TRAIN], splits[splits > _TRAIN]
        train = tile_grid(shape, tile_size, train_stride, cover_edges)
        if added is not None and (here := added[:, 0] == number).any():
            train = np.unique(np.concatenate([train, added[here, 1:]]), axis=0)
        train = train[assign_tiles(train, tile_size, margin, own) == _TRAIN]
        shared = np.zeros(len(train), dtype=bool)
        for other in neighbours[number]:
            parts = [r for r in regions[other.scene.name] if r.split != "train"]
            held_out = rectangles(parts, _HALF)
            for chunk in _chunks(len(train)):
                widened = _squares(train[chunk], tile_size, margin - _HALF)
                moved = pixels_of(other.grid, widened, info.grid)
                shared[chunk] |= intersecting(moved, held_out)
        train = train[~shared]
        plans.append(
            TilePlan(
                np.concatenate([train, held]),
                np.concatenate([np.full(len(train), _TRAIN), splits]),
                int(np.count_nonzero(shared)),
            )
        )
    return plans
