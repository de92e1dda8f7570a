"""The split of each part of a scene: whole scenes or blocks, drawn or read from a file."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.windows import Window

from vbp_lightning.data.datasets.scene import SPLITS, DataError, Split
from vbp_lightning.data.imagery.extent import ground_sampling_distance
from vbp_lightning.data.imagery.reading import SceneInfo
from vbp_lightning.data.imagery.windows import overlap
from vbp_lightning.errors import reason
from vbp_lightning.files import replacing

_FIELDS = ("scene", "row", "col", "height", "width", "split")


@dataclass(frozen=True)
class Region:
    """A rectangle of a scene that belongs to one split, in pixels.

    Args:
        row: First row.
        col: First column.
        height: Number of rows.
        width: Number of columns.
        split: The split of all its pixels.
    """

    row: int
    col: int
    height: int
    width: int
    split: Split


Regions = Mapping[str, Sequence[Region]]
"""The regions of each scene by the scene's name; they do not overlap."""


def rectangles(regions: Sequence[Region], inset: float = 0) -> NDArray[np.object_]:
    """Shapely polygons of regions in pixel coordinates: x is the column, y the row.

    Args:
        regions: (N,) of one scene.
        inset: Pixels that each side is moved inwards.

    Returns:
        (N,) polygons.
    """
    edges = np.array([(r.col, r.row, r.col + r.width, r.row + r.height) for r in regions], float)
    left, top, right, bottom = edges.reshape(-1, 4).T
    boxes: NDArray[np.object_] = shapely.box(
        left + inset, top + inset, right - inset, bottom - inset
    )
    return boxes


