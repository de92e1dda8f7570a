"""Which ground trains, which chooses the model and which judges it."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from vbp_lightning.data.datasets.scene import SPLITS, DataError, Split
from vbp_lightning.data.imagery.extent import PixelGrid, footprint, ground_sampling_distance
from vbp_lightning.data.imagery.reading import SceneInfo
from vbp_lightning.files import replacing

_FIELDS = ("scene", "row", "col", "height", "width", "split")


@dataclass(frozen=True)
class Region:
    """A rectangle of a scene that belongs to one split, in pixels.

    Args:
        row: First row.
        col: First column.
        height: Rows.
        width: Columns.
        split: Where it belongs.
    """

    row: int
    col: int
    height: int
    width: int
    split: Split


Regions = Mapping[str, Sequence[Region]]
"""The regions of each scene, by its name; they do not overlap."""


def draw_splits(
    groups: Sequence[Sequence[str]], val_fraction: float, test_fraction: float, seed: int
) -> dict[str, Split]:
    """Draws the split of each item; the items of a group stay together.

    A split of a positive fraction gets at least one group, as long as one is left to train. The
    result does not depend on the order of groups and items.

    Args:
        groups: Names, no name twice.
        val_fraction: Part of the items that validates, in [0, 1).
        test_fraction: Part of the items that tests, in [0, 1).
        seed: Of the draw.

    Returns:
        Split by name.
    """
    total = sum(map(len, groups))
    ordered = sorted(groups, key=min)
    left = [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]
    drawn: dict[str, Split] = {}
    fractions: tuple[tuple[Split, float], ...] = (("test", test_fraction), ("val", val_fraction))
    for split, fraction in fractions:
        wanted = max(1, round(fraction * total)) if fraction > 0 else 0
        taken = 0
        while taken < wanted and len(left) > 1:
            group = left.pop()
            drawn |= dict.fromkeys(group, split)
            taken += len(group)
    return drawn | {name: "train" for group in left for name in group}


def overlaps(infos: Sequence[SceneInfo]) -> list[tuple[int, int]]:
    """Pairs of scenes that show the same ground, by more than a pixel at their borders.

    Args:
        infos: Scenes; those without a place on the map are not compared.

    Returns:
        Places in ``infos``, the smaller first, in order.
    """
    placed = [
        number
        for number, info in enumerate(infos)
        if ground_sampling_distance(info.grid) is not None
    ]
    shapes = np.array(
        [
            inner_footprint(infos[number].grid, Region(0, 0, *infos[number].grid.shape, "train"))
            for number in placed
        ],
        dtype=object,
    )
    if len(shapes) < 2:
        return []
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    return sorted(
        (placed[a], placed[b])
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
        if a < b
    )


def inner_footprint(grid: PixelGrid, part: Region) -> shapely.Polygon:
    """The outline of a part of a scene less half a pixel all around, in degrees (WGS 84).

    Neighbours that only touch do not meet.

    Args:
        grid: The scene's, georeferenced.
        part: Which part.
    """
    return footprint(grid, part.row + 0.5, part.col + 0.5, part.height - 1, part.width - 1)


def scene_regions(
    infos: Sequence[SceneInfo], val_fraction: float, test_fraction: float, seed: int
) -> dict[str, list[Region]]:
    """Whole scenes, each in the split that it has or in a drawn one.

    Undecided scenes that overlap are drawn together. One that overlaps a scene with a split of its
    own follows it, the test split before the validation split before the training split.

    Args:
        infos: All scenes.
        val_fraction: Part of the undecided scenes that validates.
        test_fraction: Part of the undecided scenes that tests.
        seed: Of the draw.
    """
    groups = _components(len(infos), overlaps(infos))
    splits: dict[str, Split] = {}
    undecided: list[list[str]] = []
    for group in groups:
        names = [infos[number].scene.name for number in group]
        given = {infos[number].scene.split for number in group} - {None}
        own = next((split for split in reversed(SPLITS) if split in given), None)
        if own is None:
            undecided.append(names)
        else:
            splits |= dict.fromkeys(names, own)
    splits |= draw_splits(undecided, val_fraction, test_fraction, seed)
    return {
        info.scene.name: [
            Region(0, 0, *info.grid.shape, info.scene.split or splits[info.scene.name])
        ]
        for info in infos
    }


def block_regions(
    infos: Sequence[SceneInfo],
    size: float,
    unit: str,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> dict[str, list[Region]]:
    """Scenes cut into blocks, each block in a drawn split.

    Args:
        infos: All scenes; those with a split of their own stay whole.
        size: Side of a block; the last ones of a scene are the smaller, or take up a remainder of
            less than half a block.
        unit: ``px`` or ``m``.
        val_fraction: Part of the blocks that validates.
        test_fraction: Part of the blocks that tests.
        seed: Of the draw.

    Raises:
        DataError: Metres are asked for where a scene's ground size is not known.
    """
    lines = []
    blocks: dict[str, tuple[str, int, int, int, int]] = {}
    regions: dict[str, list[Region]] = {}
    for info in infos:
        name = info.scene.name
        regions[name] = []
        if info.scene.split is not None:
            regions[name].append(Region(0, 0, *info.grid.shape, info.scene.split))
            continue
        metres = ground_sampling_distance(info.grid) if unit == "m" else (1.0, 1.0)
        if metres is None:
            lines.append(
                f"{info.scene.image}: is not georeferenced, so that blocks of metres cannot be "
                "laid over it (data.block_unit): give the size of blocks in px"
            )
            continue
        rows = _cuts(info.grid.height, size / metres[1])
        cols = _cuts(info.grid.width, size / metres[0])
        for top, bottom in rows:
            for left, right in cols:
                key = f"{name}\0{top:09d}\0{left:09d}"
                blocks[key] = (name, top, left, bottom - top, right - left)
    if lines:
        raise DataError(*lines)
    drawn = draw_splits([[key] for key in blocks], val_fraction, test_fraction, seed)
    for key, (name, row, col, height, width) in blocks.items():
        regions[name].append(Region(row, col, height, width, drawn[key]))
    return regions


def _cuts(length: int, size: float) -> list[tuple[int, int]]:
    """First and past-the-end pixels of blocks along an axis."""
    count = max(1, round(length / size))
    edges = [min(length, round(number * size)) for number in range(count)] + [length]
    return list(pairwise(edges))


def read_regions(path: Path, infos: Sequence[SceneInfo]) -> dict[str, list[Region]]:
    """Reads a split that a run has written, or a list of one's own.

    Args:
        path: A CSV with the columns ``scene`` and ``split``, and either none or all of ``row``,
            ``col``, ``height`` and ``width``; without them a line is about a whole scene.
        infos: All scenes.

    Raises:
        DataError: The file cannot be used or leaves a scene out; one line for each fault.
    """
    key = "(data.split_file)"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a CSV ({error}) {key}: give another") from error
    if not rows or not {"scene", "split"} <= rows[0].keys():
        raise DataError(f"{path}: needs a header with scene and split, and lines below it {key}")
    by_name = {info.scene.name: info for info in infos}
    regions: dict[str, list[Region]] = {name: [] for name in by_name}
    lines = []
    for number, row in enumerate(rows, 2):
        name, split = row["scene"], row["split"]
        if name not in by_name:
            continue
        if split not in SPLITS:
            lines.append(
                f"{path}: line {number} says split {split!r} {key}: say one of {', '.join(SPLITS)}"
            )
            continue
        grid = by_name[name].grid
        try:
            place = (
                [int(row[field]) for field in _FIELDS[1:5]] if "row" in row else [0, 0, *grid.shape]
            )
            inside = min(place) >= 0 and place[0] + place[2] <= grid.height
            inside = inside and place[1] + place[3] <= grid.width
        except (KeyError, TypeError, ValueError):
            inside = False
            place = []
        if not inside:
            lines.append(
                f"{path}: line {number} is no rectangle inside scene {name} of {grid.width} × "
                f"{grid.height} px {key}: give row, col, height and width in pixels"
            )
            continue
        regions[name].append(Region(place[0], place[1], place[2], place[3], split))
    lines += [
        f"{path}: says nothing of scene {name} {key}: add it, or leave the scene out"
        for name, own in regions.items()
        if not own and not lines
    ]
    for name, own in regions.items():
        if _overlapping(own):
            lines.append(f"{path}: has overlapping rectangles in scene {name} {key}: separate them")
    if lines:
        raise DataError(*lines)
    return regions


def _overlapping(regions: Sequence[Region]) -> bool:
    boxes = shapely.box(
        [r.col for r in regions],
        [r.row for r in regions],
        [r.col + r.width for r in regions],
        [r.row + r.height for r in regions],
    )
    total = sum(r.height * r.width for r in regions)
    return bool(len(regions)) and round(shapely.area(shapely.union_all(boxes))) < total


def write_regions(path: Path, regions: Regions) -> None:
    """Writes a split so that ``read_regions`` reads it back.

    Raises:
        OSError: The file cannot be written; an older one stays as it was.
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_FIELDS)
        for name, own in regions.items():
            writer.writerows(
                (name, region.row, region.col, region.height, region.width, region.split)
                for region in own
            )


