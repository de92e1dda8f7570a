"""Railways: ballast, sleepers and rails."""

import numpy as np

from vbp_lightning.data.synthetic.painting import Canvas, colour, varied
from vbp_lightning.data.synthetic.palette import Palette
from vbp_lightning.data.synthetic.shapes import coverage, line_field, stripe, through

GAUGE = 1.435
"""Distance between the rails, metres."""


def paint_railways(
    canvas: Canvas, palette: Palette, rng: np.random.Generator, angle: float
) -> None:
    """Lays no, one or two lines of one to three tracks across the scene."""
    grid, pixel = canvas.grid, canvas.grid.pixel
    for _ in range(int(rng.choice([0, 1, 2], p=[0.45, 0.40, 0.15]))):
        tracks = int(rng.choice([1, 2, 3], p=[0.45, 0.4, 0.15]))
        width = 4.2 + 4.0 * (tracks - 1)
        via = rng.uniform(0.05, 0.95, 2) * grid.extent
        heading = angle + float(rng.normal(0, 0.5)) + float(rng.integers(0, 2)) * np.pi / 2
        points = through(rng, grid, (float(via[0]), float(via[1])), heading, 0.0015, 220)
        field = line_field(grid, points, width / 2 + 8)
        area = field.area
        bank = coverage(width / 2 + 3 - field.distance + 0.8 * canvas.grain[area], pixel * 2)
        scrub = varied(rng, palette.grass * np.float32(0.85), 0.08, 0.03)
        canvas.paint(area, bank * np.float32(0.8), canvas.textured(area, scrub, 0.1))
        bed = coverage(width / 2 - field.distance + 0.3 * canvas.grain[area], pixel)
        stone = varied(rng, palette.ballast, 0.12, 0.02)
        canvas.paint(area, bed, canvas.textured(area, stone, 0.07))
        sleeper = stripe(np.mod(field.along, 1.2) - 0.6, 0.5, pixel)
        rail = varied(rng, colour(0.42, 0.36, 0.33), 0.15, 0.03)
        for track in range(tracks):
            side = field.offset - np.float32(4.0 * (track - (tracks - 1) / 2))
            ties = coverage(np.float32(1.25) - np.abs(side), pixel) * sleeper
            canvas.paint(area, ties * np.float32(0.55), stone * np.float32(0.6))
            rails = stripe(np.abs(side) - GAUGE / 2, 0.22, pixel)
            canvas.paint(area, rails * np.float32(0.9), rail * np.float32(1.7))
        canvas.taken[area] |= field.distance <= width / 2 + 3
