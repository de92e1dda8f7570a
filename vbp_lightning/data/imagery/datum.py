"""How accurately vector labels can be placed on scenes whose CRS has another datum."""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from math import ceil, floor, inf
from pathlib import Path

import numpy as np
import pyproj
from pyproj.aoi import AreaOfInterest
from pyproj.transformer import TransformerGroup

from vbp_lightning.data.datasets.scene import VectorLabels
from vbp_lightning.data.imagery.extent import (
    WGS84,
    footprint,
    ground_sampling_distance,
    projection,
)
from vbp_lightning.data.imagery.fingerprint import Stamp, vector_stamps
from vbp_lightning.data.imagery.reading import SceneInfo


def shift_warnings(infos: Sequence[SceneInfo]) -> list[str]:
    """Returns a line if roads may be shifted by more than a pixel; it names the worst scene.

    PROJ knows the accuracy of a transformation between two datums, and which grid file would make
    it better.

    Args:
        infos: The scenes; their files can be read.
    """
    found: list[tuple[float, str]] = []
    for info in infos:
        labels, size = info.scene.labels, ground_sampling_distance(info.grid)
        if not isinstance(labels, VectorLabels) or labels.path is None or size is None:
            continue
        assert info.grid.crs is not None
        source = _crs_of(labels.path, labels.layer, vector_stamps(labels.path))
        target = projection(info.grid.crs.to_wkt())
        west, south, east, north = footprint(info.grid).bounds
        area = (floor(west), floor(south), ceil(east), ceil(north))
        metres, grid = accuracy(source, target, area)
        if metres > min(size):
            shift = "an unknown distance" if metres == inf else f"up to {metres:g} m"
            remedy = f"; install its grid {grid} (projsync --file {grid})" if grid else ""
            line = (
                f"{labels.path}: its roads may be shifted by {shift} on {info.scene.image}, whose "
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


@lru_cache(maxsize=256)
def _crs_of(path: Path, layer: str | None, files: tuple[Stamp, ...]) -> pyproj.CRS:
    """The CRS of a vector file; ``files`` are its files, so that a new version is read again."""
    import pyogrio

    crs = pyogrio.read_info(path, layer=layer)["crs"]
    return WGS84 if crs is None else pyproj.CRS(crs)
