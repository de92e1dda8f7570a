"""Sunlight: shading of slopes and the shadows that roofs, crowns and cars cast."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from vbp_lightning.data.synthetic.painting import Canvas, colour
from vbp_lightning.data.synthetic.shapes import Array


@dataclass(frozen=True)
class Sun:
    """Where the light comes from.

    Args:
        azimuth: Direction towards the sun, radians from the x axis (y downwards).
        slope: Tangent of its elevation.
        depth: Share of the light that a shadow removes, 0 to 1.
    """

    azimuth: float
    slope: float
    depth: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Sun":
        """Draws a time of day: the sun stands in the southern half of the sky."""
        azimuth = float(np.pi / 2 + rng.uniform(-1.2, 1.2))
        slope = float(np.tan(np.deg2rad(rng.uniform(35, 62))))
        return cls(azimuth, slope, float(rng.uniform(0.42, 0.62)))


def illuminate(canvas: Canvas, sun: Sun) -> None:
    """Shades slopes and casts shadows, in place."""
    pixel, height = canvas.grid.pixel, canvas.height
    down, right = np.gradient(ndimage.gaussian_filter(height, 0.6), pixel)
    towards = right * np.float32(np.cos(sun.azimuth)) + down * np.float32(np.sin(sun.azimuth))
    # A slope that rises towards the sun faces away from it and is darker; steep slopes are clipped.
    light = 1 - np.float32(0.22) * np.clip(towards, -1.3, 1.3)
    canvas.rgb[...] *= np.where(height > 1.5, light, 1)[..., None]
    shadow = np.clip((_cover(height, pixel, sun) - height) / 0.7, 0, 1)
    shadow = ndimage.gaussian_filter(shadow.astype(np.float32), 0.35 / pixel)
    # The remaining light comes from the sky and is bluer.
    taken = np.float32(sun.depth) * colour(1.04, 1.0, 0.92)
    canvas.rgb[...] *= 1 - shadow[..., None] * taken


def _cover(height: Array, pixel: float, sun: Sun) -> Array:
    """Height of the shadow's upper edge over each pixel, metres."""
    size = height.shape[0]
    cover = np.zeros_like(height)
    dx, dy = float(np.cos(sun.azimuth)), float(np.sin(sun.azimuth))
    steps = int(np.ceil(float(height.max()) / (sun.slope * pixel)))
    for step in range(1, min(steps, size - 1) + 1):
        right, down = round(step * dx), round(step * dy)
        rows = slice(max(-down, 0), size - max(down, 0))
        cols = slice(max(-right, 0), size - max(right, 0))
        from_rows = slice(max(down, 0), size - max(-down, 0))
        from_cols = slice(max(right, 0), size - max(-right, 0))
        drop = np.float32(step * pixel * sun.slope)
        target = cover[rows, cols]
        np.maximum(target, height[from_rows, from_cols] - drop, out=target)
    return cover
