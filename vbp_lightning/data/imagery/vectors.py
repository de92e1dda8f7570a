"""Roads as lines and areas: widened on the ground, drawn onto a scene's pixels."""

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.windows import Window

from vbp_lightning.data.datasets.scene import DataError, VectorLabels
from vbp_lightning.data.imagery.extent import (
    PixelGrid,
    ball,
    centre_x,
    metric_projection,
    mover,
    projected,
    projection,
)
from vbp_lightning.data.imagery.vector_files import road_features
from vbp_lightning.data.imagery.windows import rescaled

_QUADRANT_SEGMENTS = 4
"""Of a round line end: off the circle by 2 % of the half width, far less than a pixel."""


def road_shapes(labels: VectorLabels, grid: PixelGrid) -> NDArray[np.object_]:
    """Returns the road areas of a scene, in the coordinates of its CRS.

    Lines are widened in a metric projection, independent of the CRSs of file and scene. Areas that
    cross themselves are filled wherever their outline leads around.

    Args:
        labels: The vectors.
        grid: The scene, georeferenced.

    Returns:
        (N,) polygons that may reach beyond the scene.

    Raises:
        DataError: The file cannot be used.
    """
    if labels.path is None:
        return np.zeros(0, dtype=object)
    roads = road_features(labels)
    metric, units = metric_projection(grid)
    widths = np.array([labels.widths.of(value) for value in roads.values])
    widths = np.where(roads.is_line, widths, 0.0)
    # A file may cover a country.
    near = np.flatnonzero(roads.balls.touches(ball(grid), float(widths.max(initial=0.0))))
    shapes = shapely.transform(roads.shapes[near], mover(roads.summary.crs, metric))
    finite = np.isfinite(shapely.bounds(shapes)).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{labels.path}: {int((~finite).sum())} of its roads reach further around the earth "
            "than a map of the scene can: divide them (data.source.labels)"
        )
    is_line = roads.is_line[near]
    half = widths[near[is_line]] * units / 2
    shapes[is_line] = shapely.buffer(shapes[is_line], half, quad_segs=_QUADRANT_SEGMENTS)
    crossed = ~shapely.is_valid(shapes)
    shapes[crossed] = shapely.make_valid(shapes[crossed], method="structure", keep_collapsed=False)
    shapes = shapes[~shapely.is_empty(shapes)]
    assert grid.crs is not None
    own = projection(grid.crs.to_wkt())
    return projected(shapes, mover(metric, own), own, centre_x(grid))


def draw_roads(
    shapes: NDArray[np.object_], grid: PixelGrid, window: Window | None = None
) -> NDArray[np.bool_]:
    """Returns the pixels whose centres lie on a road.

    Args:
        shapes: (N,) polygons in the coordinates of the grid's CRS.
        grid: The scene.
        window: Part of the scene; None for all of it.

    Returns:
        (h, w).
    """
    window = window or grid.window
    shape = window.height, window.width
    if len(shapes) == 0:
        return np.zeros(shape, dtype=bool)
    transform = rescaled(grid.transform, window.col_off, window.row_off)
    drawn: NDArray[np.uint8] = rasterize(shapes, shape, transform=transform, dtype=np.uint8)
    road: NDArray[np.bool_] = drawn.view(np.bool_)
    return road
