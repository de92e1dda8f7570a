"""Roofs, yards and car parks: surfaces that have the colours of roads but are not roads.

They are placed independently of the roads, so that tiles with and without roads contain them.
Yards, car parks, their aisles and their driveways do not count as road.
"""

import numpy as np

from vbp_lightning.data.synthetic.painting import Canvas, Colour, colour, varied
from vbp_lightning.data.synthetic.palette import Palette
from vbp_lightning.data.synthetic.roads import Network
from vbp_lightning.data.synthetic.shapes import Array, Rectangle, coverage, stripe

CAR_COLOURS = (
    colour(0.85, 0.85, 0.86),
    colour(0.62, 0.63, 0.65),
    colour(0.16, 0.16, 0.17),
    colour(0.30, 0.31, 0.34),
    colour(0.50, 0.12, 0.11),
    colour(0.14, 0.20, 0.38),
)


def _spot(rng: np.random.Generator, canvas: Canvas) -> tuple[float, float]:
    spot = rng.random(2) * canvas.grid.extent
    return float(spot[0]), float(spot[1])


def paint_car_parks(
    canvas: Canvas, palette: Palette, rng: np.random.Generator, angle: float, number: int
) -> None:
    """Paints up to ``number`` car parks and yards where there is room."""
    for _ in range(number):
        length, width = float(rng.uniform(18, 60)), float(rng.uniform(17, 40))
        turn = angle + float(rng.integers(0, 2)) * np.pi / 2 + float(rng.normal(0, 0.12))
        for _ in range(6):
            x, y = _spot(rng, canvas)
            shape = Rectangle(x, y, length, width, turn)
            if canvas.is_free(shape, 2.0):
                break
        else:
            continue
        tone = palette.paving(rng)
        if rng.random() < 0.2:
            tone = varied(rng, palette.concrete, 0.06, 0.01)
        kerb = Rectangle(x, y, length + 1.6, width + 1.6, turn)
        canvas.slab(kerb, varied(rng, palette.grass, 0.1, 0.03), 0.08)
        canvas.slab(shape, tone, 0.03)
        if rng.random() < 0.75:
            _paint_bays(canvas, shape, rng)
        else:
            _paint_stores(canvas, shape, rng)
        canvas.take(shape, 1.5)


def _paint_bays(canvas: Canvas, shape: Rectangle, rng: np.random.Generator) -> None:
    """Rows of bays of 2.5 m by 5 m on both sides of aisles of 6 m, partly occupied."""
    pixel = canvas.grid.pixel
    window, u, v = shape.local(canvas.grid)
    inside = coverage(shape.depth(u, v) - 0.5, pixel)
    if rng.random() < 0.8:
        row = np.mod(v + shape.width / 2 - 0.5, 16.0)
        lines = stripe(np.mod(u, 2.5) - 1.25, 0.16, pixel)
        in_bay = ((row < 5.0) | (row > 11.0)).astype(np.float32)
        canvas.paint(window, lines * in_bay * inside * np.float32(0.85), colour(0.85, 0.85, 0.83))
    share = float(rng.uniform(0.1, 0.85))
    first = -shape.width / 2 + 0.5
    for aisle in np.arange(0, shape.width - 5.5, 16.0):
        for centre in (first + aisle + 2.5, first + aisle + 13.5):
            if centre + 2.5 > shape.width / 2:
                continue
            for bay in np.arange(-shape.length / 2 + 2.5, shape.length / 2 - 2.5, 2.5):
                if rng.random() < share:
                    x, y = shape.at(
                        float(bay + rng.normal(0, 0.1)), float(centre + rng.normal(0, 0.3))
                    )
                    paint_car(canvas, x, y, shape.angle + np.pi / 2, rng)


def _paint_stores(canvas: Canvas, shape: Rectangle, rng: np.random.Generator) -> None:
    """Containers and pallets on a yard."""
    for _ in range(int(rng.integers(3, 14))):
        u = float(rng.uniform(-0.45, 0.45)) * shape.length
        v = float(rng.uniform(-0.45, 0.45)) * shape.width
        x, y = shape.at(u, v)
        turn = shape.angle + float(rng.integers(0, 2)) * np.pi / 2
        box = Rectangle(x, y, float(rng.uniform(2, 12)), 2.5, turn)
        paint = varied(rng, CAR_COLOURS[int(rng.integers(len(CAR_COLOURS)))], 0.2, 0.1)
        canvas.slab(box, paint, 0.03)
        _raise(canvas, box, 2.6)


