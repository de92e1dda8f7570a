"""Scenes and tiles of different splits that show the same pixels."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbp_lightning.data.datasets.scene import SPLITS
from vbp_lightning.data.tiles.grid import exceeds
from vbp_lightning.data.tiles.splits import Regions, shortened
from vbp_lightning.data.tiles.store import ScannedScene, SceneStore

_ROWS = 512
"""Rows of two scenes that are compared at once."""

_COMPARED = 500
"""Pairs of tiles that are compared pixel by pixel."""


def repeated_scenes(
    scanned: Sequence[ScannedScene], regions: Regions, store: SceneStore
) -> tuple[list[str], list[str], set[tuple[int, int]]]:
    """Finds scenes of equal pixels, whatever their names, formats and labels.

    Scenes of one constant value are not compared.

    Args:
        scanned: All scenes.
        regions: Their splits.
        store: Their pixels.

    Returns:
        One line for each scene that shows the same as one of another split; a line about scenes
        that show the same as one of their own split; and the pairs of indices into ``scanned``.
    """
    groups: dict[tuple[object, ...], list[list[int]]] = defaultdict(list)
    for number, item in enumerate(scanned):
        if item.signature:
            alike = groups[item.signature, item.info.grid.shape]
            group = next((each for each in alike if _are_equal(store, each[0], number)), None)
            if group is None:
                alike.append([number])
            else:
                group.append(number)
    across, within = [], []
    same = [group for alike in groups.values() for group in alike if len(group) > 1]
    for group in same:
        first = scanned[group[0]].info.scene
        for number in group[1:]:
            scene = scanned[number].info.scene
            splits = [
                sorted({part.split for part in regions[name]} - {"none"}, key=SPLITS.index)
                for name in (first.name, scene.name)
            ]
            if splits[0] == splits[1] and len(splits[0]) == 1:
                within.append((first.image, scene.image))
            else:
                own, other = (" and ".join(each) for each in reversed(splits))
                across.append(
                    f"{scene.image}: shows the same pixels as {first.image}, but belongs to {own},"
                    f" that to {other} (data.root): remove one of them, or give both one split"
                    " with data.split_file"
                )
    notes = []
    if within:
        notes.append(
            f"{len(within)} scenes show the same pixels as another one of their split, as"
            f" {within[0][0]} and {within[0][1]}: they count several times (data.root)"
        )
    found = {(a, b) for group in same for a in group for b in group if a < b}
    return shortened(across, "more scenes of equal pixels in several splits"), notes, found


def repeated_tiles(
    scanned: Sequence[ScannedScene],
    store: SceneStore,
    tile_size: int,
    max_invalid: float,
    known: set[tuple[int, int]],
) -> list[str]:
    """Finds validation and test tiles of equal pixels as tiles of other splits.

    Tiles of one constant value, and tiles that are dropped, are not compared.

    Args:
        scanned: All scenes.
        store: Their pixels.
        tile_size: Tile size in pixels.
        max_invalid: Largest share of invalid pixels of a tile.
        known: Pairs of scenes, the smaller index first, that are not compared.

    Returns:
        A line with their number and the first one, if there are any.
    """
    kept = [
        (item.signatures != 0)
        & (item.plan.splits >= 0)
        & ~exceeds(tile_size**2 - item.valid, tile_size**2, max_invalid)
        for item in scanned
    ]
    columns = [
        np.column_stack([np.full(len(own), n), item.plan.splits, item.plan.corners])[own]
        for n, (item, own) in enumerate(zip(scanned, kept, strict=True))
    ]
    table = np.concatenate([np.zeros((0, 4), np.int64), *columns])
    signatures = [item.signatures[own] for item, own in zip(scanned, kept, strict=True)]
    repeats: dict[tuple[int, ...], tuple[int, ...]] = {}
    for held, other in _pairs(np.concatenate([np.zeros(0, np.uint64), *signatures]), table):
        pair = min(held[0], other[0]), max(held[0], other[0])
        if held in repeats or pair in known:
            continue
        if len(repeats) >= _COMPARED or _show_the_same(store, held, other, tile_size):
            repeats[held] = other
    if not repeats:
        return []
    held, other = min(repeats.items())
    first, second = (
        f"{scanned[scene].info.scene.image} at row {row}, column {col} ({SPLITS[split]})"
        for scene, split, row, col in (held, other)
    )
    count = f"{len(repeats)} tiles of val or test show" if len(repeats) > 1 else "A tile shows"
    return [
        f"{count} the same pixels as one of another split, as {first} and {second}: this inflates"
        " the scores; give such scenes one split (data.split_file), or remove them (data.root)"
    ]


def _pairs(
    signatures: NDArray[np.uint64], table: NDArray[np.int64]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yields rows (scene, split, row, column) of equal signatures and different splits.

    The first one is of the later split. Each row is paired with one of each scene of an earlier
    split.
    """
    order = np.argsort(signatures, kind="stable")
    ends = np.flatnonzero(np.diff(signatures[order])) + 1
    for start, stop in pairwise([0, *ends.tolist(), len(order)]):
        if stop - start < 2 or np.ptp(splits := table[order[start:stop], 1]) == 0:
            continue
        rows = table[order[start:stop]]
        for split in np.unique(splits)[1:]:
            earlier = rows[splits < split]
            earlier = earlier[np.unique(earlier[:, 0], return_index=True)[1]]
            for held in rows[splits == split].tolist():
                for other in earlier.tolist():
                    yield tuple(held), tuple(other)


def _are_equal(store: SceneStore, first: int, second: int) -> bool:
    height, width = store.labels[first].shape
    return all(
        _pixels_are_equal(
            store, [(first, top, 0), (second, top, 0)], min(_ROWS, height - top), width
        )
        for top in range(0, height, _ROWS)
    )


def _show_the_same(
    store: SceneStore, held: tuple[int, ...], other: tuple[int, ...], size: int
) -> bool:
    places = [(scene, row, col) for scene, _, row, col in (held, other)]
    return _pixels_are_equal(store, places, size, size)


def _pixels_are_equal(
    store: SceneStore, places: Sequence[tuple[int, int, int]], height: int, width: int
) -> bool:
    """Whether two windows (scene, row, column) hold the same values; NaN equals NaN."""
    first, second = (
        store.bands[scene][:, row : row + height, col : col + width] for scene, row, col in places
    )
    return np.array_equal(_bits(first), _bits(second))


def _bits(values: NDArray[Any]) -> NDArray[np.unsignedinteger]:
    """Numbers as unsigned integers of the same bits."""
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
