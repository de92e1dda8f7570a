"""Road networks: courses, junctions, surfaces and markings, with the exact road surface."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vbp_lightning.data.synthetic.noise import smooth_noise
from vbp_lightning.data.synthetic.painting import Canvas, colour, varied
from vbp_lightning.data.synthetic.palette import Palette
from vbp_lightning.data.synthetic.shapes import (
    Array,
    Grid,
    LineField,
    Mask,
    Points,
    course,
    coverage,
    line_field,
    stripe,
    through,
)

RoadType = Literal["highway", "main", "street", "lane", "track"]
ROAD_TYPES: tuple[RoadType, ...] = ("highway", "main", "street", "lane", "track")
WIDTHS: dict[RoadType, tuple[float, float]] = {
    "highway": (17.0, 21.0),
    "main": (8.5, 11.0),
    "street": (6.0, 8.5),
    "lane": (4.5, 6.0),
    "track": (3.8, 5.2),
}
VERGE = 4.0
"""Metres beside a road on which nothing is built."""


@dataclass(frozen=True)
class Road:
    """One road.

    Args:
        road_type: Its type.
        width: Width of its surface, metres.
        points: ``(M, 2)`` corners of its centre line, metres.
        field: The pixels near it.
    """

    road_type: RoadType
    width: float
    points: Points
    field: LineField

    def surface(self) -> Mask:
        """Which pixels of its field have their centre on its surface, ``(K,)`` bool."""
        return np.asarray(self.field.distance <= self.width / 2)


@dataclass(frozen=True)
class Network:
    """The roads of a scene, the largest last, and all pixels on their surface."""

    roads: list[Road]
    mask: Mask


def draw_network(
    rng: np.random.Generator, grid: Grid, angle: float, tile: int, share: float
) -> Network:
    """Draws a through road, then branches, until enough tiles hold a road.

    A branch leaves a road at a steep angle and ends at the next road it meets, outside the scene,
    or in a dead end.

    Args:
        rng: Random generator.
        grid: The scene.
        angle: Preferred direction, radians: that of the parcels.
        tile: Edge of a tile, pixels.
        share: Share of the tiles that should hold road, 0 to 1.

    Returns:
        The roads and their pixels.
    """
    mask = np.zeros((grid.size, grid.size), dtype=np.bool_)
    roads: list[Road] = []
    weights = np.exp(rng.normal(0, 0.5, len(ROAD_TYPES))) * np.array([0.5, 1.0, 1.2, 1.0, 0.9])
    # At most 24 attempts, so that tiles without roads are left.
    for attempt in range(24):
        first = attempt == 0 or not roads
        road_type = ROAD_TYPES[int(rng.choice(len(ROAD_TYPES), p=weights / weights.sum()))]
        if road_type == "highway" and not first:
            road_type = "main"
        width = float(rng.uniform(*WIDTHS[road_type]))
        bend, radius = _bends(rng, road_type)
        if first or rng.random() < 0.15:
            via = rng.uniform(0.2, 0.8, 2) * grid.extent
            heading = angle + float(rng.normal(0, 0.25)) + float(rng.integers(0, 4)) * np.pi / 2
            points = through(rng, grid, (float(via[0]), float(via[1])), heading, bend, radius)
        else:
            branch = _branch(rng, grid, roads, mask, bend, radius)
            if branch is None:
                continue
            points = branch
        road = Road(road_type, width, points, line_field(grid, points, width / 2 + VERGE + 2))
        roads.append(road)
        mask[road.field.area] |= road.surface()
        if tile_shares(mask, tile).astype(bool).mean() >= share:
            break
    roads.sort(key=lambda road: road.width)
    return Network(roads, mask)


def tile_shares(mask: Mask, tile: int) -> Array:
    """Share of road in each whole tile of a scene, ``(rows, cols)``."""
    count = mask.shape[0] // tile
    blocks = mask[: count * tile, : count * tile].reshape(count, tile, count, tile)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64), dtype=np.float32)


def _bends(rng: np.random.Generator, road_type: RoadType) -> tuple[float, float]:
    """Standard deviation of the curvature, 1/m, and tightest radius, m."""
    if road_type == "highway":
        return float(rng.uniform(0.0005, 0.002)), 250.0
    if road_type == "main":
        return float(rng.uniform(0.001, 0.006)), 60.0
    if road_type == "street":
        return float(rng.choice([0.0003, 0.006])), 35.0
    return float(rng.choice([0.001, 0.008, 0.015])), 18.0


def _branch(
    rng: np.random.Generator,
    grid: Grid,
    roads: list[Road],
    mask: Mask,
    bend: float,
    radius: float,
) -> Points | None:
    parent = roads[int(rng.integers(len(roads)))]
    inner = np.flatnonzero(grid.holds(parent.points[:-1]))
    if not inner.size:
        return None
    index = int(rng.choice(inner))
    start, ahead = parent.points[index], parent.points[index + 1]
    heading = float(np.arctan2(ahead[1] - start[1], ahead[0] - start[0]))
    heading += float(rng.choice([-1.0, 1.0])) * (np.pi / 2 + float(rng.normal(0, 0.2)))
    length = grid.extent * float(rng.choice([0.25, 0.6, 1.6], p=[0.2, 0.2, 0.6]))
    points = course(rng, (float(start[0]), float(start[1])), heading, length, bend, radius, step=4)
    clear = int(np.ceil((parent.width / 2 + 8) / 4))
    inside = grid.holds(points)
    rows, cols = grid.index(points)
    met = mask[rows, cols] & inside
    met[:clear] = False
    if met.any():
        return points[: int(np.argmax(met)) + 2]
    gone = ~grid.holds(points, margin=40.0)
    return points[: int(np.argmax(gone)) + 1] if gone.any() else points


def paint_roads(
    canvas: Canvas, palette: Palette, network: Network, rng: np.random.Generator
) -> None:
    """Paints verges, surfaces and markings, and marks their pixels as taken."""
    crowded = np.zeros(network.mask.shape, dtype=np.uint8)
    for road in network.roads:
        near = road.field.distance <= road.width / 2 + 1.0
        crowded[road.field.area] += near.astype(np.uint8)
        canvas.taken[road.field.area] |= road.field.distance <= road.width / 2 + VERGE
    wear = smooth_noise(rng, canvas.grid, 12.0)
    plans = [_Plan.drawn(rng, palette, road) for road in network.roads]
    for road, plan in zip(network.roads, plans, strict=True):
        _paint_verge(canvas, palette, road, plan, rng)
    for road, plan in zip(network.roads, plans, strict=True):
        _paint_surface(canvas, road, plan, wear, rng)
    for road, plan in zip(network.roads, plans, strict=True):
        if road.road_type != "track":
            single = (crowded[road.field.area] < 2).astype(np.float32)
            _paint_markings(canvas, road, plan, single)


@dataclass(frozen=True)
class _Plan:
    """Surface and markings of a road."""

    surface: Literal["asphalt", "concrete", "dirt"]
    tone: Array
    centre: Literal["none", "dashed", "solid", "barrier"]
    edges: bool
    pavement: bool
    paint: Array

    @classmethod
    def drawn(cls, rng: np.random.Generator, palette: Palette, road: Road) -> "_Plan":
        paved: Literal["asphalt", "concrete"] = "concrete" if rng.random() < 0.2 else "asphalt"
        white = colour(0.9, 0.9, 0.88) if rng.random() < 0.8 else colour(0.85, 0.72, 0.3)
        paint = white * np.float32(rng.uniform(0.88, 1.0))
        if road.road_type == "track":
            return cls("dirt", palette.dirt(rng), "none", False, False, paint)
        if paved == "concrete":
            tone = varied(rng, palette.concrete, 0.06, 0.01)
        else:
            tone = palette.paving(rng)
        if road.road_type == "highway":
            return cls(paved, tone, "barrier", True, False, paint)
        if road.road_type == "main":
            return cls(paved, tone, "solid" if rng.random() < 0.3 else "dashed", True, False, paint)
        if road.road_type == "street":
            dashed = bool(rng.random() < 0.75)
            return cls(
                paved, tone, "dashed" if dashed else "none", False, bool(rng.random() < 0.8), paint
            )
        return cls(paved, tone, "none", False, False, paint)


def _paint_verge(
    canvas: Canvas, palette: Palette, road: Road, plan: _Plan, rng: np.random.Generator
) -> None:
    field, pixel = road.field, canvas.grid.pixel
    beside = road.width / 2 - field.distance
    grass = coverage(
        beside + np.float32(rng.uniform(1.5, 3.5)) + 0.5 * canvas.grain[field.area], pixel
    )
    verge = varied(rng, palette.grass, 0.08, 0.03)
    canvas.paint(field.area, grass * np.float32(0.8), canvas.textured(field.area, verge, 0.08))
    if plan.pavement:
        kerb = coverage(beside + np.float32(rng.uniform(1.3, 2.2)), pixel)
        tone = varied(rng, palette.concrete, 0.06, 0.01)
        canvas.paint(field.area, kerb, canvas.textured(field.area, tone, 0.04))
    elif plan.surface != "dirt" and (road.road_type == "lane" or rng.random() < 0.5):
        gravel = coverage(beside + np.float32(rng.uniform(0.5, 1.2)), pixel)
        canvas.paint(field.area, gravel * np.float32(0.7), palette.dirt(rng))


def _paint_surface(
    canvas: Canvas, road: Road, plan: _Plan, wear: Array, rng: np.random.Generator
) -> None:
    field, pixel, area = road.field, canvas.grid.pixel, road.field.area
    depth = road.width / 2 - field.distance
    alpha = coverage(depth, pixel)
    if plan.surface == "dirt":
        gauge = float(rng.uniform(0.8, 1.0))
        canvas.paint(area, alpha, canvas.textured(area, plan.tone * np.float32(0.82), 0.06))
        ruts = stripe(np.abs(field.offset) - gauge, 0.8, pixel)
        canvas.paint(area, ruts * np.float32(0.9), plan.tone * np.float32(1.32))
        if rng.random() < 0.8:  # grass between the wheels
            middle = stripe(field.offset, 2 * gauge - 0.9, pixel)
            patchy = np.clip(0.65 + 0.4 * wear[area], 0, 0.9).astype(np.float32)
            canvas.paint(
                area, middle * patchy, canvas.textured(area, colour(0.30, 0.34, 0.19), 0.1)
            )
        return
    contrast = 0.030 if plan.surface == "asphalt" else 0.020
    surface = canvas.textured(area, plan.tone, contrast)
    lanes = max(round(road.width / 3.7), 1) if road.road_type != "lane" else 1
    lane = np.mod(field.offset + np.float32(road.width / 2), np.float32(road.width / lanes))
    wheel = stripe(np.abs(lane - np.float32(road.width / lanes / 2)) - 0.8, 0.7, pixel)
    shade = 1 - np.float32(0.11) * wheel + np.float32(0.03) * wear[area]
    # Repairs: some stretches are a little darker.
    stretch = np.floor(field.along / 37).astype(np.intp)
    patches = (rng.random(int(stretch.max()) + 1) < 0.15).astype(np.float32)
    shade -= np.float32(0.10) * patches[stretch]
    canvas.paint(area, alpha, surface * shade[..., None])
    if plan.surface == "concrete":
        joints = stripe(np.mod(field.along, 6.0) - 3.0, 0.15, pixel)
        canvas.paint(area, joints * alpha * np.float32(0.35), colour(0.25, 0.24, 0.22))


def _paint_markings(canvas: Canvas, road: Road, plan: _Plan, single: Array) -> None:
    field, pixel, area = road.field, canvas.grid.pixel, road.field.area
    inside = coverage(road.width / 2 - field.distance, pixel) * single
    if plan.edges:
        edge = stripe(np.abs(field.offset) - np.float32(road.width / 2 - 0.5), 0.28, pixel)
        canvas.paint(area, edge * inside, plan.paint)
    if plan.centre == "barrier":
        strip = stripe(field.offset, 1.6, pixel)
        canvas.paint(area, strip * inside, canvas.textured(area, colour(0.52, 0.52, 0.48), 0.06))
        lane = np.abs(field.offset) - np.float32(road.width / 4 + 0.2)
        dashes = stripe(lane, 0.28, pixel) * (np.mod(field.along, 12.0) < 6.0)
        canvas.paint(area, dashes * inside, plan.paint)
    elif plan.centre == "dashed":
        dashes = stripe(field.offset, 0.28, pixel) * (np.mod(field.along, 9.0) < 5.0)
        canvas.paint(area, dashes * inside, plan.paint)
    elif plan.centre == "solid":
        canvas.paint(area, stripe(field.offset, 0.3, pixel) * inside, plan.paint)
