"""Statistics of each band over the valid training pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_ROWS = 64
"""Rows counted at a time: whole large scenes would need eight times their size."""

_SAMPLE = 1 << 20
"""Pixels whose values are kept where a type has too many values to count each."""


@dataclass(frozen=True)
class Normalisation:
    """How the values of each band are brought to a common scale, in the units of the scenes.

    Args:
        mean: What becomes 0.
        std: What becomes 1, measured from the mean.
        low: Smaller values are raised to this; None where nothing is clipped.
        high: Larger values are lowered to this; None where nothing is clipped.
    """

    mean: list[float]
    std: list[float]
    low: list[float] | None = None
    high: list[float] | None = None


def nodata_values(mean: Sequence[float], dtype: np.dtype[Any]) -> NDArray[Any]:
    """What pixels without imagery hold: the training mean, as far as the type can.

    Args:
        mean: Of each band.
        dtype: Of the imagery.

    Returns:
        (C,) of the imagery's type.
    """
    if np.issubdtype(dtype, np.integer):
        return np.round(mean).astype(dtype)
    return np.array(mean, dtype)


class BandStatistics:
    """Gathers the values of each band, part by part.

    Integers of up to 16 bits are counted one by one, so that everything is exact. Of other types,
    mean and deviation come from combined parts (Chan, Golub and LeVeque 1979), which do not cancel
    as a difference of sums of squares does, and percentiles from every n-th valid pixel.

    Args:
        bands: Number of bands.
        dtype: Their type.
        pixels: How many pixels will come about, over all parts: sets n.
    """

    def __init__(self, bands: int, dtype: np.dtype[Any], pixels: int) -> None:
        self.dtype = np.dtype(dtype)
        self.count = 0
        self._counts: NDArray[np.int64] | None = None
        if np.issubdtype(self.dtype, np.integer) and self.dtype.itemsize <= 2:
            self._offset = int(np.iinfo(self.dtype).min)
            self._counts = np.zeros((bands, 256**self.dtype.itemsize), np.int64)
        self._mean = np.zeros(bands)
        self._squares = np.zeros(bands)
        self._low = np.full(bands, np.inf)
        self._high = np.full(bands, -np.inf)
        self._step = max(1, pixels // _SAMPLE)
        self._sample: list[NDArray[np.float64]] = []

    def add(self, bands: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        """Takes in a part.

        Args:
            bands: (C, h, w).
            valid: (h, w) pixels that count.
        """
        if self.dtype == np.uint8:
            self._add_bytes(bands, valid)
            return
        for top in range(0, bands.shape[1], _ROWS):
            part, seen = bands[:, top : top + _ROWS], valid[top : top + _ROWS]
            pixels = part.reshape(len(part), -1) if seen.all() else part[:, seen]
            if pixels.shape[1] == 0:
                continue
            if self._counts is not None:
                for counts, values in zip(self._counts, pixels, strict=True):
                    shifted = (
                        values if self._offset == 0 else values.astype(np.int64) - self._offset
                    )
                    counts += np.bincount(shifted, minlength=len(counts))
            else:
                self._combine(pixels.astype(float))
            self.count += pixels.shape[1]

    def _add_bytes(self, bands: NDArray[np.uint8], valid: NDArray[np.bool_]) -> None:
        """Pillow counts bytes as bytes; numpy makes eight of each first, and takes four times."""
        assert self._counts is not None
        added = int(np.count_nonzero(valid))
        if added == 0:
            return
        chosen = None if added == valid.size else Image.fromarray(valid.view(np.uint8) * 255)
        for counts, band in zip(self._counts, bands, strict=True):
            counts += Image.fromarray(np.ascontiguousarray(band)).histogram(chosen)
        self.count += added

    def merge(self, other: "BandStatistics") -> None:
        """Takes in what another one, of the same bands and type, has gathered."""
        if other.count == 0:
            return
        if self._counts is not None and other._counts is not None:
            self._counts += other._counts
        else:
            self._absorb(other.count, other._mean, other._squares)
            self._low = np.minimum(self._low, other._low)
            self._high = np.maximum(self._high, other._high)
            self._sample += other._sample
        self.count += other.count

    def _combine(self, pixels: NDArray[np.float64]) -> None:
        first = -self.count % self._step
        self._sample.append(pixels[:, first :: self._step].copy())
        self._low = np.minimum(self._low, pixels.min(axis=1))
        self._high = np.maximum(self._high, pixels.max(axis=1))
        mean = pixels.mean(axis=1)
        pixels -= mean[:, None]
        self._absorb(pixels.shape[1], mean, np.einsum("bp,bp->b", pixels, pixels))

    def _absorb(self, added: int, mean: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        """Combines counts, means and sums of squared deviations; the caller adds the count."""
        total = self.count + added
        delta = mean - self._mean
        self._squares = self._squares + squares + delta**2 * (self.count * added / total)
        self._mean = self._mean + delta * (added / total)

    @property
    def range(self) -> tuple[list[float], list[float]]:
        """Smallest and largest value of each band; at least one pixel was added."""
        if self._counts is None:
            return self._low.tolist(), self._high.tolist()
        held = [np.flatnonzero(counts) + self._offset for counts in self._counts]
        return [float(values[0]) for values in held], [float(values[-1]) for values in held]

    def percentile(self, percent: float) -> list[float]:
        """The value of each band that ``percent`` of its pixels do not exceed.

        Args:
            percent: In [0, 100]; the smallest and largest values themselves at the ends.
        """
        if self._counts is None:
            if percent in (0, 100):
                return self.range[0 if percent == 0 else 1]
            return [
                float(value)
                for value in np.percentile(np.concatenate(self._sample, axis=1), percent, axis=1)
            ]
        rank = max(1, int(np.ceil(percent / 100 * self.count)))
        return [
            float(np.searchsorted(np.cumsum(counts), rank) + self._offset)
            for counts in self._counts
        ]

    def normalisation(self, stretch: Sequence[float] | None) -> Normalisation:
        """The scale of each band.

        Args:
            stretch: Lower and upper percentile that become -1 and 1, values beyond them being
                clipped; None for mean 0 and standard deviation 1.

        Raises:
            ValueError: There was no valid pixel.
        """
        if self.count == 0:
            raise ValueError("no valid pixel to measure")
        if stretch is None:
            return Normalisation(*self._moments())
        low, high = (self.percentile(percent) for percent in stretch)
        ends = list(zip(low, high, strict=True))
        return Normalisation(
            [(a + b) / 2 for a, b in ends], [(b - a) / 2 for a, b in ends], low, high
        )

    def _moments(self) -> tuple[list[float], list[float]]:
        """Mean and population standard deviation of each band."""
        if self._counts is None:
            return self._mean.tolist(), np.sqrt(self._squares / self.count).tolist()
        values = np.arange(self._counts.shape[1], dtype=np.float64) + self._offset
        means = self._counts @ values / self.count
        deviations = values[None, :] - means[:, None]
        spread = np.einsum("bv,bv->b", self._counts.astype(float), deviations**2)
        return means.tolist(), np.sqrt(spread / self.count).tolist()
