"""Signatures of areas by a sample of their pixels: equal for areas of equal pixels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_VALUES = 1 << 20
"""Values that are sampled at once."""


class Signatures:
    """Signatures of rectangles of one size in a scene, computed from its windows in any order.

    The sampled pixels lie on an even grid in each area. A signature is the sum, modulo 2⁶⁴, of
    their values, each multiplied by a fixed odd number of its place and band. Invalid pixels count
    as 0. Areas of different pixels have the same signature if all sampled pixels are equal, and
    otherwise with a probability of about 2⁻⁶³.

    Args:
        corners: (N, 2) rows and columns of their upper-left corners.
        shape: Height and width of each.
        samples: Sampled rows, and columns, of each.
    """

    def __init__(self, corners: NDArray[np.int64], shape: tuple[int, int], samples: int) -> None:
        steps = 2 * np.arange(samples) + 1
        self._rows, self._cols = (
            corners[:, axis, None] + steps * shape[axis] // (2 * samples) for axis in (0, 1)
        )
        self._sums = np.zeros(len(corners), np.uint64)
        self._first: NDArray[Any] | None = None
        self._seen = np.zeros(len(corners), bool)
        self._varied = np.zeros(len(corners), bool)

    def add(self, bands: NDArray[Any], valid: NDArray[np.bool_], top: int, left: int) -> None:
        """Adds a window; each pixel must be added once.

        Args:
            bands: (C, h, w) real numbers.
            valid: (h, w) the pixels that count.
            top: First row of the window in the scene.
            left: First column.
        """
        count = max(1, _VALUES // (len(bands) * self._rows.shape[1] ** 2))
        for start in range(0, len(self._sums), count):
            self._add(slice(start, start + count), bands, valid, top, left)

    def _add(
        self, part: slice, bands: NDArray[Any], valid: NDArray[np.bool_], top: int, left: int
    ) -> None:
        rows, cols = self._rows[part, :, None] - top, self._cols[part, None, :] - left
        height, width = valid.shape
        inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
        here = np.flatnonzero(inside.any(axis=(1, 2)))
        rows, cols = rows[here].clip(0, height - 1), cols[here].clip(0, width - 1)
        counts = inside[here] & valid[rows, cols]
        here, counts, rows, cols = _with_some(here, counts, rows, cols)
        if not len(here):
            return
        values = bands[:, rows, cols]
        values = values.view(f"u{values.dtype.itemsize}").astype(np.uint64)
        weights = _weights(len(bands), *counts.shape[1:])
        here += part.start
        self._sums[here] += np.where(counts, (values * weights).sum(axis=0), 0).sum(axis=(1, 2))
        if self._first is None:
            self._first = np.zeros((len(bands), len(self._sums)), np.uint64)
        new = ~self._seen[here]
        place = counts.reshape(len(here), -1).argmax(axis=1)
        firsts = values.reshape(*values.shape[:2], -1)[:, np.arange(len(here)), place]
        self._first[:, here[new]] = firsts[:, new]
        self._seen[here] = True
        differs = (values != self._first[:, here, None, None]).any(axis=0) & counts
        self._varied[here] |= differs.any(axis=(1, 2))

    @property
    def values(self) -> NDArray[np.uint64]:
        """(N,) signatures; 0 for areas whose sampled pixels are all equal or invalid."""
        return np.where(self._varied, self._sums, np.uint64(0))


def _with_some(
    here: NDArray[np.int64],
    counts: NDArray[np.bool_],
    rows: NDArray[np.int64],
    cols: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Leaves the areas that have pixels that count."""
    some = counts.any(axis=(1, 2))
    return here[some], counts[some], rows[some], cols[some]


def _weights(bands: int, rows: int, cols: int) -> NDArray[np.uint64]:
    """(C, 1, rows, cols) fixed odd numbers."""
    drawn = np.random.default_rng(0).integers(0, 1 << 63, (bands, 1, rows, cols), np.uint64)
    return drawn * np.uint64(2) + np.uint64(1)
