"""The meaning of the values of a road mask, and whether the values of a file have one."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_SHADES_OF_A_MASK = 16
"""Largest number of values between road and non-road at which any share of them is accepted."""

_COUNTED = 256
"""Number of different values up to which each is counted."""

_REACH = 33
"""Pixels on a side of the surroundings in which a soft border has both of its sides: two blocks of
lossy compression."""

_SHOWN = 8
"""Values that a message names."""

Planes = Callable[[], Iterator[tuple[NDArray[Any], NDArray[np.bool_]]]]
"""Reads the windows of a road mask again: values (h, w) and pixels (h, w) whose value counts."""


@dataclass(frozen=True)
class MaskValues:
    """What the values of road masks mean.

    Args:
        threshold: Values above it are road, if ``road`` is None.
        road: Values that are road; None for those above the threshold.
        non_road: Values that are not road, if ``road`` is given.
        ignored: Values of pixels whose label is not known.
    """

    threshold: float = 127
    road: tuple[float, ...] | None = None
    non_road: tuple[float, ...] = (0,)
    ignored: tuple[float, ...] = ()

    def is_road(self, plane: NDArray[Any]) -> NDArray[np.bool_]:
        """Returns which pixels (h, w) are road."""
        if self.road is None:
            return np.asarray(plane > self.threshold)
        return np.isin(plane, self.road)

    def has_label(self, plane: NDArray[Any]) -> NDArray[np.bool_]:
        """Returns which pixels (h, w) are not ignored."""
        if not self.ignored:
            return np.ones(plane.shape, dtype=bool)
        return np.isin(plane, self.ignored, invert=True)

    def __str__(self) -> str:
        if self.road is None:
            return f"road lies above data.mask_threshold={self.threshold:g}"
        return f"road is data.road_values=[{', '.join(f'{value:g}' for value in self.road)}]"


class ValueCounts:
    """Counts the values of a road mask that is read in windows.

    Args:
        values: Their meaning.

    Attributes:
        largest: The largest value.
    """

    def __init__(self, values: MaskValues) -> None:
        self._values = values
        self.largest = 0.0
        self._counts: Counter[float] = Counter()
        self._are_many = False
        self._middle = 0
        self._shades: set[float] = set()
        self._seen = 0

    def add(self, plane: NDArray[Any], known: NDArray[np.bool_]) -> None:
        """Counts the values (h, w) of a window at its pixels (h, w) whose label is known."""
        own = plane[known]
        if own.size:
            self.largest = max(self.largest, float(own.max()))
        self._seen += own.size
        threshold = self._values.threshold
        between = own[(own > 0.5 * threshold) & (own < 1.5 * threshold)]
        self._middle += between.size
        if len(self._shades) <= _SHADES_OF_A_MASK:
            self._shades.update(np.unique(between).tolist()[: _SHADES_OF_A_MASK + 1])
        if not self._are_many:
            self._counts.update(_counted(own))
            self._are_many = len(self._counts) > _COUNTED

    def unexplained(self, planes: Planes) -> str | None:
        """Returns why the values that were counted have no meaning, or None if they have one.

        With ``road`` given, every value must be listed. With a threshold there may be one value
        off the road and one on it. Between them may lie soft borders and what lossy compression
        leaves, but no areas of further values: those are classes.

        Args:
            planes: Reads the mask again.
        """
        values = self._values
        if values.road is not None:
            listed = {*values.road, *values.non_road, *values.ignored}
            return self._message({v: n for v, n in self._counts.items() if v not in listed})
        if self._middle > 0.1 * self._seen and len(self._shades) > _SHADES_OF_A_MASK:
            return (
                f"is not a road mask: many of its values are far from both 0 and "
                f"{2 * values.threshold + 1:g} (data.mask_threshold={values.threshold:g}): give a "
                "mask that is 0 off the road and one value on it"
            )
        if self._are_many or len(self._counts) < 3:
            return None
        common = [value for value, _ in self._counts.most_common()]
        low = next((value for value in common if value <= values.threshold), None)
        high = next((value for value in common if value > values.threshold), None)
        if low is None or high is None:
            return None
        return self._message(self._classes(low, high, planes))

    def _classes(self, low: float, high: float, planes: Planes) -> dict[float, int]:
        """The values that are neither a soft border nor noise, with their numbers of pixels.

        A soft border has both sides within its surroundings.
        """
        span = high - low
        beside, flat = Counter[float](), Counter[float]()
        others_counts = {v: n for v, n in self._counts.items() if v not in (low, high)}
        for plane, known in planes():
            if span < _SHADES_OF_A_MASK and np.issubdtype(plane.dtype, np.integer):
                return others_counts  # numbers of classes, too close for soft borders
            values = plane.astype(np.float64)
            others = known & (values != low) & (values != high)
            if not others.any():
                continue
            sides = [_surrounded(np.abs(values - side) <= span / 4) for side in (low, high)]
            far = others & ~(sides[0] & sides[1])
            beside.update(_counted(plane[far]))
            same = ndimage.maximum_filter(plane, 3) == ndimage.minimum_filter(plane, 3)
            flat.update(_counted(plane[far & same]))
        if len(self._counts) > _SHADES_OF_A_MASK:
            is_class = flat.total() > 0.01 * self._seen
            return {v: n for v, n in flat.items() if is_class}
        return {
            value: count
            for value, count in others_counts.items()
            if not low - span / 8 <= value <= high + span / 8
            or (beside[value] > max(10, 0.1 * count) and abs(value - high) > span / 32)
        }

    def _message(self, unexplained: Mapping[float, int]) -> str | None:
        if not unexplained:
            return None
        listed = sorted(unexplained.items(), key=lambda item: -item[1])
        named = ", ".join(f"{value:g} ({count} px)" for value, count in listed[:_SHOWN])
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        others = [(v, n) for v, n in self._counts.most_common() if v not in unexplained]
        beside = ", ".join(f"{value:g} ({count} px)" for value, count in others[:_SHOWN])
        return (
            f"holds {named}{more}{f' beside {beside}' if beside else ''}, and {self._values}: say "
            "what each value means with data.road_values=[…], data.ignore_values=[…] and "
            "data.non_road_values=[…]"
        )


def _counted(values: NDArray[Any]) -> dict[float, int]:
    """The number of each value, of at most one more than are counted."""
    if values.dtype == np.uint8:
        counts = np.bincount(values, minlength=256)
        return {float(value): int(counts[value]) for value in np.flatnonzero(counts)}
    found, numbers = np.unique(values, return_counts=True)
    pairs = zip(found[: _COUNTED + 1].tolist(), numbers.tolist(), strict=False)
    return {float(value): int(number) for value, number in pairs}


def _surrounded(pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels (h, w) near some pixels (h, w); what lies beyond the window counts as those."""
    near = pixels.astype(np.uint8)
    for axis in (0, 1):
        near = ndimage.maximum_filter1d(near, _REACH, axis, mode="constant", cval=1)
    return near > 0
