"""The tile grid of a scene, the road share of each tile and the label that follows from it."""

from fractions import Fraction
from itertools import pairwise, product

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.imagery.windows import coordinates
from vbp_lightning.data.tiles.tile import Label

_MOST_TILES = 20_000_000
"""Tiles of a scene; their places take 16 bytes each, and several times as much while planned."""


def tile_origins(length: int, tile_size: int, stride: int, cover_edges: bool) -> list[int]:
    """First pixels of the tiles along one axis.

    Args:
        length: The scene's size along the axis, in pixels.
        tile_size: Tile size in pixels.
        stride: Distance between neighbouring tiles in pixels.
        cover_edges: Whether a last tile, shifted inwards, covers the pixels beyond the last stride.

    Returns:
        Ascending first pixels in [0, length - tile_size]; empty if the scene is smaller than a
        tile.
    """
    origins = list(range(0, length - tile_size + 1, stride))
    if cover_edges and origins and origins[-1] + tile_size < length:
        origins.append(length - tile_size)
    return origins


def tile_grid(
    shape: tuple[int, ...], tile_size: int, stride: int, cover_edges: bool
) -> NDArray[np.int64]:
    """Upper-left corners of a scene's tiles, row by row.

    Args:
        shape: Height and width of the scene in pixels.
        tile_size: Tile size in pixels.
        stride: Distance between neighbouring tiles in pixels.
        cover_edges: Whether last tiles, shifted inwards, cover the pixels beyond the last stride.

    Returns:
        (N, 2) rows and columns.

    Raises:
        DataError: There are more than 20 million.
    """
    height, width = shape
    if (height // stride + 1) * (width // stride + 1) > _MOST_TILES:
        raise DataError(
            f"a scene of {width} × {height} px has more than {_MOST_TILES // 10**6} million tiles"
            f" {stride} px apart (data.stride, data.train_stride, data.resolution): enlarge them"
        )
    rows = tile_origins(height, tile_size, stride, cover_edges)
    cols = tile_origins(width, tile_size, stride, cover_edges)
    axes = np.meshgrid(np.array(rows, np.int64), np.array(cols, np.int64), indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, 2)


def tile_counts(
    pixels: NDArray[np.bool_], corners: NDArray[np.int64], tile_size: int
) -> NDArray[np.int64]:
    """Number of true pixels of each tile, from one integral image (Crow 1984).

    Args:
        pixels: (H, W).
        corners: (N, 2) rows and columns of upper-left corners; pixels outside the array count as
            false.
        tile_size: Tile size in pixels.

    Returns:
        (N,) counts in [0, tile_size²].
    """
    top, left = np.clip(corners, 0, pixels.shape).T
    bottom, right = np.clip(corners + tile_size, 0, pixels.shape).T
    if len(corners) == 0 or not pixels.any():
        return np.zeros(len(corners), np.int64)
    if pixels.all():
        areas: NDArray[np.int64] = (bottom - top) * (right - left)
        return areas
    # Only sums between the edges of tiles are needed: rows are added first, byte by byte.
    rows, cols = np.union1d(top, bottom), np.union1d(left, right)
    bands = np.empty((len(rows) - 1, pixels.shape[1]), np.int32)
    for band, (first, last) in zip(bands, pairwise(rows.tolist()), strict=True):
        np.sum(pixels[first:last].view(np.uint8), axis=0, dtype=np.int32, out=band)
    cells = np.add.reduceat(bands[:, : cols[-1]], cols[:-1], axis=1)
    integral = np.zeros((len(rows), len(cols)), np.int64)
    integral[1:, 1:] = cells.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    up, down = np.searchsorted(rows, top), np.searchsorted(rows, bottom)
    west, east = np.searchsorted(cols, left), np.searchsorted(cols, right)
    counts: NDArray[np.int64] = (
        integral[down, east] - integral[up, east] - integral[down, west] + integral[up, west]
    )
    return counts


def labels_of(
    road: NDArray[np.int64], valid: NDArray[np.int64], road_share: float
) -> NDArray[np.int64]:
    """Labels by road share, compared in integers so that they do not depend on rounding.

    ``road_share`` is taken as the decimal number that was written: 7 of 100 pixels reach 0.07,
    although ``0.07 * 100 > 7`` in floating point.

    Args:
        road: (N,) valid road pixels of each tile.
        valid: (N,) valid pixels of each tile, at least one.
        road_share: Smallest road share of a road tile, in (0, 1].

    Returns:
        (N,) values of :class:`~vbp_lightning.data.tiles.tile.Label`.
    """
    least = Fraction(str(road_share)).limit_denominator(10**9)
    is_road = road * least.denominator >= valid * least.numerator
    labels = np.where(is_road, Label.ROAD, Label.IGNORED)
    return np.where(road == 0, Label.NON_ROAD, labels).astype(np.int64)


def exceeds(count: NDArray[np.int64], total: int, share: float) -> NDArray[np.bool_]:
    """Whether ``count / total > share``, compared in integers.

    Args:
        count: (N,).
        total: Total number.
        share: In [0, 1], taken as the decimal number that was written.
    """
    most = Fraction(str(share)).limit_denominator(10**9)
    above: NDArray[np.bool_] = count * most.denominator > total * most.numerator
    return above


def tile_bounds(
    transform: Affine, row: int, col: int, tile_size: int
) -> tuple[float, float, float, float]:
    """Left, bottom, right and top of a tile.

    Args:
        transform: From (column, row) to the scene's coordinates; the identity where it is not
            georeferenced.
        row: First pixel row.
        col: First pixel column.
        tile_size: Tile size in pixels.

    Returns:
        The bounding box of the tile in the scene's coordinates. If y grows downwards, as in pixel
        coordinates, bottom is larger than top.
    """
    corners = product((col, col + tile_size), (row, row + tile_size))
    xs, ys = zip(*(coordinates(transform, x, y) for x, y in corners), strict=True)
    bottom, top = (max(ys), min(ys)) if transform.e > 0 else (min(ys), max(ys))
    return min(xs), bottom, max(xs), top
