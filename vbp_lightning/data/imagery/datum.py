"""How accurately vector labels can be placed on scenes whose CRS has another datum."""

import warnings
from collections.abc import Iterable
from functools import lru_cache
from math import ceil, floor, inf

import numpy as np
import pyproj
from pyproj.aoi import AreaOfInterest
from pyproj.transformer import TransformerGroup

from vbp_lightning.data.imagery.extent import (
    degrees_around,
    ground_sampling_distance,
    projection,
)
from vbp_lightning.data.imagery.reading import SceneInfo
from vbp_lightning.data.imagery.vector_files import VectorSummary


def shift_warnings(scenes: Iterable[tuple[SceneInfo, VectorSummary]]) -> list[str]:
    """Returns a line if roads may be shifted by more than a pixel; it names the worst scene.

    PROJ knows the accuracy of a transformation between two datums, and which grid file would make
    it better.

    Args:
        scenes: The scenes and their vector files.
    """
    found: list[tuple[float, str]] = []
    for info, vectors in scenes:
        size = ground_sampling_distance(info.grid)
        if size is None:
            continue
        assert info.grid.crs is not None
        source = vectors.crs
        target = projection(info.grid.crs.to_wkt())
        west, south, east, north = degrees_around(info.grid)
        area = (floor(west), floor(south), ceil(east), ceil(north))
        metres, grid = accuracy(source, target, area)
        if metres > min(size):
            shift = "an unknown distance" if metres == inf else f"up to {metres:g} m"
            remedy = f"; install its grid {grid} (projsync --file {grid})" if grid else ""
            line = (
                f"{vectors.path}: its roads may be shifted by {shift} on {info.scene.image}, whose "
                f"pixels are {min(size):.3g} m: PROJ has no better transformation from "
                f"{source.name} to {target.name} (data.source.labels){remedy}"
            )
            found.append((metres / min(size), line))
    if not found:
        return []
    more = f"; likewise {len(found) - 1} more scenes" if len(found) > 1 else ""
    return [max(found, key=lambda each: each[0])[1] + more]


@lru_cache(maxsize=256)
def accuracy(
    source: pyproj.CRS, target: pyproj.CRS, area: tuple[float, float, float, float]
) -> tuple[float, str]:
    """Returns the accuracy of the best transformation that is installed.

    Args:
        source: CRS of the coordinates.
        target: CRS that they are transformed to.
        area: West, south, east and north in degrees.

    Returns:
        The accuracy in metres; 0 within a datum or where PROJ does not know it, infinite if the
        datums can only be taken for the same. And the name of the grid file of the best
        transformation, if that is missing and more accurate, else an empty text.
    """
    bounds = AreaOfInterest(*np.clip(area, [-180, -90] * 2, [180, 90] * 2).tolist())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a grid is missing
        group = TransformerGroup(
            source,
            target,
            always_xy=True,
            area_of_interest=bounds,  # type: ignore[arg-type]  # pyproj's stub names a base class
        )
    if not group.transformers:
        return 0.0, ""
    best = group.transformers[0]
    is_ballpark = best.accuracy < 0 and "ballpark" in best.description.lower()
    metres = inf if is_ballpark else max(0.0, best.accuracy)
    better = [op for op in group.unavailable_operations if 0 <= op.accuracy < metres]
    better.sort(key=lambda op: op.accuracy)
    missing = [grid.short_name for op in better for grid in op.grids if not grid.available]
    return metres, next(iter(missing), "")
