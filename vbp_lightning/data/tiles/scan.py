"""Everything that is found out about a data set before its first tile is used."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from vbp_lightning.data.datasets.scene import ImageLabel, Scene, Split, VectorLabels
from vbp_lightning.data.imagery.normalisation import BandStatistics
from vbp_lightning.data.imagery.reading import SceneInfo
from vbp_lightning.data.tiles.labelling import TileTable
from vbp_lightning.data.tiles.splits import Region, inner_footprint, overlaps
from vbp_lightning.data.tiles.store import ScannedScene, SceneStore


@dataclass(eq=False)
class Scan:
    """What a data set holds.

    Args:
        errors: Why it cannot be trained on, one line each; empty if it can.
        warnings: What its owner should know, one line each.
        found: Number of scenes that the source named.
        infos: The scenes that could be read, in order.
        regions: Their splits.
        tiles: Labelled tiles of each split.
        counts: Number of tiles by split and label name, and of those dropped.
        shared: Number of training tiles left out because val or test scenes show their ground too.
        store: The pixels; None where nothing could be read.
        scanned: What was counted in each scene.
        statistics: Of the valid training pixels; None where there are none.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    found: int = 0
    infos: list[SceneInfo] = field(default_factory=list)
    regions: dict[str, list[Region]] = field(default_factory=dict)
    tiles: dict[Split, TileTable] = field(default_factory=dict)
    counts: dict[Split, dict[str, int]] = field(default_factory=dict)
    shared: int = 0
    store: SceneStore | None = None
    scanned: list[ScannedScene] = field(default_factory=list)
    statistics: BandStatistics | None = None


def repeated_names(scenes: Sequence[Scene]) -> list[str]:
    """A line for each name that several scenes bear."""
    images: dict[str, list[Path]] = {}
    for scene in scenes:
        images.setdefault(scene.name, []).append(scene.image)
    return [
        f"{', '.join(map(str, paths))}: several scenes are called {name} (data.root): rename or "
        "remove all but one"
        for name, paths in images.items()
        if len(paths) > 1
    ]


def different_types(infos: Sequence[SceneInfo]) -> list[str]:
    """A line for each scene that differs from most in its bands or its type."""
    kinds = Counter((info.count, info.dtype.name) for info in infos)
    if len(kinds) < 2:
        return []
    (bands, dtype), _ = kinds.most_common(1)[0]
    return [
        f"{info.scene.image}: has {info.count} bands of {info.dtype.name}, most others {bands} of "
        f"{dtype}: choose common ones with data.bands or convert it (data.root)"
        for info in infos
        if (info.count, info.dtype.name) != (bands, dtype)
    ]


def too_small(infos: Sequence[SceneInfo], tile_size: int) -> list[str]:
    """A line for each scene that holds no tile."""
    return [
        f"{info.scene.image}: is {info.grid.width} × {info.grid.height} px, smaller than a tile "
        f"of {tile_size} px: leave the scene out or lower data.tile_size"
        for info in infos
        if min(info.grid.shape) < tile_size
    ]


def split_errors(
    split: Split,
    members: Sequence[ScannedScene],
    tiles: TileTable,
    counts: dict[str, int],
    shared: int,
    road_share: float,
    mask_threshold: float,
    optional: bool,
) -> list[str]:
    """Why a split cannot be used, all of whose scenes could be read.

    Args:
        split: Which.
        members: Scenes that hold ground of it.
        tiles: Its tiles.
        counts: How many of each label.
        shared: How many were left out for ground that other splits show too.
        road_share: Least road share of a road tile.
        mask_threshold: Values of a road mask above it are road.
        optional: Whether the config asks for none of it.
    """
    if not members:
        if optional:
            return []
        remedy = "" if split == "train" else f", or set data.{split}_fraction=0 to go without"
        return [f"data.root: no scene belongs to split {split}: add some{remedy}"]
    where = members[0].info.scene.image.parent
    if not len(tiles) and shared:
        return [
            f"{where}: split {split} has no tile left, {shared} show ground of other splits' scenes"
            " too: give scenes of one place one split, or add scenes elsewhere (data.root)"
        ]
    if not len(tiles):
        return [
            f"{where}: split {split} has no tile left, {counts['dropped']} hold too little "
            "imagery: raise data.max_invalid or add scenes"
        ]
    lines = []
    labels = members[0].info.scene.labels
    if isinstance(labels, ImageLabel):
        return [
            f"{where}: split {split} has no image labelled as {what} (data.source.road): add some, "
            "or draw other splits with data.split_seed"
            for name, what in (("road", "road"), ("non_road", "free of road"))
            if counts[name] == 0
        ]
    if not any(item.road_pixels for item in members) and isinstance(labels, Path):
        largest = max(item.largest_mask_value for item in members)
        lines.append(
            f"{labels.parent}: no road mask of split {split} has a road: the "
            f"largest value is {largest:g} and road lies above "
            f"data.mask_threshold={mask_threshold:g}: lower it or add scenes with roads"
        )
    elif counts["road"] == 0:
        largest_share = float(tiles.shares.max())
        remedy = "lower it or add scenes"
        if isinstance(labels, VectorLabels):
            remedy = "lower it, check that the vectors lie on the images, or add scenes"
        lines.append(
            f"{where}: split {split} has no road tile: the largest road share is "
            f"{largest_share:.3g}, below data.road_share={road_share:g}: {remedy}"
        )
    if counts["non_road"] == 0:
        lines.append(
            f"{where}: split {split} has no non-road tile, every one holds some road: add "
            "scenes, or lower data.tile_size"
        )
    return lines


def shared_ground(
    infos: Sequence[SceneInfo], regions: dict[str, list[Region]], left_out: int
) -> list[str]:
    """What is to be said where scenes of different splits show the same ground.

    Args:
        infos: All scenes.
        regions: Their splits.
        left_out: Number of training tiles that were left out for it.
    """
    pairs = overlaps(infos)
    lines = []
    if left_out:
        example = _first(infos, regions, pairs, "train", ("val", "test"))
        lines.append(
            f"{left_out} training tiles are left out: they show ground that val or test scenes show"
            f" too{example} (data.root)"
        )
    if example := _first(infos, regions, pairs, "val", ("test",)):
        lines.append(
            f"Scenes of val and test show the same ground{example}: the choice of the best epoch "
            "flatters figures on test (data.root)"
        )
    return lines


def _first(
    infos: Sequence[SceneInfo],
    regions: dict[str, list[Region]],
    pairs: Sequence[tuple[int, int]],
    split: Split,
    others: Sequence[Split],
) -> str:
    """Names the first two scenes of which one shows ground of a split, the other of others."""

    def parts(number: int, splits: Sequence[Split]) -> NDArray[np.object_]:
        info = infos[number]
        own = [region for region in regions[info.scene.name] if region.split in splits]
        return np.array([inner_footprint(info.grid, region) for region in own], dtype=object)

    for pair in pairs:
        for one, other in (pair, pair[::-1]):
            apart = parts(one, (split,))[:, None], parts(other, others)[None]
            if shapely.intersects(*apart).any():
                return f", as {infos[one].scene.image} and {infos[other].scene.image}"
    return ""