def split_of_tiles(
    corners: NDArray[np.int64],
    tile_size: int,
    margin: int,
    regions: Sequence[Region],
    shape: tuple[int, int],
) -> NDArray[np.int64]:
    """The split that each tile of a scene belongs to.

    A tile belongs to a split if all of its pixels do, and to the training split only if every
    held-out pixel is more than ``margin`` pixels away from it along a row or a column.

    Args:
        corners: (N, 2) rows and columns of upper-left corners; every tile lies inside.
        tile_size: Tile size in pixels.
        margin: Pixels.
        regions: Of the scene.
        shape: Height and width of the scene in pixels.

    Returns:
        (N,) places in ``SPLITS``; -1 for none.
    """
    row_edges = np.unique([0, shape[0], *(e for r in regions for e in (r.row, r.row + r.height))])
    col_edges = np.unique([0, shape[1], *(e for r in regions for e in (r.col, r.col + r.width))])
    cells = np.full((len(row_edges) - 1, len(col_edges) - 1), -1, np.int64)
    for region in regions:
        rows = np.searchsorted(row_edges, [region.row, region.row + region.height])
        cols = np.searchsorted(col_edges, [region.col, region.col + region.width])
        cells[rows[0] : rows[1], cols[0] : cols[1]] = SPLITS.index(region.split)

    def touched(split: int, reach: int) -> NDArray[np.int64]:
        """How many cells of a split each tile touches that is widened by some pixels."""
        integral = np.pad((cells == split).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        low, high = corners - reach, corners + tile_size + reach
        top = np.maximum(np.searchsorted(row_edges, low[:, 0], "right") - 1, 0)
        left = np.maximum(np.searchsorted(col_edges, low[:, 1], "right") - 1, 0)
        bottom = np.minimum(np.searchsorted(row_edges, high[:, 0], "left"), len(cells))
        right = np.minimum(np.searchsorted(col_edges, high[:, 1], "left"), cells.shape[1])
        counted: NDArray[np.int64] = (
            integral[bottom, right] - integral[top, right] - integral[bottom, left]
        ) + integral[top, left]
        return counted

    result = np.full(len(corners), -1, np.int64)
    parts = {split: touched(split, 0) for split in (-1, *range(len(SPLITS)))}
    for split in range(len(SPLITS)):
        whole = np.all([parts[other] == 0 for other in parts if other != split], axis=0)
        if SPLITS[split] == "train":
            for other in range(len(SPLITS)):
                if other != split:
                    whole &= touched(other, margin) == 0
        result[whole] = split
    return result


def training_pixels(regions: Sequence[Region], rows: slice, width: int) -> NDArray[np.bool_]:
    """Pixels (h, width) of some rows of a scene that belong to the training split."""
    plane = np.zeros((rows.stop - rows.start, width), dtype=bool)
    for region in regions:
        if region.split == "train":
            top, bottom = (
                min(max(edge - rows.start, 0), len(plane))
                for edge in (region.row, region.row + region.height)
            )
            plane[top:bottom, region.col : region.col + region.width] = True
    return plane


def _components(count: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Connected groups of ``count`` items."""
    root = list(range(count))

    def top(item: int) -> int:
        while root[item] != item:
            root[item] = root[root[item]]
            item = root[item]
        return item

    for first, second in pairs:
        root[max(top(first), top(second))] = min(top(first), top(second))
    groups: dict[int, list[int]] = {}
    for item in range(count):
        groups.setdefault(top(item), []).append(item)
    return list(groups.values())
