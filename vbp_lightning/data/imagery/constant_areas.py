"""Areas of one value in an image, where probably no imagery was recorded and no tag says so."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_STEP = 4
"""Every n-th row and column is searched for values that repeat."""

_LEAST = 256
"""Least pixels of an area at the edge of a scene."""

_LEAST_SHARE = 0.0005
"""Its least share of a scene."""

_LEAST_OF_EDGE = 0.25
"""The part of the shorter side of a window that it touches, or its area is a large share."""

_LARGE_SHARE = 0.01
"""Share of a scene from which on an area that touches the edge anywhere counts."""

_VALUES = 4
"""Values of a window that are followed, the most frequent ones."""


@dataclass(frozen=True)
class ConstantArea:
    """Pixels of one value in a scene: a collar, a missing block, or a hole between images.

    Args:
        value: Of each band.
        pixels: Their number.
        place: Row and column of the centre of the largest part that was read at once.
        largest: Pixels of that part.
    """

    value: tuple[float, ...]
    pixels: int
    place: tuple[int, int]
    largest: int


def constant_areas(
    bands: NDArray[Any],
    valid: NDArray[np.bool_],
    corner: tuple[int, int],
    shape: tuple[int, int],
    tile_size: int,
) -> list[ConstantArea]:
    """Finds connected pixels of one value that reach an edge of the scene or fill a tile.

    Args:
        bands: (C, h, w) a window of a scene.
        valid: (h, w) pixels that the file does not mark as nodata.
        corner: First row and column of the window.
        shape: Height and width of the scene.
        tile_size: Tile size in pixels.

    Returns:
        One for each value.
    """
    height, width = valid.shape
    at_edge = np.zeros((height, width), dtype=bool)
    for side, is_edge in (
        (np.s_[:1], corner[0] == 0),
        (np.s_[-1:], corner[0] + height == shape[0]),
        (np.s_[:, :1], corner[1] == 0),
        (np.s_[:, -1:], corner[1] + width == shape[1]),
    ):
        at_edge[side] |= is_edge
    least = max(_LEAST, _LEAST_SHARE * shape[0] * shape[1])
    found = []
    for value in _repeated(bands, valid, at_edge):
        same = (bands == value[:, None, None]).all(axis=0) & valid
        parts, count = ndimage.label(same)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        sizes[0] = 0
        touched = np.bincount(parts[at_edge], minlength=count + 1)
        # a roof at the edge of an image may have one value too
        reaches = (touched >= _LEAST_OF_EDGE * min(height, width)) | (
            (touched > 0) & (sizes >= _LARGE_SHARE * shape[0] * shape[1])
        )
        is_area = (sizes >= tile_size**2) | (reaches & (sizes >= least))
        if is_area.any():
            largest = int(np.argmax(np.where(is_area, sizes, 0)))
            rows, cols = np.nonzero(parts == largest)
            middle = len(rows) // 2
            place = corner[0] + int(rows[middle]), corner[1] + int(cols[middle])
            pixels = int(sizes[is_area].sum())
            values = tuple(float(each) for each in value)
            found.append(ConstantArea(values, pixels, place, int(sizes[largest])))
    return found


def _repeated(
    bands: NDArray[Any], valid: NDArray[np.bool_], at_edge: NDArray[np.bool_]
) -> NDArray[Any]:
    """Values (n, C) that neighbours have in common, on a coarse grid and along the scene's edges.

    The coarse grid misses areas that are only a few pixels wide.
    """
    coarse, shown = bands[:, ::_STEP, ::_STEP], valid[::_STEP, ::_STEP]
    height, width = shown.shape
    first = coarse[:, :-1, :-1]
    equal = shown[:-1, :-1].copy()
    for rows, cols in ((1, 0), (0, 1), (1, 1)):
        other = coarse[:, rows : height - 1 + rows, cols : width - 1 + cols]
        equal &= (first == other).all(axis=0)
    candidates = [(first[:, equal], _LEAST // (4 * _STEP**2))]
    for line in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        if at_edge[line].all():
            edge = bands[:, *line] if isinstance(line, tuple) else bands[:, line]
            same = (edge[:, 1:] == edge[:, :-1]).all(axis=0) & valid[line][1:]
            candidates.append((edge[:, 1:][:, same], _LEAST // _STEP))
    found: dict[bytes, NDArray[Any]] = {}
    for pixels, least in candidates:
        values, counts = np.unique(pixels, axis=1, return_counts=True)
        for number in np.argsort(-counts, kind="stable")[:_VALUES]:
            if counts[number] >= least:
                found[values[:, number].tobytes()] = values[:, number]
    return np.array(list(found.values()), bands.dtype).reshape(-1, len(bands))


def united(areas: Iterable[ConstantArea]) -> tuple[ConstantArea, ...]:
    """Returns the areas of a scene from those of its windows, one for each value."""
    by_value: dict[tuple[float, ...], ConstantArea] = {}
    for area in areas:
        other = by_value.get(area.value, area)
        total = area.pixels + (other.pixels if other is not area else 0)
        by_value[area.value] = replace(max(area, other, key=lambda a: a.largest), pixels=total)
    return tuple(by_value.values())


def constant_area_notes(
    scenes: Sequence[tuple[str, int, np.dtype[Any], Sequence[ConstantArea]]],
) -> list[str]:
    """Returns one line for each value that areas hold: how much, where, and how to declare it.

    Args:
        scenes: The image, the number of its pixels, the type of its bands and the areas of each
            scene.
    """
    total = sum(pixels for _, pixels, _, _ in scenes)
    counts: Counter[tuple[float, ...]] = Counter()
    holders: dict[tuple[float, ...], list[tuple[str, np.dtype[Any]]]] = {}
    for image, _, dtype, areas in scenes:
        for area in areas:
            counts[area.value] += area.pixels
            holders.setdefault(area.value, []).append((image, dtype))
    return [
        f"{counts[value] / total:.2%} of all pixels hold {_named(value)} over whole areas, in "
        f"{len(own)} {'scene' if len(own) == 1 else 'scenes'}, as {own[0][0]}: if no imagery was "
        f"recorded there, {_remedy(value, own[0][1])} (data.root)"
        for value, own in holders.items()
    ]


def _named(value: tuple[float, ...]) -> str:
    if len(set(value)) > 1:
        return f"the values {', '.join(f'{each:g}' for each in value)}"
    return f"{value[0]:g}" + (" in all bands" if len(value) > 1 else "")


def _remedy(value: tuple[float, ...], dtype: np.dtype[Any]) -> str:
    is_integer = np.issubdtype(dtype, np.integer)
    largest = np.iinfo(dtype).max if is_integer else None
    # a value that imagery reaches counts as nodata only where all bands hold it, others in any
    if len(set(value)) == 1 and (
        len(value) == 1 or not is_integer or value[0] <= 0 or value[0] == largest
    ):
        white = " or data.source.white_area=256" if value[0] == largest else ""
        return f"set data.nodata={value[0]:g}{white}"
    colour = ",".join(f"{each:g}" for each in value)
    return f"mark it in the file (nearblack -color {colour} -nb 0 -setmask -o MARKED.tif IMAGE)"
