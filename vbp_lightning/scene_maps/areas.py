"""The road areas of a probability map as polygons."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import shapes
from rasterio.warp import transform_geom
from scipy import ndimage

_WGS84 = CRS.from_epsg(4326)


@dataclass(frozen=True)
class RoadArea:
    """A connected area of cells that are classified as road.

    Args:
        geometry: A GeoJSON polygon in degrees, WGS 84.
        probability: Mean P(road) of its cells.
        cells: Number of its cells.
    """

    geometry: dict[str, Any]
    probability: float
    cells: int


def road_areas(
    probability: NDArray[np.float32], transform: Affine, crs: CRS, threshold: float
) -> Iterator[RoadArea]:
    """The areas, connected by edges, whose P(road) is at least a threshold.

    Args:
        probability: (rows, cols), NaN for cells without a value.
        transform: From (column, row) of the cells to coordinates of ``crs``.
        crs: CRS of the scene.
        threshold: P(road) from which a cell is classified as road.

    Yields:
        The areas in no particular order.
    """
    above = np.nan_to_num(probability, nan=-1) >= threshold
    labels, _ = ndimage.label(above)
    counts = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), np.where(above, probability, 0).ravel())
    for geometry, label in shapes(labels.astype(np.int32), mask=above, transform=transform):
        area = int(label)
        yield RoadArea(
            transform_geom(crs, _WGS84, geometry),
            float(sums[area] / counts[area]),
            int(counts[area]),
        )
