"""The land: parcels with furrows and straight borders, bare soil, rivers and canals."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vbp_lightning.data.synthetic.noise import fractal_noise, smooth_noise
from vbp_lightning.data.synthetic.painting import Canvas, colour, varied
from vbp_lightning.data.synthetic.palette import Palette
from vbp_lightning.data.synthetic.shapes import (
    Array,
    LineField,
    Rectangle,
    coverage,
    line_field,
    stripe,
    through,
)

Use = Literal["meadow", "crop", "stubble", "ploughed", "bare", "orchard", "wood", "plots"]
USES: tuple[Use, ...] = (
    "meadow",
    "crop",
    "stubble",
    "ploughed",
    "bare",
    "orchard",
    "wood",
    "plots",
)


@dataclass(frozen=True)
class Parcel:
    """A piece of land of one use."""

    shape: Rectangle
    use: Use


def divide(
    rng: np.random.Generator, extent: float, angle: float, shares: dict[Use, float]
) -> list[Parcel]:
    """Cuts the scene into parcels by straight cuts along two directions.

    Args:
        rng: Random generator.
        extent: Edge of the scene, metres.
        angle: Direction of the cuts, radians.
        shares: Relative weight with which each use is drawn.

    Returns:
        Parcels that cover the scene.
    """
    half = extent * 0.75
    limit = float(rng.uniform(55, 110))
    pieces = [(-half, -half, half, half)]
    parcels: list[Parcel] = []
    frame = Rectangle(extent / 2, extent / 2, 2 * half, 2 * half, angle)
    weights = np.array([shares[use] for use in USES])
    weights = weights / weights.sum()
    while pieces:
        u0, v0, u1, v1 = pieces.pop()
        long, short = max(u1 - u0, v1 - v0), min(u1 - u0, v1 - v0)
        if long > limit * rng.uniform(0.9, 2.0) or long > 3.5 * short:
            cut = float(rng.uniform(0.35, 0.65))
            if u1 - u0 > v1 - v0:
                middle = u0 + cut * (u1 - u0)
                pieces += [(u0, v0, middle, v1), (middle, v0, u1, v1)]
            else:
                middle = v0 + cut * (v1 - v0)
                pieces += [(u0, v0, u1, middle), (u0, middle, u1, v1)]
            continue
        x, y = frame.at((u0 + u1) / 2, (v0 + v1) / 2)
        use = USES[int(rng.choice(len(USES), p=weights))]
        parcels.append(Parcel(Rectangle(x, y, u1 - u0, v1 - v0, angle), use))
    return parcels


def paint_parcels(
    canvas: Canvas, palette: Palette, parcels: list[Parcel], rng: np.random.Generator
) -> None:
    """Paints every parcel, with dry and damp patches across parcel borders."""
    damp = fractal_noise(rng, canvas.grid, 60, octaves=5)
    canvas.paint(
        canvas.grid.whole,
        np.ones_like(canvas.height),
        canvas.textured(canvas.grid.whole, palette.grass, 0.07),
    )
    for parcel in parcels:
        _paint_parcel(canvas, palette, parcel, rng)
    canvas.rgb[...] *= (1 + np.float32(rng.uniform(0.03, 0.08)) * damp)[..., None]


def _rows(across: Array, spacing: float, pixel: float) -> Array:
    """Furrows: a wave across them, weaker where it is finer than the pixels."""
    contrast = np.exp(-((1.1 * pixel / spacing) ** 2) * 4)
    return np.asarray(np.sin(2 * np.pi / spacing * across) * contrast, dtype=np.float32)


def _paint_parcel(
    canvas: Canvas, palette: Palette, parcel: Parcel, rng: np.random.Generator
) -> None:
    window, u, v = parcel.shape.local(canvas.grid)
    if u.size == 0:
        return
    pixel = canvas.grid.pixel
    border = float(rng.uniform(0.3, 2.0))
    # The grain makes the border of a field irregular.
    depth = parcel.shape.depth(u, v) - np.float32(border) + 0.35 * canvas.grain[window]
    alpha = coverage(depth, pixel)
    across = v if parcel.shape.length > parcel.shape.width else u
    if parcel.use == "meadow":
        base = varied(rng, palette.grass, 0.10, 0.05)
        canvas.paint(window, alpha, canvas.textured(window, base, float(rng.uniform(0.05, 0.10))))
        if rng.random() < 0.35:  # swaths of mown grass
            _shade(canvas, parcel, _rows(across, float(rng.uniform(5, 9)), pixel), 0.04)
    elif parcel.use == "crop":
        base = varied(rng, palette.crop, 0.10, 0.05)
        canvas.paint(window, alpha, canvas.textured(window, base, 0.05))
        _shade(canvas, parcel, _rows(across, float(rng.uniform(1.6, 3.5)), pixel), 0.05)
        _paint_tramlines(canvas, palette, parcel, across, rng)
    elif parcel.use == "stubble":
        base = varied(rng, palette.stubble, 0.08, 0.03)
        canvas.paint(window, alpha, canvas.textured(window, base, 0.05))
        _shade(canvas, parcel, _rows(across, float(rng.uniform(3, 7)), pixel), 0.06)
    elif parcel.use == "ploughed":
        base = varied(rng, palette.soil, 0.12, 0.03)
        canvas.paint(window, alpha, canvas.textured(window, base, 0.08))
        _shade(canvas, parcel, _rows(across, float(rng.uniform(2, 5)), pixel), 0.10)
    elif parcel.use == "bare":
        base = palette.dirt(rng)
        canvas.paint(window, alpha, canvas.textured(window, base, 0.07))
    elif parcel.use == "orchard":
        base = varied(rng, palette.grass, 0.08, 0.04)
        canvas.paint(window, alpha, canvas.textured(window, base, 0.07))
    elif parcel.use == "wood":
        base = palette.leaves * np.float32(0.9)
        canvas.paint(window, alpha, canvas.textured(window, base, 0.12))
    else:  # narrow plots side by side, as in allotments and strip farming
        width = float(rng.uniform(7, 16))
        strip = np.floor(across / width).astype(np.intp)
        strip -= strip.min()
        colours = np.stack(
            [
                varied(
                    rng,
                    [palette.grass, palette.crop, palette.soil, palette.stubble][which],
                    0.1,
                    0.03,
                )
                for which in rng.integers(0, 4, int(strip.max()) + 1)
            ]
        )
        grain = (1 + 0.06 * canvas.grain[window])[..., None]
        canvas.paint(window, alpha, colours[np.broadcast_to(strip, alpha.shape)] * grain)
        _shade(canvas, parcel, _rows(across, float(rng.uniform(1.5, 3)), pixel), 0.05)


def _shade(canvas: Canvas, parcel: Parcel, wave: Array, contrast: float) -> None:
    window, u, v = parcel.shape.local(canvas.grid)
    inside = coverage(parcel.shape.depth(u, v) - 1.5, canvas.grid.pixel)
    canvas.rgb[window] *= (1 + np.float32(contrast) * wave * inside)[..., None]


def _paint_tramlines(
    canvas: Canvas, palette: Palette, parcel: Parcel, across: Array, rng: np.random.Generator
) -> None:
    """The pairs of wheel tracks of the sprayer, 12 to 24 m apart."""
    window, u, v = parcel.shape.local(canvas.grid)
    spacing = float(rng.uniform(12, 24))
    lane = np.mod(across + rng.uniform(0, spacing), np.float32(spacing)) - np.float32(spacing / 2)
    ruts = stripe(np.abs(lane) - 0.95, 0.4, canvas.grid.pixel)
    inside = coverage(parcel.shape.depth(u, v) - 2.0, canvas.grid.pixel)
    strength = np.float32(rng.uniform(0.3, 0.8))
    canvas.paint(window, ruts * inside * strength, varied(rng, palette.soil, 0.05, 0.02))


def paint_soil(canvas: Canvas, palette: Palette, rng: np.random.Generator) -> None:
    """Bare patches with soft, irregular edges."""
    for _ in range(int(rng.integers(1, 4))):
        field = fractal_noise(rng, canvas.grid, float(rng.uniform(30, 70)), octaves=5)
        rare = float(rng.uniform(1.3, 2.0))
        alpha = np.clip((field - rare) * 2.5, 0, 0.9).astype(np.float32)
        window = canvas.grid.whole
        canvas.paint(window, alpha, canvas.textured(window, palette.dirt(rng), 0.08))


def paint_strips(
    canvas: Canvas, palette: Palette, parcels: list[Parcel], rng: np.random.Generator
) -> None:
    """Strips of bare earth along parcel borders: headlands, drained ditches, fire breaks.

    They have the width and the colour of a dirt road, but no wheel tracks, and ragged edges.
    """
    share = float(rng.uniform(0.15, 0.4))
    wander = smooth_noise(rng, canvas.grid, 7.0)
    for parcel in parcels:
        if rng.random() > share or parcel.use == "wood":
            continue
        width = float(rng.uniform(3, 8))
        shape, side = parcel.shape, float(rng.choice([-1.0, 1.0]))
        if rng.random() < 0.5:
            x, y = shape.at(0.0, side * (shape.width - width) / 2)
            strip = Rectangle(x, y, shape.length, width, shape.angle)
        else:
            x, y = shape.at(side * (shape.length - width) / 2, 0.0)
            strip = Rectangle(x, y, width, shape.width, shape.angle)
        window, u, v = strip.local(canvas.grid, margin=3.0)
        if u.size == 0:
            continue
        ragged = strip.depth(u, v) + 1.1 * wander[window] + 0.5 * canvas.grain[window]
        alpha = np.clip(ragged / 2.0 + 0.4, 0, 0.92).astype(np.float32)
        canvas.paint(window, alpha, canvas.textured(window, palette.dirt(rng), 0.08))


def paint_water(canvas: Canvas, palette: Palette, rng: np.random.Generator, angle: float) -> None:
    """Rivers that wind between reeds, and canals between straight banks."""
    grid = canvas.grid
    for _ in range(int(rng.choice([0, 1, 2], p=[0.35, 0.45, 0.20]))):
        via = (float(rng.uniform(0, grid.extent)), float(rng.uniform(0, grid.extent)))
        heading = float(rng.uniform(0, 2 * np.pi))
        if rng.random() < 0.5:
            width = float(rng.uniform(6, 26))
            points = through(rng, grid, via, heading, 0.012, 1.2 * width)
            field = line_field(grid, points, width / 2 + 14)
            swell = smooth_noise(rng, grid, 35.0)[field.area]
            depth = width / 2 * (1 + 0.22 * swell) - field.distance
            reeds = coverage(depth + np.float32(rng.uniform(2, 6)), grid.pixel * 4)
            canvas.paint(
                field.area,
                reeds * np.float32(0.85),
                canvas.textured(field.area, palette.leaves * np.float32(1.15), 0.14),
            )
        else:
            width = float(rng.uniform(5, 16))
            heading = angle + float(rng.normal(0, 0.15)) + float(rng.integers(0, 2)) * np.pi / 2
            points = through(rng, grid, via, heading, 0.0008, 200)
            field = line_field(grid, points, width / 2 + 14)
            depth = width / 2 - field.distance
            if rng.random() < 0.6:
                bank = varied(rng, palette.concrete, 0.1, 0.02)
            else:
                bank = palette.dirt(rng)
            _paint_bank(canvas, field, width, bank, float(rng.uniform(0.8, 2.2)))
        tone = varied(rng, palette.water, 0.15, 0.04)
        if rng.random() < 0.25:  # water that reflects a pale sky, as grey as asphalt
            tone = np.asarray(0.6 * tone + 0.4 * palette.paving(rng), dtype=np.float32)
        ripple = np.float32(0.03) * smooth_noise(rng, grid, 9.0)[field.area]
        surface = tone * (1 + ripple + 0.015 * canvas.grain[field.area])[..., None]
        alpha = coverage(depth, grid.pixel)
        shallow = np.clip(1 - depth / np.float32(0.2 * width), 0, 1)[..., None]
        bed = colour(0.30, 0.29, 0.20)
        canvas.paint(field.area, alpha, surface + np.float32(0.3) * shallow * (bed - surface))
        canvas.taken[field.area] |= depth > -2.0


def _paint_bank(
    canvas: Canvas, field: LineField, width: float, bank: Array, breadth: float
) -> None:
    grid = canvas.grid
    grass = coverage(width / 2 + breadth + 5 - field.distance, grid.pixel)
    canvas.paint(
        field.area,
        grass * np.float32(0.7),
        canvas.textured(field.area, colour(0.33, 0.36, 0.2), 0.08),
    )
    edge = coverage(width / 2 + breadth - field.distance, grid.pixel)
    canvas.paint(field.area, edge, canvas.textured(field.area, bank, 0.05))
