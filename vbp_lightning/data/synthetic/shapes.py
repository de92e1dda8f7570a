"""Positions in metres on the pixel grid of a square scene: windows, rectangles and lines.

The x axis points right and the y axis down, from the upper-left corner of the scene.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
Window = tuple[slice, slice]
Pixels = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]
"""Rows and columns of some pixels, each once."""
Area = Window | Pixels
"""An index into arrays of the scene: a box, or the pixels along a line."""

PULL = 0.006
"""Curvature that a course gains for each radian off its first direction, 1/metres."""


@dataclass(frozen=True)
class Grid:
    """The pixels of a square scene.

    Args:
        size: Height and width, pixels.
        pixel: Edge of a pixel, metres.
    """

    size: int
    pixel: float

    @property
    def extent(self) -> float:
        """Edge of the scene, metres."""
        return self.size * self.pixel

    @property
    def whole(self) -> Window:
        """The window of all pixels."""
        return slice(0, self.size), slice(0, self.size)

    def window(self, x_min: float, y_min: float, x_max: float, y_max: float) -> Window:
        """The pixels that a box in metres touches, clipped to the scene; it may be empty."""

        def span(low: float, high: float) -> slice:
            first = min(max(int(np.floor(low / self.pixel)), 0), self.size)
            last = min(max(int(np.ceil(high / self.pixel)), first), self.size)
            return slice(first, last)

        return span(y_min, y_max), span(x_min, x_max)

    def axes(self, window: Window) -> tuple[Array, Array]:
        """Centres of the pixels of a window, metres: x as ``(1, W)``, y as ``(H, 1)``."""
        rows, cols = window
        return self._centres[None, cols], self._centres[rows, None]

    @cached_property
    def _centres(self) -> Array:
        return ((np.arange(self.size) + 0.5) * self.pixel).astype(np.float32)

    def index(self, points: Points) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Rows and columns of the pixels that hold points in metres, clipped to the scene."""
        cells = np.clip(np.floor(points / self.pixel), 0, self.size - 1).astype(np.intp)
        return cells[:, 1], cells[:, 0]

    def holds(self, points: Points, margin: float = 0.0) -> npt.NDArray[np.bool_]:
        """Whether each point lies in the scene widened by ``margin`` metres."""
        inside = (points >= -margin) & (points <= self.extent + margin)
        return np.asarray(inside.all(axis=-1))


def is_empty(window: Window) -> bool:
    """Whether a window holds no pixel."""
    return any(span.start >= span.stop for span in window)


def coverage(depth: Array, pixel: float) -> Array:
    """Share of each pixel inside a shape, from the depth of its centre inside it, metres."""
    return np.asarray(np.clip(depth / pixel + 0.5, 0.0, 1.0), dtype=np.float32)


def stripe(offset: npt.NDArray[np.floating], width: float, pixel: float) -> Array:
    """Share of each pixel under a thin stripe of ``width`` metres along ``offset = 0``."""
    overlap = (width + pixel) / 2 - np.abs(offset)
    share = np.clip(overlap / pixel, 0.0, min(1.0, width / pixel))
    return np.asarray(share, dtype=np.float32)


@dataclass(frozen=True)
class Rectangle:
    """A rectangle of any orientation.

    Args:
        x: Centre, metres.
        y: Centre, metres.
        length: Edge along its own u axis, metres.
        width: Edge along its own v axis, metres.
        angle: Direction of u, radians from the x axis.
    """

    x: float
    y: float
    length: float
    width: float
    angle: float

    def local(self, grid: Grid, margin: float = 0.0) -> tuple[Window, Array, Array]:
        """Its window, widened by ``margin`` metres, and the coordinates u, v of the pixels."""
        cos, sin = float(np.cos(self.angle)), float(np.sin(self.angle))
        half_x = (abs(cos) * self.length + abs(sin) * self.width) / 2 + margin + grid.pixel
        half_y = (abs(sin) * self.length + abs(cos) * self.width) / 2 + margin + grid.pixel
        window = grid.window(self.x - half_x, self.y - half_y, self.x + half_x, self.y + half_y)
        x, y = grid.axes(window)
        dx, dy = x - np.float32(self.x), y - np.float32(self.y)
        c, s = np.float32(cos), np.float32(sin)
        return window, dx * c + dy * s, dy * c - dx * s

    def depth(self, u: Array, v: Array) -> Array:
        """Distance of each pixel to the nearest edge, metres, positive inside."""
        return np.minimum(
            np.float32(self.length / 2) - np.abs(u), np.float32(self.width / 2) - np.abs(v)
        )

    def at(self, u: float, v: float) -> tuple[float, float]:
        """The point x, y of the local coordinates u, v."""
        cos, sin = float(np.cos(self.angle)), float(np.sin(self.angle))
        return self.x + u * cos - v * sin, self.y + u * sin + v * cos


