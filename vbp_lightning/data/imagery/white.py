"""White areas of a scene where no imagery was recorded."""

import zlib
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vbp_lightning.data.imagery.windows import overlap

_NEAR_WHITE = 240
"""Lossy compression frays the border of a saturated area down to about this part of 255."""


def missing_white(bands: NDArray[Any], white_area: int) -> NDArray[np.bool_]:
    """Areas of a scene that are white because nothing was recorded there.

    Such an area is a connected (by edges) set of nearly white pixels, at least ``white_area`` of
    them saturated in every band. Small saturated roofs and cars stay valid.

    Args:
        bands: (C, H, W) integers; the largest value of their type is white.
        white_area: Least number of saturated pixels; 0 finds nothing.

    Returns:
        (H, W).
    """
    lowest = bands.min(axis=0)
    saturated = lowest == _white(lowest)
    if white_area == 0 or np.count_nonzero(saturated) < white_area:
        return np.zeros(lowest.shape, dtype=bool)
    areas, count = _areas(lowest)
    sizes = np.bincount(areas[saturated], minlength=count + 1)
    missing: NDArray[np.bool_] = (sizes >= white_area)[areas]
    return missing


class WhiteAreas:
    """The areas that :func:`missing_white` finds, for a scene that is seen part by part.

    All parts are shown to ``add`` first; what is missing in them is known when the areas that
    cross their borders are. Both passes label a part alike, so that no label need be kept.

    Args:
        width: Columns of the scene.
        white_area: Least number of saturated pixels.
    """

    def __init__(self, width: int, white_area: int) -> None:
        self._white_area = white_area
        self._numbers: dict[tuple[int, int], slice] = {}
        self._sizes: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
        self._count = 1
        self._touching: list[NDArray[np.int64]] = []
        self._above = np.zeros(width, np.int64)
        self._left = np.zeros(0, np.int64)

    def add(self, top: int, left: int, bands: NDArray[Any]) -> None:
        """Takes in a part.

        Args:
            top: Its first row; parts come in rows from top to bottom, each row from left to right.
            left: Its first column.
            bands: (C, h, w) integers.
        """
        lowest = bands.min(axis=0)
        areas, count = _areas(lowest)
        upper, lower, first, last = (
            np.where(border > 0, border.astype(np.int64) + (self._count - 1), 0)
            for border in (areas[0], areas[-1], areas[:, 0], areas[:, -1])
        )
        columns = slice(left, left + areas.shape[1])
        if top > 0:
            self._join(self._above[columns], upper)
        if left > 0:
            self._join(self._left, first)
        self._above[columns], self._left = lower, last
        self._numbers[top, left] = slice(self._count, self._count + count)
        self._count += count
        self._sizes.append(np.bincount(areas[lowest == _white(lowest)], minlength=count + 1)[1:])

    def _join(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
        """Notes that areas touch, where both numbers are above 0."""
        pairs = np.stack([one, other])
        self._touching.append(np.unique(pairs[:, (pairs > 0).all(axis=0)], axis=1))

    @cached_property
    def _is_missing(self) -> NDArray[np.bool_]:
        """Whether each area is, by its number, once all parts were added."""
        pairs = np.concatenate([np.zeros((2, 0), np.int64), *self._touching], axis=1)
        graph = coo_array((np.ones(pairs.shape[1]), pairs), shape=(self._count, self._count))
        _, whole = connected_components(graph, directed=False)
        sizes = np.bincount(whole, weights=np.concatenate(self._sizes))
        missing: NDArray[np.bool_] = (sizes >= self._white_area)[whole]
        return missing

    def any_missing(self, top: int, left: int) -> bool:
        """Whether a part that was added lacks imagery, once all were."""
        return bool(self._is_missing[self._numbers[top, left]].any())

    def missing(self, top: int, left: int, bands: NDArray[Any]) -> NDArray[np.bool_]:
        """Missing imagery (h, w) of a part that was added, once all were."""
        areas, _ = _areas(bands.min(axis=0))
        own = self._is_missing[self._numbers[top, left]]
        found: NDArray[np.bool_] = np.append(False, own)[areas]
        return found


class WhiteGaps:
    """The areas that :func:`missing_white` finds in a whole scene, for windows anywhere in it.

    The scene is read part by part, and parts with gaps a second time; their gaps are kept packed
    and compressed.

    Args:
        width: Columns of the scene.
        white_area: Least number of saturated pixels.
        parts: They cover the scene once, in rows from left to right.
        read: Gives the bands (C, h, w), integers, of a part.
    """

    def __init__(
        self,
        width: int,
        white_area: int,
        parts: Iterable[Window],
        read: Callable[[Window], NDArray[Any]],
    ) -> None:
        parts = list(parts)
        areas = WhiteAreas(width, white_area)
        for part in parts:
            areas.add(part.row_off, part.col_off, read(part))
        self._parts: list[tuple[Window, bytes]] = []
        for part in parts:
            if areas.any_missing(part.row_off, part.col_off):
                missing = areas.missing(part.row_off, part.col_off, read(part))
                packed = zlib.compress(np.packbits(missing, axis=1).tobytes(), 1)
                self._parts.append((part, packed))

    def missing(self, row: int, col: int, height: int, width: int) -> NDArray[np.bool_]:
        """Missing imagery (height, width) of a window; what lies beyond the scene is not."""
        found = np.zeros((height, width), dtype=bool)
        for part, packed in self._parts:
            shape = part.height, part.width
            (rows, cols), inside = overlap(
                row - part.row_off, col - part.col_off, height, width, shape
            )
            if rows.start < rows.stop and cols.start < cols.stop:
                bits = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(part.height, -1)
                found[inside] = np.unpackbits(bits[rows], axis=1, count=part.width)[:, cols]
        return found


def _white(pixels: NDArray[Any]) -> int:
    return int(np.iinfo(pixels.dtype).max)


def _areas(lowest: NDArray[Any]) -> tuple[NDArray[np.int32], int]:
    """Connected nearly white areas: their numbers from 1 on, 0 elsewhere; and how many."""
    areas, count = ndimage.label(lowest >= -(-_white(lowest) * _NEAR_WHITE // 255))
    return areas, int(count)
