"""The scan of a data set: its contents and its errors, found before training."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

from vbp_lightning.data.datasets.scene import ImageLabel, Scene, Split, VectorLabels
from vbp_lightning.data.imagery.extent import pixels_of
from vbp_lightning.data.imagery.mask_values import MaskValues
from vbp_lightning.data.imagery.normalisation import BandStatistics
from vbp_lightning.data.imagery.reading import SceneInfo
from vbp_lightning.data.tiles.corrections import Corrections
from vbp_lightning.data.tiles.planning import intersecting
from vbp_lightning.data.tiles.splits import Region, Regions, rectangles
from vbp_lightning.data.tiles.store import ScannedScene, SceneStore
from vbp_lightning.data.tiles.tile_table import TileTable


@dataclass(eq=False)
class Scan:
    """The contents and the errors of a data set.

    Args:
        errors: The reasons why training cannot run, one line each; empty if it can run.
        warnings: Warnings, one line each.
        found: Number of scenes that the layout returned.
        scanned: The scenes that could be read, in order.
        regions: Their splits.
        tiles: Labelled tiles of each split.
        shared: Number of training tiles that are excluded because val or test scenes show their
            extent too.
        store: The pixels; None if nothing could be read.
        statistics: Of the valid training pixels; None if there are none.
        corrections: Of labels, in the scenes that are used.
        left_out: Number of training tiles that are left out because they overlap a correction.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    found: int = 0
    scanned: list[ScannedScene] = field(default_factory=list)
    regions: dict[str, list[Region]] = field(default_factory=dict)
    tiles: dict[Split, TileTable] = field(default_factory=dict)
    shared: int = 0
    store: SceneStore | None = None
    statistics: BandStatistics | None = None
    corrections: Corrections = field(default_factory=Corrections)
    left_out: int = 0

    @property
    def infos(self) -> list[SceneInfo]:
        """The scenes that could be read, in order."""
        return [item.info for item in self.scanned]


def repeated_names(scenes: Sequence[Scene]) -> list[str]:
    """One line for each name that several scenes have."""
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
    """One line for each scene that differs from the majority in its bands or its data type."""
    types = Counter((info.count, info.dtype.name) for info in infos)
    if len(types) < 2:
        return []
    (bands, dtype), _ = types.most_common(1)[0]
    return [
        f"{info.scene.image}: has {info.count} bands of {info.dtype.name}, most others {bands} of "
        f"{dtype}: choose common ones with data.bands or convert it (data.root)"
        for info in infos
        if (info.count, info.dtype.name) != (bands, dtype)
    ]


def too_small(infos: Sequence[SceneInfo], tile_size: int) -> list[str]:
    """One line for each scene that is smaller than a tile."""
    return [
        f"{info.scene.image}: is {info.grid.width} × {info.grid.height} px, smaller than a tile "
        f"of {tile_size} px: leave the scene out or lower data.tile_size"
        for info in infos
        if min(info.grid.shape) < tile_size
    ]


