"""Looking for pictures on a drawn page."""

import numpy as np


def positions(page, picture):
    """Returns every ``(x, y)`` at which a picture is on a page, pixel by pixel."""
    height, width = picture.shape[:2]
    starts = np.argwhere((page == picture[0, 0]).all(axis=-1))
    return [
        (int(x), int(y))
        for y, x in starts
        if np.array_equal(page[y : y + height, x : x + width], picture)
    ]


def enlarged(picture, factor):
    """Repeats every pixel of ``(H, W, …)`` in both directions."""
    return picture.repeat(factor, 0).repeat(factor, 1)
