"""The road areas of a probability map as polygons."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import shapes
from scipy import ndimage

from vbp_lightning.data.imagery.extent import WGS84, mover, projected, projection


@dataclass(frozen=True)
class RoadArea:
    """A connected area of cells that are classified as road.

    Args:
        geometry: A GeoJSON polygon in degrees, WGS 84; several where it is cut at the
            antimeridian.
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
    move = mover(projection(crs.to_wkt()), WGS84)
    for geometry, label in shapes(labels.astype(np.int32), mask=above, transform=transform):
        area = int(label)
        outline = np.array([shapely.geometry.shape(geometry)])
        yield RoadArea(
            shapely.geometry.mapping(projected(outline, move, WGS84)[0]),
            float(sums[area] / counts[area]),
            int(counts[area]),
        )