def draw_splits(
    groups: Sequence[Sequence[str]], val_fraction: float, test_fraction: float, seed: int
) -> dict[str, Split]:
    """Draws the split of each item; the items of a group stay together.

    A split of a positive fraction gets at least one group, as long as one is left to train. The
    result does not depend on the order of groups and items.

    Args:
        groups: Names; each name occurs once.
        val_fraction: Fraction of the items for validation, in [0, 1).
        test_fraction: Fraction of the items for testing, in [0, 1).
        seed: Seed of the draw.

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


def scene_regions(
    infos: Sequence[SceneInfo],
    pairs: Sequence[tuple[int, int]],
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> dict[str, list[Region]]:
    """Whole scenes, each in the split that its record names or in a drawn one.

    Scenes without a split that overlap are drawn together. If one of them overlaps a scene whose
    split is given, they get that split; of several given splits test comes before val before train.

    Args:
        infos: All scenes.
        pairs: Indices of the scenes that overlap.
        val_fraction: Fraction of the drawn scenes for validation.
        test_fraction: Fraction of the drawn scenes for testing.
        seed: Seed of the draw.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    links = coo_array((np.ones(len(first)), (first, second)), shape=(len(infos),) * 2)
    count, group_of = connected_components(links, directed=False) if infos else (0, None)
    splits: dict[str, Split] = {}
    undecided: list[list[str]] = []
    for group in range(count):
        scenes = [infos[number].scene for number in np.flatnonzero(group_of == group).tolist()]
        names = [scene.name for scene in scenes]
        given = {scene.split for scene in scenes}
        split = next((split for split in reversed(SPLITS) if split in given), None)
        if split is None:
            undecided.append(names)
        else:
            splits |= dict.fromkeys(names, split)
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
        infos: All scenes; those whose split is given stay whole.
        size: Side of a block. A remainder of less than half a block at the far edges of a scene is
            added to the last block; a larger one is a block of its own.
        unit: ``px`` or ``m``.
        val_fraction: Fraction of the blocks for validation.
        test_fraction: Fraction of the blocks for testing.
        seed: Seed of the draw.

    Raises:
        DataError: The unit is metres and the ground sampling distance of a scene is unknown.
    """
    lines = []
    blocks: dict[str, tuple[str, tuple[int, int, int, int]]] = {}
    regions: dict[str, list[Region]] = {info.scene.name: [] for info in infos}
    for info in infos:
        name = info.scene.name
        if info.scene.split is not None:
            regions[name].append(Region(0, 0, *info.grid.shape, info.scene.split))
            continue
        metres = ground_sampling_distance(info.grid) if unit == "m" else (1.0, 1.0)
        if metres is None:
            lines.append(
                f"{info.scene.image}: is not georeferenced, so that it cannot be cut into blocks "
                "of metres (data.block_unit): give the size of blocks in px"
            )
            continue
        rows = _cuts(info.grid.height, size / metres[1])
        cols = _cuts(info.grid.width, size / metres[0])
        for (top, bottom), (left, right) in product(rows, cols):
            block = (top, left, bottom - top, right - left)
            blocks[f"{name}\0{top:09d}\0{left:09d}"] = name, block
    if lines:
        raise DataError(*lines)
    drawn = draw_splits([[key] for key in blocks], val_fraction, test_fraction, seed)
    for key, (name, block) in blocks.items():
        regions[name].append(Region(*block, drawn[key]))
    return regions


def _cuts(length: int, size: float) -> list[tuple[int, int]]:
    """First and past-the-end pixels of blocks along an axis."""
    count = max(1, round(length / size))
    edges = [min(length, round(number * size)) for number in range(count)] + [length]
    return list(pairwise(edges))


def read_regions(path: Path, infos: Sequence[SceneInfo]) -> dict[str, list[Region]]:
    """Reads the splits of scenes from a file that a run or the user has written.

    Args:
        path: A CSV with the columns ``scene`` and ``split``, and either none or all of ``row``,
            ``col``, ``height`` and ``width``; without them each line gives the split of a
            whole scene.
        infos: All scenes; lines about other scenes are ignored.

    Raises:
        DataError: The file cannot be used or lacks a scene; one line for each error.
    """
    import pandas as pd

    key = "(data.split_file)"
    try:
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as a CSV ({reason(error)}) {key}: give another"
        ) from error
    if table.empty or not {"scene", "split"} <= set(table.columns):
        raise DataError(f"{path}: needs a header with scene and split, and lines below it {key}")
    shapes = {info.scene.name: info.grid.shape for info in infos}
    regions: dict[str, list[Region]] = {name: [] for name in shapes}
    lines = []
    for number, row in enumerate(table.to_dict("records"), 2):
        name, split = row["scene"], row["split"]
        if name not in shapes:
            continue
        if split not in SPLITS:
            lines.append(
                f"{path}: line {number} says split {split!r} {key}: give one of {', '.join(SPLITS)}"
            )
            continue
        height, width = shapes[name]
        try:
            numbers = [int(row[field]) for field in _FIELDS[1:5]] if "row" in row else []
            top, left, rows, cols = numbers or (0, 0, height, width)
            inside = min(top, left, rows, cols) >= 0
            inside &= top + rows <= height and left + cols <= width
        except (KeyError, ValueError):
            inside = False
        if not inside:
            lines.append(
                f"{path}: line {number} is no rectangle inside scene {name} of {width} × {height} "
                f"px {key}: give row, col, height and width in pixels"
            )
            continue
        regions[name].append(Region(top, left, rows, cols, split))
    lines += [
        f"{path}: does not list scene {name} {key}: add it, or remove the scene"
        for name, own in regions.items()
        if not own and not lines
    ]
    lines += [
        f"{path}: has overlapping rectangles in scene {name} {key}: separate them"
        for name, own in regions.items()
        if round(shapely.union_all(rectangles(own)).area) < sum(r.height * r.width for r in own)
    ]
    if lines:
        raise DataError(*lines)
    return regions


def write_regions(path: Path, regions: Regions) -> None:
    """Writes ``splits.csv``, which :func:`read_regions` reads back.

    Raises:
        OSError: The file cannot be written; an older one stays as it was.
    """
    import pandas as pd

    rows = [(name, *astuple(region)) for name, own in regions.items() for region in own]
    with replacing(path) as temporary:
        pd.DataFrame(rows, columns=list(_FIELDS)).to_csv(temporary, index=False)


def training_pixels(regions: Sequence[Region], window: Window) -> NDArray[np.bool_]:
    """Pixels (h, w) of a window of a scene that belong to the training split."""
    plane = np.zeros((window.height, window.width), dtype=bool)
    for r in regions:
        if r.split == "train":
            row, col = r.row - window.row_off, r.col - window.col_off
            plane[overlap(row, col, r.height, r.width, plane.shape)[0]] = True
    return plane
