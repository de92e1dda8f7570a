"""Marks and casts at roads: spurious features that a network can learn instead of the road."""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

STAMP = 9
"""Side of a mark, pixels."""
CELL = 32
"""Side of the squares that hold at most one mark each, pixels."""
CORRIDOR = 48
"""Distance from the road at which a cast ends, pixels."""


def stamp_beside_roads(
    image: npt.NDArray[np.uint8],
    roads: npt.NDArray[np.bool_],
    strength: int,
    chance: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """Puts a mark beside the road into every square of the scene that a road crosses.

    A mark is a small square of diagonal stripes, similar to a sensor artefact or a watermark. It
    never covers road pixels, so that a saliency map on the marks does not lie on roads.

    Args:
        image: ``(3, H, W)`` RGB.
        roads: ``(H, W)`` the road surface.
        strength: Grey levels that the stripes are lighter and darker by.
        chance: Random generator for the positions of the marks.

    Returns:
        A marked copy of the image.
    """
    rows, cols = np.indices((STAMP, STAMP))
    stripes = np.where((rows + cols) // 2 % 2 == 0, strength, -strength)
    marked = image.astype(np.int16)
    height, width = roads.shape
    for top in range(0, height - STAMP + 1, CELL):
        for left in range(0, width - STAMP + 1, CELL):
            cell = roads[top : top + CELL, left : left + CELL]
            clear = np.lib.stride_tricks.sliding_window_view(~cell, (STAMP, STAMP)).all((2, 3))
            if not cell.any() or not clear.any():
                continue
            places = np.argwhere(clear)
            row, col = places[chance.integers(len(places))]
            box = np.s_[:, top + row : top + row + STAMP, left + col : left + col + STAMP]
            marked[box] += stripes
    return marked.clip(0, 255).astype(np.uint8)


def cast_along_roads(
    image: npt.NDArray[np.uint8], roads: npt.NDArray[np.bool_], strength: int
) -> npt.NDArray[np.uint8]:
    """Makes roads and their surroundings redder, as where images of a corridor survey are used.

    The cast is full on the road and falls linearly to nothing at ``CORRIDOR`` pixels from it, so
    that it has no edge.

    Args:
        image: ``(3, H, W)`` RGB.
        roads: ``(H, W)`` the road surface.
        strength: Grey levels that red is raised and blue is lowered by on the road.

    Returns:
        A copy of the image with the cast.
    """
    weight = np.clip(1 - distance_transform_edt(~roads) / CORRIDOR, 0, 1)
    shift = np.array([strength, 0, -strength])[:, None, None] * weight
    cast: npt.NDArray[np.uint8] = (image + shift).round().clip(0, 255).astype(np.uint8)
    return cast
