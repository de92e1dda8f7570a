"""Whether an alpha band is transparency, or imagery that its file calls alpha."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SOFT = 0.1
"""Largest share of pixels that may be partly transparent, as at soft borders."""


class AlphaCounts:
    """Counts the values of an alpha band.

    GDAL takes the fourth of four 8-bit bands for alpha, also if it is infrared. Transparency is 0
    or full: 1, 255, or the largest value of its type.
    """

    def __init__(self) -> None:
        self._seen = self._clear = 0
        self._full = np.zeros(3, np.int64)

    def add(self, opacity: NDArray[Any]) -> None:
        """Counts the pixels (h, w) of a window."""
        is_integer = np.issubdtype(opacity.dtype, np.integer)
        largest = np.iinfo(opacity.dtype).max if is_integer else 1
        self._seen += opacity.size
        self._clear += int(np.count_nonzero(opacity == 0))
        self._full += [np.count_nonzero(opacity == value) for value in (1, 255, largest)]

    @property
    def partial(self) -> float:
        """The share of pixels that are neither transparent nor opaque."""
        return float(1 - (self._clear + self._full.max()) / self._seen) if self._seen else 0.0

    @property
    def are_imagery(self) -> bool:
        """Whether more pixels are partly transparent than transparency has."""
        return self.partial > _SOFT
