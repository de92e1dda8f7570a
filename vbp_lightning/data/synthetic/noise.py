"""Smooth random fields: filtered white noise over the scene."""

import numpy as np

from vbp_lightning.data.synthetic.shapes import Array, Grid


def smooth_noise(rng: np.random.Generator, grid: Grid, scale: float) -> Array:
    """Random field of about zero mean and unit variance with features of ``scale`` metres.

    White noise on a coarse lattice, interpolated by cosines along one axis and then the other.

    Returns:
        ``(size, size)`` float32.
    """
    cell = max(scale / grid.pixel, 1.0)
    count = int(np.ceil(grid.size / cell)) + 2
    lattice = rng.standard_normal((count, count), dtype=np.float32)
    shift = rng.random(2)
    columns = _interpolate(lattice.T.copy(), grid.size, cell, float(shift[0]))
    field = _interpolate(columns.T.copy(), grid.size, cell, float(shift[1]))
    # The blend of two neighbours has a variance of 2/3 of theirs on average, on either axis.
    return field * np.float32(1.4)


def _interpolate(rows: Array, size: int, cell: float, shift: float) -> Array:
    position = np.arange(size) / cell + shift
    first = position.astype(np.intp)
    part = position - first
    weight = ((1 - np.cos(np.pi * part)) / 2).astype(np.float32)[:, None]
    return np.asarray(rows[first] * (1 - weight) + rows[first + 1] * weight, dtype=np.float32)


def fractal_noise(rng: np.random.Generator, grid: Grid, scale: float, octaves: int = 4) -> Array:
    """Sum of ``octaves`` smooth noises, each of half the scale and 0.6 of the height before.

    Returns:
        ``(size, size)`` float32, about zero mean and unit variance.
    """
    heights = [0.6**octave for octave in range(octaves)]
    field = np.zeros((grid.size, grid.size), dtype=np.float32)
    for octave, height in enumerate(heights):
        field += np.float32(height) * smooth_noise(rng, grid, scale / 2**octave)
    return field / np.float32(np.sqrt(np.sum(np.square(heights))))
