"""Renders one scene from a seed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vbp_lightning.data.synthetic import (
    buildings,
    landscape,
    lighting,
    palette,
    railways,
    roads,
    sensor,
    vegetation,
)
from vbp_lightning.data.synthetic.painting import Canvas
from vbp_lightning.data.synthetic.shapes import Grid

PIXEL_SIZES = (0.5, 0.6, 0.7, 0.8)
"""Ground sampling distances, metres, one drawn for each scene."""
TILE_SIZE = 96
"""Edge of the tiles, pixels, for which a scene offers both classes."""
ROAD_SHARE = 0.05


@dataclass(frozen=True)
class Rendering:
    """A rendered scene.

    Args:
        image: ``(3, size, size)`` uint8, RGB.
        roads: ``(size, size)`` bool, the exact road surface, also where a crown hides it.
        pixel: Edge of a pixel, metres.
    """

    image: npt.NDArray[np.uint8]
    roads: npt.NDArray[np.bool_]
    pixel: float


def render_scene(seed: int, index: int, size: int) -> Rendering:
    """Renders scene ``index`` of the series of ``seed``.

    Args:
        seed: Seed of the series, not negative.
        index: Number of the scene; scenes do not depend on each other.
        size: Height and width, pixels, at least two tiles.

    Returns:
        Image, road mask and pixel size.
    """
    chance = np.random.default_rng([seed, index])
    pixel = float(chance.choice(PIXEL_SIZES))
    grid = Grid(size, pixel)
    angle = float(chance.uniform(0, np.pi))
    colours = palette.Palette.drawn(chance)
    network = _network(chance, grid, angle)

    uses = np.exp(chance.normal(0, 0.7, len(landscape.USES)))
    uses *= np.array([1.2, 1.2, 0.8, 0.9, 0.4, 0.35, 0.8, 0.5])
    shares = dict(zip(landscape.USES, uses.tolist(), strict=True))
    parcels = landscape.divide(chance, grid.extent, angle, shares)
    # The density of buildings differs between scenes.
    hectares = grid.extent**2 / 1e4
    tiles = (size / TILE_SIZE) ** 2
    built = float(chance.uniform(0.1, 0.5))
    clusters = int(np.ceil(built * 0.5 * (tiles + hectares) * 0.8))
    car_parks = int(np.ceil(float(chance.uniform(0.1, 0.4)) * 0.5 * (tiles + hectares)))

    canvas = Canvas.empty(grid, chance)
    landscape.paint_parcels(canvas, colours, parcels, chance)
    landscape.paint_soil(canvas, colours, chance)
    landscape.paint_strips(canvas, colours, parcels, chance)
    landscape.paint_water(canvas, colours, chance, angle)
    railways.paint_railways(canvas, colours, chance, angle)
    roads.paint_roads(canvas, colours, network, chance)
    buildings.paint_traffic(canvas, network, chance)
    buildings.paint_car_parks(canvas, colours, chance, angle, car_parks)
    buildings.paint_buildings(canvas, colours, chance, angle, clusters)
    crowns = vegetation.plant(chance, canvas, parcels, network)
    vegetation.paint_crowns(canvas, colours, crowns, chance)
    lighting.illuminate(canvas, lighting.Sun.drawn(chance))
    return Rendering(sensor.expose(canvas.rgb, grid, chance), network.mask, pixel)


def _network(chance: np.random.Generator, grid: Grid, angle: float) -> roads.Network:
    """Draws networks until one leaves a tile without road and fills another.

    In a small scene roads often cross all tiles.
    """
    while True:
        share = float(chance.uniform(0.4, 0.65))
        network = roads.draw_network(chance, grid, angle, TILE_SIZE, share)
        shares = roads.tile_shares(network.mask, TILE_SIZE)
        if (shares == 0).any() and (shares >= ROAD_SHARE).any():
            return network