@dataclass(frozen=True)
class LineField:
    """The pixels near a line and their positions relative to it, arrays ``(K,)``.

    Args:
        area: The pixels.
        distance: Metres to the line.
        offset: The same with a sign: the side of the line.
        along: Metres along the line to the nearest point.
    """

    area: Pixels
    distance: Array
    offset: Array
    along: Array


def line_field(grid: Grid, points: Points, reach: float) -> LineField:
    """Measures the pixels near a polyline, segment by segment.

    Args:
        grid: The scene.
        points: ``(M, 2)`` corners x, y in metres.
        reach: Largest distance of the pixels from the line, metres.

    Returns:
        The pixels and their positions.
    """
    low, high = points.min(axis=0) - reach, points.max(axis=0) + reach
    outer = grid.window(low[0], low[1], high[0], high[1])
    shape = (outer[0].stop - outer[0].start, outer[1].stop - outer[1].start)
    squared = np.full(shape, np.inf, dtype=np.float32)
    offset = np.zeros(shape, dtype=np.float32)
    along = np.zeros(shape, dtype=np.float32)
    steps = np.diff(points, axis=0)
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    starts = np.concatenate([[0.0], np.cumsum(lengths)])
    for index, length in enumerate(lengths):
        a, b = points[index], points[index + 1]
        low, high = np.minimum(a, b) - reach, np.maximum(a, b) + reach
        window = grid.window(low[0], low[1], high[0], high[1])
        if is_empty(window) or length == 0:
            continue
        x, y = grid.axes(window)
        ux, uy = (steps[index] / length).astype(np.float32)
        dx, dy = x - np.float32(a[0]), y - np.float32(a[1])
        t = dx * ux + dy * uy
        side = dy * ux - dx * uy
        nearest = np.clip(t, 0.0, np.float32(length))
        beyond = t - nearest
        distance = side * side + beyond * beyond
        inner = (
            slice(window[0].start - outer[0].start, window[0].stop - outer[0].start),
            slice(window[1].start - outer[1].start, window[1].stop - outer[1].start),
        )
        closer = distance < squared[inner]
        np.copyto(squared[inner], distance, where=closer)
        np.copyto(offset[inner], side, where=closer)
        np.copyto(along[inner], nearest + np.float32(starts[index]), where=closer)
    rows, cols = np.nonzero(squared <= reach**2)
    distance = np.sqrt(squared[rows, cols])
    # Beyond the ends the distance is that to the end point; the sign is that of the side.
    signed = np.copysign(distance, offset[rows, cols])
    area = (rows + outer[0].start, cols + outer[1].start)
    return LineField(area, distance, signed, along[rows, cols])


def course(
    rng: np.random.Generator,
    start: tuple[float, float],
    heading: float,
    length: float,
    bend: float,
    min_radius: float,
    step: float = 6.0,
) -> Points:
    """A smooth random walk whose curvature varies slowly.

    Args:
        rng: Random generator.
        start: First point, metres.
        heading: First direction, radians.
        length: Metres to walk.
        bend: Standard deviation of the curvature, 1/metres.
        min_radius: Tightest curve, metres.
        step: Distance of the points, metres.

    Returns:
        ``(M, 2)`` points in metres, at least two.
    """
    count = max(int(np.ceil(length / step)), 1)
    memory = 0.93
    noise = rng.standard_normal(count) * bend * np.sqrt(1 - memory**2)
    limit = 1 / min_radius
    headings = np.empty(count)
    wander = turned = 0.0
    for index in range(count):
        wander = memory * wander + float(noise[index])
        # The course is pulled back towards its first direction, as roads and rivers are.
        turned += step * min(max(wander - PULL * turned, -limit), limit)
        headings[index] = heading + turned
    moves = np.stack([np.cos(headings), np.sin(headings)], axis=1) * step
    return np.concatenate([[start], start + np.cumsum(moves, axis=0)])


def through(
    rng: np.random.Generator,
    grid: Grid,
    via: tuple[float, float],
    heading: float,
    bend: float,
    min_radius: float,
) -> Points:
    """A course that passes through ``via`` and leaves the scene at both ends."""
    reach = grid.extent * 1.6
    ahead = course(rng, via, heading, reach, bend, min_radius)
    behind = course(rng, via, heading + np.pi, reach, bend, min_radius)
    return np.concatenate([_until_outside(grid, behind)[:0:-1], _until_outside(grid, ahead)])


def _until_outside(grid: Grid, points: Points) -> Points:
    outside = np.flatnonzero(~grid.holds(points, margin=40.0))
    return points[: int(outside[0]) + 1] if outside.size else points
