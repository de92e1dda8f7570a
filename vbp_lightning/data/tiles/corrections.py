"""Corrections of labels: the file in which people answer what tiles show, and what follows."""

import hashlib
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

CORRECTION_FIELDS = (
    *("scene", "row", "col", "bounds", "label", "probability", "score"),
    *("new_label", "note", "digest"),
)
"""Columns of a file of corrections."""

Answer: TypeAlias = Literal["road", "non_road", "ignore", "unsure"]
"""What a person has answered: the class of a tile, or that it must not be used."""

ANSWERS: tuple[Answer, ...] = ("road", "non_road", "ignore", "unsure")


def tile_digest(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> str:
    """The digest of a tile's pixels, by which it is recognised.

    Args:
        pixels: ``(C, H, W)`` of the tile without its context, in the units of the scene; compared
            as float32, which the network gets.
        valid: ``(H, W)``; invalid pixels count as 0, since the value that they are filled with
            depends on the splits.

    Returns:
        16 hexadecimal digits. The first one is a letter, so that no spreadsheet takes the digest
        for a number.
    """
    values = np.where(valid, pixels.astype("<f4"), np.float32(0)) + np.float32(0)  # no -0
    content = repr(values.shape).encode() + np.ascontiguousarray(values).tobytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    return "abcdef"[int(digest[0], 16) % 6] + digest[1:]