def split_errors(
    scan: Scan, split: Split, road_share: float, values: MaskValues, optional: bool
) -> list[str]:
    """The reasons why a split cannot be used, one line each.

    Args:
        scan: The scan; all scenes of the split could be read.
        split: The split.
        road_share: Smallest road share of a road tile.
        values: The meaning of the values of road masks.
        optional: Whether the split may be empty.
    """
    members = _members(scan, split)
    if not members:
        if optional:
            return []
        remedy = "" if split == "train" else f", or set data.{split}_fraction=0 to go without"
        return [f"data.root: no scene belongs to split {split}: add some{remedy}"]
    tiles, labels = scan.tiles[split], members[0].info.scene.labels
    where = f"{members[0].info.scene.image.parent}: split {split} has no"
    if not len(tiles) and split == "train" and scan.shared:
        return [
            f"{where} tile left, {scan.shared} overlap scenes of other splits: give overlapping "
            "scenes one split, or add scenes elsewhere (data.root)"
        ]
    if not len(tiles):
        return [
            f"{where} tile left, {tiles.dropped} hold too little imagery: raise data.max_invalid "
            "or add scenes"
        ]
    if isinstance(labels, ImageLabel):
        return [
            f"{where} image labelled as {what} (data.source.road): add some, or draw other splits "
            "with data.split_seed"
            for name, what in (("road", "road"), ("non_road", "free of road"))
            if tiles.counts[name] == 0
        ]
    lines = []
    if not any(item.road_pixels for item in members) and isinstance(labels, Path):
        largest = max(item.largest_mask_value for item in members)
        lines.append(
            f"{labels.parent}: no road mask of split {split} has a road: the largest value is "
            f"{largest:g} and {values}: change it or add scenes with roads"
        )
    elif tiles.counts["road"] == 0:
        check = "check that the vectors lie on the images, " * isinstance(labels, VectorLabels)
        lines.append(
            f"{where} road tile: the largest road share is {tiles.shares.max():.3g}, below "
            f"data.road_share={road_share:g}: lower it, {check}or add scenes"
        )
    if tiles.counts["non_road"] == 0:
        lines.append(
            f"{where} non-road tile, every one holds some road: add scenes, or lower data.tile_size"
        )
    return lines


def _members(scan: Scan, split: Split) -> list[ScannedScene]:
    """The scenes that have a part in a split."""
    return [
        item
        for item in scan.scanned
        if any(region.split == split for region in scan.regions[item.info.scene.name])
    ]


def no_road_pixels(scan: Scan) -> list[str]:
    """The reason why a training cannot make composites, if there is one."""
    roads = [item for item in _members(scan, "train") if item.road_pixels]
    if not roads or not all(isinstance(item.info.scene.labels, ImageLabel) for item in roads):
        return []
    return [
        f"{roads[0].info.scene.image.parent}: whole images are labelled, so that it is not known"
        " which pixels are road (data.evidence): choose evidence=none, or data with road pixels"
    ]


def other_scales(scanned: Sequence[ScannedScene], values: MaskValues) -> list[str]:
    """A warning if some road masks have no road, but low values that may mean road.

    Args:
        scanned: The scenes.
        values: The meaning of the values of road masks.
    """
    masks = [item for item in scanned if isinstance(item.info.scene.labels, Path)]
    low = [item for item in masks if 0 < item.largest_mask_value <= values.threshold]
    if values.road is not None or not low or not any(item.road_pixels for item in masks):
        return []
    return [
        f"{len(low)} of {len(masks)} road masks have no road, but values up to "
        f"{max(item.largest_mask_value for item in low):g}, as {low[0].info.scene.labels}, and "
        f"{values}: if they mean road there, store all road masks alike (data.root)"
    ]


def overlap_warnings(
    infos: Sequence[SceneInfo], regions: Regions, pairs: Sequence[tuple[int, int]], shared: int
) -> list[str]:
    """Warnings about scenes of different splits that show the same extent.

    Args:
        infos: All scenes.
        regions: Their splits.
        pairs: Indices of the scenes that overlap.
        shared: Number of training tiles that were excluded for this reason.
    """

    def example(split: Split, others: Sequence[Split]) -> str:
        """Names the first two overlapping scenes, one of a split and one of the others."""
        for pair in pairs:
            for one, other in permutations(infos[number] for number in pair):
                own = rectangles([r for r in regions[one.scene.name] if r.split == split], 0.5)
                theirs = [r for r in regions[other.scene.name] if r.split in others]
                moved = pixels_of(other.grid, own, one.grid)
                if intersecting(moved, rectangles(theirs, 0.5)).any():
                    return f", as {one.scene.image} and {other.scene.image}"
        return ""

    lines = []
    if shared:
        lines.append(
            f"{shared} training tiles are left out: they overlap val or test scenes"
            f"{example('train', ('val', 'test'))} (data.root)"
        )
    if scenes := example("val", ("test",)):
        lines.append(
            f"Scenes of val and test overlap{scenes}: choosing the best epoch on val inflates the "
            "scores on test (data.root)"
        )
    return lines