def paint_car(canvas: Canvas, x: float, y: float, angle: float, rng: np.random.Generator) -> None:
    """A car: body, darker windscreen, and its height for the shadow."""
    body = Rectangle(x, y, float(rng.uniform(3.9, 4.8)), 1.8, angle)
    paint = varied(rng, CAR_COLOURS[int(rng.integers(len(CAR_COLOURS)))], 0.15, 0.05)
    canvas.slab(body, paint, 0.0)
    ahead, side = body.at(0.7, 0.0)
    canvas.slab(Rectangle(ahead, side, 0.8, 1.5, angle), paint * np.float32(0.35), 0.0)
    _raise(canvas, body, 1.4)


def paint_traffic(canvas: Canvas, network: Network, rng: np.random.Generator) -> None:
    """Cars on the paved roads, in their lanes."""
    for road in network.roads:
        if road.road_type == "track":
            continue
        steps = np.diff(road.points, axis=0)
        distance = float(rng.uniform(4, 40))
        for index in np.flatnonzero(rng.random(len(steps)) < 1 / distance):
            heading = float(np.arctan2(steps[index, 1], steps[index, 0]))
            side = float(rng.choice([-1.0, 1.0])) * road.width / 4
            x = float(road.points[index, 0]) - side * float(np.sin(heading))
            y = float(road.points[index, 1]) + side * float(np.cos(heading))
            paint_car(canvas, x, y, heading, rng)


def paint_buildings(
    canvas: Canvas, palette: Palette, rng: np.random.Generator, angle: float, clusters: int
) -> None:
    """Paints hamlets of houses in gardens, farmyards, and large flat-roofed sheds."""
    for _ in range(clusters):
        x, y = _spot(rng, canvas)
        turn = angle + float(rng.normal(0, 0.25))
        if rng.random() < 0.35:
            size = float(rng.uniform(18, 48))
            shed = Rectangle(x, y, size, float(rng.uniform(12, 28)), turn)
            if canvas.is_free(shed, 1.0):
                apron = Rectangle(x, y, shed.length + 5, shed.width + 5, turn)
                if canvas.is_free(apron):
                    canvas.slab(apron, palette.paving(rng), 0.05)
                _paint_flat_roof(canvas, palette, shed, rng)
                canvas.take(shed, 2.0)
            continue
        rows, columns = int(rng.integers(1, 4)), int(rng.integers(2, 5))
        pitch_u, pitch_v = float(rng.uniform(15, 24)), float(rng.uniform(16, 28))
        frame = Rectangle(x, y, 1, 1, turn)
        for row in range(rows):
            for column in range(columns):
                spot = frame.at(
                    (column - columns / 2) * pitch_u + float(rng.normal(0, 1.5)),
                    (row - rows / 2) * pitch_v + float(rng.normal(0, 1.5)),
                )
                if rng.random() < 0.85:
                    _paint_house(canvas, palette, spot, turn, (pitch_u, pitch_v), rng)


