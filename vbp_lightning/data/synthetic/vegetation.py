"""Trees: woods, orchards, hedges along borders, rows beside roads, and single crowns.

A crown that reaches over a road hides it in the image, not in the road mask.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vbp_lightning.data.synthetic.landscape import Parcel
from vbp_lightning.data.synthetic.painting import Canvas
from vbp_lightning.data.synthetic.palette import Palette
from vbp_lightning.data.synthetic.roads import Network
from vbp_lightning.data.synthetic.shapes import Array, Grid, Points, Rectangle, coverage


@dataclass(frozen=True)
class Crowns:
    """Tree crowns.

    Args:
        centres: ``(M, 2)`` metres.
        radii: ``(M,)`` metres.
    """

    centres: Points
    radii: Points

    @classmethod
    def joined(cls, parts: list["Crowns"]) -> "Crowns":
        """All crowns of several groups."""
        return cls(
            np.concatenate([np.zeros((0, 2)), *[part.centres for part in parts]]),
            np.concatenate([np.zeros(0), *[part.radii for part in parts]]),
        )


def _lattice(
    rng: np.random.Generator, shape: Rectangle, spacing: float, jitter: float, radius: float
) -> Crowns:
    """Crowns on a jittered lattice within a rectangle."""
    u = np.arange(-shape.length / 2 + spacing / 2, shape.length / 2, spacing)
    v = np.arange(-shape.width / 2 + spacing / 2, shape.width / 2, spacing)
    mesh = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)
    mesh = mesh + rng.normal(0, jitter, mesh.shape)
    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    centres = mesh @ np.array([[cos, sin], [-sin, cos]]) + np.array([shape.x, shape.y])
    return Crowns(centres, radius * np.exp(rng.normal(0, 0.22, len(centres))))


def plant(
    rng: np.random.Generator, canvas: Canvas, parcels: list[Parcel], network: Network
) -> Crowns:
    """Chooses the positions of trees.

    No tree stands on a building, on water or on a road. Crowns of woods and rows may reach over
    roads.
    """
    extent = canvas.grid.extent
    groups: list[Crowns] = []
    hedged = float(rng.uniform(0.05, 0.45))
    for parcel in parcels:
        shape = parcel.shape
        if parcel.use == "wood":
            radius = float(rng.uniform(2.2, 4.2))
            groups.append(_lattice(rng, shape, radius * 1.45, radius * 0.4, radius))
        elif parcel.use == "orchard":
            radius = float(rng.uniform(1.5, 2.6))
            groups.append(_lattice(rng, shape, radius * 3.2, 0.2, radius))
        if rng.random() < hedged:
            side = float(rng.choice([-1.0, 1.0]))
            radius = float(rng.uniform(1.2, 3.2))
            x, y = shape.at(0.0, side * shape.width / 2)
            line = Rectangle(x, y, shape.length, radius, shape.angle)
            groups.append(_lattice(rng, line, radius * float(rng.uniform(1.1, 2.6)), 0.5, radius))
    single = int(rng.uniform(4, 30) * extent**2 / 1e4)
    groups.append(Crowns(rng.random((single, 2)) * extent, rng.uniform(1.5, 5.0, single)))
    groups += [
        _beside(rng, road.points, road.width) for road in network.roads if rng.random() < 0.4
    ]
    crowns = Crowns.joined(groups)
    rows, cols = canvas.grid.index(crowns.centres)
    inside = canvas.grid.holds(crowns.centres, margin=5.0)
    free = ~canvas.taken[rows, cols] | (rng.random(len(rows)) < 0.25)
    free &= (canvas.height[rows, cols] == 0) & ~network.mask[rows, cols]
    keep = inside & free
    return Crowns(crowns.centres[keep], crowns.radii[keep])


def _beside(rng: np.random.Generator, points: Points, width: float) -> Crowns:
    """A row of trees along one side of a stretch of road."""
    first = int(rng.integers(0, len(points)))
    stretch = points[first : first + int(rng.integers(8, 40))]
    if len(stretch) < 2:
        return Crowns(np.zeros((0, 2)), np.zeros(0))
    steps = np.diff(stretch, axis=0)
    normal = np.stack([-steps[:, 1], steps[:, 0]], axis=1)
    normal /= np.maximum(np.hypot(normal[:, 0], normal[:, 1]), 1e-9)[:, None]
    side = float(rng.choice([-1.0, 1.0])) * (width / 2 + float(rng.uniform(1.0, 3.5)))
    centres = stretch[:-1] + side * normal + rng.normal(0, 0.6, steps.shape)
    return Crowns(centres, rng.uniform(2.0, 4.0, len(centres)))


def paint_crowns(
    canvas: Canvas, palette: Palette, crowns: Crowns, rng: np.random.Generator
) -> None:
    """Paints crowns as domes with a rough surface and their own shade of green."""
    grid = canvas.grid
    heights = crowns.radii * rng.uniform(1.3, 2.4, len(crowns.radii))
    greens = palette.leaves * np.exp(rng.normal(0, 0.13, (len(crowns.radii), 1)))
    greens = (greens * np.exp(rng.normal(0, 0.05, (len(crowns.radii), 3)))).astype(np.float32)
    pixels, crown, squared = _footprints(grid, crowns)
    bump = 1 + np.float32(0.16) * canvas.grain.reshape(-1)[pixels]
    # Where the grain is below -1 / 0.16, one pixel in many millions, the crown has a hole.
    solid = bump >= 0
    pixels, crown, squared, bump = pixels[solid], crown[solid], squared[solid], bump[solid]
    reach = np.sqrt(squared * bump)
    dome = np.sqrt(np.maximum(1 - reach**2, 0))
    alpha = coverage(crowns.radii[crown].astype(np.float32) * (1 - reach), grid.pixel)
    top = heights[crown] * (0.45 + 0.55 * dome)
    # In ascending order of height, so that the highest crown overwrites the others.
    order = np.argsort(top, kind="stable")
    surface = canvas.height.reshape(-1)
    order = order[((alpha > 0) & (top > surface[pixels]))[order]]
    pixels, crown, alpha = pixels[order], crown[order], alpha[order, None]
    shade = (np.float32(0.72) + np.float32(0.4) * dome[order]) * bump[order]
    rgb = canvas.rgb.reshape(-1, 3)
    rgb[pixels] += alpha * (shade[:, None] * greens[crown] - rgb[pixels])
    inside = alpha[:, 0] >= 0.5
    surface[pixels[inside]] = top[order][inside]


def _footprints(
    grid: Grid, crowns: Crowns
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Array]:
    """The pixels under each crown.

    Returns:
        Three arrays ``(K,)`` over all pairs of a crown and a pixel under it, with the pixel's flat
        index, the crown's number, and the squared distance from its centre in squares of its
        radius.
    """
    spans = np.ceil(crowns.radii / grid.pixel).astype(np.intp)
    middle_cols, middle_rows = np.floor(crowns.centres / grid.pixel).astype(np.intp).T
    pixels, numbers, distances = [], [], []
    for span in np.unique(spans):
        number = np.flatnonzero(spans == span)
        reach = np.arange(-span, span + 1)
        rows = middle_rows[number, None, None] + reach[:, None]
        cols = middle_cols[number, None, None] + reach
        dx = (cols + 0.5) * grid.pixel - crowns.centres[number, 0, None, None]
        dy = (rows + 0.5) * grid.pixel - crowns.centres[number, 1, None, None]
        squared = (dx**2 + dy**2) / crowns.radii[number, None, None] ** 2
        inside = (squared < 1.5) & (rows >= 0) & (rows < grid.size)
        inside &= (cols >= 0) & (cols < grid.size)
        pixels.append((rows * grid.size + cols)[inside])
        numbers.append(np.broadcast_to(number[:, None, None], inside.shape)[inside])
        distances.append(squared[inside].astype(np.float32))
    if not pixels:
        none = np.zeros(0, dtype=np.intp)
        return none, none, np.zeros(0, dtype=np.float32)
    return np.concatenate(pixels), np.concatenate(numbers), np.concatenate(distances)
