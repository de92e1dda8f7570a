"""The split of each part of a scene: whole scenes or blocks, drawn or read from a file."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.windows import Window

from vbp_lightning.data.datasets.scene import SPLITS, DataError, Scene, Split
from vbp_lightning.data.datasets.text_table import read_text_table
from vbp_lightning.data.imagery.extent import ground_sampling_distance
from vbp_lightning.data.imagery.reading import SceneInfo
from vbp_lightning.data.imagery.windows import overlap
from vbp_lightning.files import replacing

_FIELDS = ("scene", "row", "col", "height", "width", "split")

_WAY_OUT = (
    "put the old one back, name the folder that holds it with data.root, or give splits of your "
    "own with data.split_file"
)

_SHOWN = 10
"""Scenes that a line names."""

_LONGEST = 40
"""Characters of a value that a line quotes."""


@dataclass(frozen=True)
class Region:
    """A rectangle of a scene that belongs to one split, in pixels.

    A scene that is left alone has one region of no pixels and the split ``none``.

    Args:
        row: First row.
        col: First column.
        height: Number of rows.
        width: Number of columns.
        split: The split of all its pixels; ``none`` leaves them alone.
    """

    row: int
    col: int
    height: int
    width: int
    split: Split | Literal["none"]


UNUSED = Region(0, 0, 0, 0, "none")

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


@dataclass(frozen=True)
class KnownSplits:
    """The splits of scenes as a run has stored them, or as a list of the user says.

    Args:
        origin: The file and the config key that named it, for messages.
        parts: By scene: the place in the file, the rectangle (row, col, height, width), which is
            empty for the whole scene, and the split of each part.
        digests: :func:`~vbp_lightning.data.imagery.fingerprint.scene_digest` of scenes that must
            not have changed.
        is_of_run: Whether scenes that it does not list came after a run, and are not used.
        way_out: What to do about a scene that has changed, for messages.
    """

    origin: tuple[str, str]
    parts: Mapping[str, Sequence[tuple[str, Sequence[Any], str]]]
    digests: Mapping[str, str] = field(default_factory=dict)
    is_of_run: bool = False
    way_out: str = _WAY_OUT

    @classmethod
    def read(cls, path: Path, run: bool = False) -> Self:
        """Reads a CSV with the columns ``scene`` and ``split``.

        Args:
            path: It has either none or all of the columns ``row``, ``col``, ``height`` and
                ``width``; without them a line is about a whole scene.
            run: Whether a run that goes on has written it. Only then the column ``digest`` counts.

        Raises:
            DataError: It is no such file.
        """
        name = "resume" if run else "data.split_file"
        key = f"({name})"
        table = read_text_table(path, name, "give another")
        if table.empty or not {"scene", "split"} <= set(table.columns):
            raise DataError(
                f"{path}: needs a header with scene and split, and lines below it {key}"
            )
        parts: dict[str, list[tuple[str, Sequence[Any], str]]] = {}
        digests = {}
        for number, row in enumerate(table.to_dict("records"), 2):
            name = row["scene"]
            rectangle = [row.get(each, "") for each in _FIELDS[1:5]] if "row" in row else []
            parts.setdefault(name, []).append((f"line {number}", rectangle, row["split"]))
            if run and row.get("digest"):
                digests[name] = row["digest"]
        return cls((str(path), key), parts, digests, run)

    @classmethod
    def of_checkpoint(cls, splits: Mapping[str, Any], digests: Mapping[str, str]) -> Self:
        """The splits in a checkpoint's hyperparameters.

        Args:
            splits: ``RoadTileDataModule.scene_splits``.
            digests: ``RoadTileDataModule.scene_digests``; empty in older checkpoints.
        """
        parts = {
            name: [("", (), own)]
            if isinstance(own, str)
            else [("", part[:4], part[4]) for part in own]
            for name, own in splits.items()
        }
        return cls(("the checkpoint", "(ckpt)"), parts, digests, True)

    def is_used(self, name: str) -> bool:
        """Whether some of a scene's pixels may belong to a split."""
        if name not in self.parts:
            return not self.is_of_run
        return any(split != "none" for _, _, split in self.parts[name])

    def missing(self, names: Collection[str]) -> list[str]:
        """One line for each scene of a run that the data set no longer holds."""
        gone = [name for name in self.parts if self.is_used(name) and name not in names]
        lines = [
            f"{self.origin[0]}: its scene {name} is gone from the data set {self.origin[1]}: "
            f"{self.way_out}"
            for name in gone * self.is_of_run
        ]
        return shortened(lines, "more scenes are gone")

    def later(self, names: Collection[str]) -> list[str]:
        """A line that names the scenes that came after a run."""
        new = [name for name in names if name not in self.parts] * self.is_of_run
        more = f" and {len(new) - _SHOWN} more" if len(new) > _SHOWN else ""
        listed = ", ".join(new[:_SHOWN]) + more
        return [f"Not used, since they came after the run: {listed} {self.origin[1]}"] * bool(new)

    def other(self, scenes: Iterable[Scene], with_splits: bool) -> list[str]:
        """A line for each scene that came after a run, or that has got another split since.

        Args:
            scenes: The data set.
            with_splits: Whether splits that the data set gives are compared.
        """
        lines = []
        for scene in scenes:
            own = {split for *_, split in self.parts.get(scene.name, ())} - {"none"}
            change = "" if own or scene.name in self.parts else "came after the run"
            if with_splits and own and scene.split is not None and own != {scene.split}:
                change = f"is in the split {scene.split}, not in {', '.join(sorted(own))} any more"
            if change:
                lines.append(
                    f"{scene.image}: {change}: scene {scene.name} {self.origin[1]}: {self.way_out}"
                )
        return shortened(lines, "more scenes")

    def check(self, name: str, image: Path, digest: str) -> None:
        """Compares a scene with that of the run.

        Raises:
            DataError: Its image or its labels have changed.
        """
        if self.digests.get(name, digest) != digest:
            raise DataError(
                f"{image}: has changed since the run, or its labels have: scene {name} "
                f"{self.origin[1]}: {self.way_out}"
            )

    def regions(self, infos: Sequence[SceneInfo]) -> dict[str, list[Region]]:
        """The regions of each scene.

        Args:
            infos: All scenes that are used; other scenes are ignored.

        Raises:
            DataError: A scene is not listed, or a part of it is wrong; one line for each error.
        """
        (path, key), lines = self.origin, []
        regions: dict[str, list[Region]] = {info.scene.name: [] for info in infos}
        for info in infos:
            name, (height, width) = info.scene.name, info.grid.shape
            for line, rectangle, split in self.parts.get(name, ()):
                if split not in (*SPLITS, "none"):
                    lines.append(
                        f"{path}: {line} says split {split[:_LONGEST]!r} {key}: give one of "
                        f"{', '.join(SPLITS)}, none"
                    )
                    continue
                try:
                    top, left, rows, cols = map(int, rectangle or (0, 0, height, width))
                    inside = min(top, left, rows, cols) >= 0
                    inside &= top + rows <= height and left + cols <= width
                except ValueError:
                    inside = False
                if not inside:
                    lines.append(
                        f"{path}: {line} is no rectangle inside scene {name} of {width} × {height} "
                        f"px {key}: give row, col, height and width in pixels"
                    )
                    continue
                regions[name].append(Region(top, left, rows, cols, cast("Split", split)))
        lines += [
            f"{path}: does not list scene {name} {key}: add it (split none leaves it alone), or "
            "remove the scene"
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


def shortened(lines: list[str], others: str) -> list[str]:
    """The first lines, and one with the number of the others, as ``and 3 more scenes``."""
    more = len(lines) - _SHOWN
    return lines[:_SHOWN] + [f"and {more} {others}"] * (more > 0)


def part_of_training(
    regions: Mapping[str, Sequence[Region]], part: float, seed: int
) -> dict[str, list[Region]]:
    """Leaves a part of the training split: the other training regions get the split ``none``.

    A larger part holds every smaller one of the same seed.

    Args:
        regions: Of each scene.
        part: A fraction of the training regions in (0, 1], or their number as an integer. A
            region is a scene, or a block where scenes are divided.
        seed: Seed of the draw.

    Raises:
        DataError: There are fewer than the number.
    """
    training = sorted(
        (name, astuple(region))
        for name, own in regions.items()
        for region in own
        if region.split == "train"
    )
    count = part if isinstance(part, int) else max(1, round(part * len(training)))
    if count > len(training):
        raise DataError(
            f"data.train_fraction={part}: the training split has only {len(training)} scenes or "
            "blocks: give a smaller number, or a fraction such as 0.5"
        )
    order = np.random.default_rng(seed).permutation(len(training))[:count].tolist()
    kept = {training[place] for place in order}
    return {
        name: [
            region
            if region.split != "train" or (name, astuple(region)) in kept
            else replace(region, split="none")
            for region in own
        ]
        for name, own in regions.items()
    }


def write_regions(path: Path, regions: Regions, digests: Mapping[str, str]) -> None:
    """Writes ``splits.csv``, which :meth:`KnownSplits.read` reads back.

    Args:
        path: The file to write or replace.
        regions: Of each scene.
        digests: Of each scene that is used.

    Raises:
        OSError: The file cannot be written; an older one stays as it was.
    """
    import pandas as pd

    rows = [
        (name, *astuple(region), digests.get(name, ""))
        for name, own in regions.items()
        for region in own
    ]
    with replacing(path) as temporary:
        pd.DataFrame(rows, columns=[*_FIELDS, "digest"]).to_csv(temporary, index=False)


def training_pixels(regions: Sequence[Region], window: Window) -> NDArray[np.bool_]:
    """Pixels (h, w) of a window of a scene that belong to the training split."""
    plane = np.zeros((window.height, window.width), dtype=bool)
    for r in regions:
        if r.split == "train":
            row, col = r.row - window.row_off, r.col - window.col_off
            plane[overlap(row, col, r.height, r.width, plane.shape)[0]] = True
    return plane