def _paint_house(
    canvas: Canvas,
    palette: Palette,
    spot: tuple[float, float],
    angle: float,
    plot: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    turn = angle + float(rng.choice([0, np.pi / 2])) + float(rng.normal(0, 0.03))
    house = Rectangle(*spot, float(rng.uniform(9, 15)), float(rng.uniform(7, 10)), turn)
    if not canvas.is_free(house, 1.0):
        return
    garden = Rectangle(*spot, plot[0] - 1.0, plot[1] - 1.0, angle)
    if canvas.is_free(garden):
        canvas.slab(garden, varied(rng, palette.grass, 0.12, 0.05), 0.09)
    if rng.random() < 0.5:  # a paved terrace or a drive
        side = house.at(float(rng.uniform(-3, 3)), house.width / 2 + 2)
        drive = Rectangle(*side, float(rng.uniform(3, 7)), float(rng.uniform(3, 6)), turn)
        if canvas.is_free(drive):
            canvas.slab(drive, palette.paving(rng), 0.04)
    if rng.random() < 0.12:
        pool = house.at(0.0, -house.width / 2 - 5)
        shape = Rectangle(*pool, float(rng.uniform(5, 9)), float(rng.uniform(3, 5)), turn)
        if canvas.is_free(shape, 1.0):
            canvas.slab(shape, colour(0.35, 0.62, 0.68), 0.02)
    if rng.random() < 0.15:
        _paint_flat_roof(canvas, palette, house, rng)
    else:
        _paint_gable(canvas, _tiles(rng, palette), house, rng)
    canvas.take(house, 1.5)


def _tiles(rng: np.random.Generator, palette: Palette) -> Colour:
    choice = int(rng.choice(4, p=[0.35, 0.2, 0.25, 0.2]))
    if choice == 0:
        return varied(rng, colour(0.50, 0.29, 0.21), 0.15, 0.04)
    if choice == 1:
        return varied(rng, colour(0.38, 0.29, 0.24), 0.12, 0.03)
    return palette.paving(rng)


def _paint_gable(canvas: Canvas, tone: Colour, house: Rectangle, rng: np.random.Generator) -> None:
    """Two slopes that meet at a ridge; the heights determine their shading."""
    window, u, v = house.local(canvas.grid)
    depth = house.depth(u, v)
    alpha = coverage(depth, canvas.grid.pixel)
    courses = 1 + 0.03 * np.sin(v * np.float32(2 * np.pi / 1.5))
    canvas.paint(
        window, alpha, (canvas.textured(window, tone, 0.03) * courses[..., None]).astype(np.float32)
    )
    eaves, pitch = float(rng.uniform(3, 6)), float(rng.uniform(0.5, 0.9))
    roof = eaves + pitch * (house.width / 2 - np.abs(v)) + np.zeros_like(u)
    _raise_to(canvas, window, depth, roof.astype(np.float32))


def _paint_flat_roof(
    canvas: Canvas, palette: Palette, shape: Rectangle, rng: np.random.Generator
) -> None:
    """Bitumen, gravel, concrete or sheet metal with a parapet, roof lights and fans."""
    choice = int(rng.choice(4, p=[0.45, 0.2, 0.2, 0.15]))
    if choice == 0:
        tone = palette.paving(rng)
    elif choice == 1:
        tone = varied(rng, palette.concrete, 0.08, 0.01)
    elif choice == 2:
        tone = varied(rng, colour(0.62, 0.64, 0.66), 0.15, 0.03)
    else:
        tone = varied(rng, colour(0.45, 0.30, 0.25), 0.15, 0.04)
    window, u, v = shape.local(canvas.grid)
    depth = shape.depth(u, v)
    alpha = coverage(depth, canvas.grid.pixel)
    canvas.paint(window, alpha, canvas.textured(window, tone, 0.03))
    if choice == 2:
        seams = stripe(np.mod(u, 2.0) - 1.0, 0.3, canvas.grid.pixel)
        canvas.paint(window, seams * alpha * np.float32(0.25), tone * np.float32(0.6))
    rim = stripe(depth - 0.3, 0.5, canvas.grid.pixel)
    canvas.paint(window, rim * np.float32(0.6), np.minimum(tone * np.float32(1.35), 0.9))
    height = float(rng.uniform(4, 10))
    _raise_to(canvas, window, depth, np.full_like(u, height))
    for _ in range(int(rng.integers(0, 9))):
        spot = shape.at(
            float(rng.uniform(-0.4, 0.4)) * shape.length,
            float(rng.uniform(-0.4, 0.4)) * shape.width,
        )
        box = Rectangle(*spot, float(rng.uniform(1, 3)), float(rng.uniform(1, 2)), shape.angle)
        canvas.slab(box, varied(rng, colour(0.6, 0.6, 0.6), 0.3, 0.02), 0.0)
        _raise(canvas, box, height + 1.0)


def _raise(canvas: Canvas, shape: Rectangle, height: float) -> None:
    window, u, v = shape.local(canvas.grid)
    _raise_to(canvas, window, shape.depth(u, v), np.full_like(u, height))


def _raise_to(canvas: Canvas, window: tuple[slice, slice], depth: Array, height: Array) -> None:
    target = canvas.height[window]
    np.maximum(target, np.where(depth > 0, height, np.float32(0)), out=target)
