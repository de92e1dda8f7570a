"""The road pixels of a scene from its labels: a road mask, vectors or one label."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from vbp_lightning.data.datasets.scene import DataError, ImageLabel, Scene, VectorLabels
from vbp_lightning.data.imagery.extent import (
    PixelGrid,
    beside,
    for_warp,
    ground_sampling_distance,
    largest_shift,
    overlap_on_ground,
)
from vbp_lightning.data.imagery.integrity import CompressedBlocks, transform_of
from vbp_lightning.data.imagery.mask_values import MaskValues, ValueCounts
from vbp_lightning.data.imagery.opening import opened_raster
from vbp_lightning.data.imagery.raster import palette_of, readable
from vbp_lightning.data.imagery.resampling import TOLERANCE
from vbp_lightning.data.imagery.vector_files import VectorSummary, road_features
from vbp_lightning.data.imagery.vectors import draw_roads, road_shapes
from vbp_lightning.data.imagery.windows import scan_windows

_SAME_GRID = 0.1
"""Largest shift in pixels at which a road mask is not resampled."""

_GREY = 16
"""Largest difference of the three bytes of a grey pixel after lossy compression."""

Roads = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Road pixels (h, w) of a window, and pixels (h, w) whose label is known."""


class RasterRoads:
    """A road mask that is open for reading, on the grid of its image.

    A road mask on another grid or in another CRS is warped to the image's, nearest neighbour. One
    that is not georeferenced has the extent of its image, if it has its size. Road masks stored as
    grey colours (three equal bands, grey palettes) are read as their grey values, others with a
    palette as its indices. The label of transparent pixels is not known.

    Args:
        scene: The scene.
        path: Its road mask.
        grid: The grid of its image, after resampling.
        stored: The grid of its image's file.
        values: The meaning of its values.
        stack: Closes the file.

    Attributes:
        vectors: None.

    Raises:
        DataError: The road mask cannot be used or does not belong to the image.
    """

    def __init__(
        self,
        scene: Scene,
        path: Path,
        grid: PixelGrid,
        stored: PixelGrid,
        values: MaskValues,
        stack: ExitStack,
    ) -> None:
        self.path = path
        self.vectors = None
        self._values = values
        self._counts = ValueCounts(values)
        self._grid = grid
        self._transparent = self._non_road = 0
        raster = stack.enter_context(opened_raster(path))
        alphas = [n for n, each in enumerate(raster.colorinterp, 1) if each is ColorInterp.alpha]
        self._bands = [number for number in raster.indexes if number not in alphas]
        self._count = raster.count
        if len(self._bands) not in (1, 3) or len(alphas) > 1:
            raise DataError(
                f"{path}: a road mask has one band, and this file has {raster.count} "
                "(data.root): give a mask of one band"
            )
        palette = palette_of(raster)
        is_grey = palette is not None and (palette[:, :1] == palette[:, 1:3]).all()
        self._grey = palette[:, 0] if palette is not None and is_grey else None
        # In practice a nodata value of 0 in a road mask means that there is no road.
        has_nodata = MaskFlags.all_valid not in raster.mask_flag_enums[0] and raster.nodata != 0
        self._raster: Any = raster
        self._mask: Callable[[Window], NDArray[np.uint8]] | None = (
            (lambda window: self._raster.read_masks(1, window=window)) if has_nodata else None
        )
        own = PixelGrid(raster.height, raster.width, transform_of(raster), raster.crs)
        CompressedBlocks(raster).verify(own.window, raster.indexes)
        if _is_on(own, grid):
            return
        if _is_on(own, stored):
            own = stored
        if not (own.is_georeferenced and grid.is_georeferenced):
            raise DataError(
                f"{path}: is {own.width} × {own.height} px, its image {scene.image} "
                f"{stored.width} × {stored.height} px, and not both are georeferenced (data.root): "
                "make them of one size"
            )
        if not overlap_on_ground(own, grid):
            raise DataError(
                f"{path}: lies beside its image {scene.image} on the map (data.root): pair "
                "each image with the mask of its place"
            )
        own, target = for_warp(beside(own, grid)), for_warp(grid, True)
        self._raster = stack.enter_context(
            WarpedVRT(
                raster,
                src_crs=own.crs,
                src_transform=own.transform,
                crs=target.crs,
                transform=target.transform,
                width=grid.width,
                height=grid.height,
                resampling=Resampling.nearest,
                src_nodata=raster.nodata if has_nodata else None,
                tolerance=TOLERANCE,
                add_alpha=not alphas,
            )
        )
        alpha = self._raster.count  # true where the road mask has data
        self._mask = lambda window: self._raster.read(alpha, window=window)

    @property
    def largest(self) -> float:
        """The largest value read so far."""
        return self._counts.largest

    def read(self, window: Window) -> Roads:
        """Reads a window.

        Raises:
            DataError: The file is damaged, or is a picture.
        """
        plane, known = self._plane(window)
        self._transparent += known.size - int(np.count_nonzero(known))
        known &= self._values.has_label(plane)
        self._counts.add(plane, known)
        road = self._values.is_road(plane) & known
        self._non_road += int(np.count_nonzero(known & ~road))
        return road, known

    def _plane(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Values (h, w) of a window, and where (h, w) the file holds one."""
        with readable(self.path):
            values = self._raster.read(self._bands, window=window)
            known = (
                np.ones(values.shape[1:], bool) if self._mask is None else self._mask(window) != 0
            )
        is_grey = (values[:1] == values[1:])[:, known].all()
        if not is_grey and values.dtype == np.uint8:
            is_grey = (np.ptp(values, axis=0)[known] <= _GREY).all()
        if not is_grey:
            raise DataError(
                f"{self.path}: a road mask has one band, and this file has {self._count} that "
                "differ (data.root): give a mask of one band"
            )
        plane = values[0]
        if self._grey is not None:
            plane = self._grey[np.clip(plane, 0, len(self._grey) - 1)]
        if np.issubdtype(plane.dtype, np.floating):
            known &= np.isfinite(plane)
        return plane, known

    def check(self) -> None:
        """Refuses the file if the values that were read have no meaning as road and non-road.

        Raises:
            DataError: It is a picture, holds other values than the settings explain, or is
                transparent wherever there is no road.
        """
        if self._count > 1 and self._transparent and not self._non_road:
            raise DataError(
                f"{self.path}: a road mask has one band, and this file has {self._count}, the last "
                "of which makes all pixels transparent but roads (data.root): give a mask of one "
                "band"
            )
        reason = self._counts.unexplained(self._planes)
        if reason is not None:
            raise DataError(f"{self.path}: {reason}")

    def _planes(self) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_]]]:
        for window in scan_windows(self._grid.shape, True, 1 << 22):
            plane, known = self._plane(window)
            yield plane, known & self._values.has_label(plane)


def _is_on(own: PixelGrid, grid: PixelGrid) -> bool:
    """Whether the pixels of a road mask lie on those of a grid."""
    if own.shape != grid.shape:
        return False
    if own.is_georeferenced and grid.is_georeferenced:
        return own.crs == grid.crs and largest_shift(grid, own) <= _SAME_GRID
    placed = own.transform.is_identity or grid.transform.is_identity
    return placed or largest_shift(grid, own) <= _SAME_GRID


@dataclass(frozen=True)
class KnownRoads:
    """Roads that are known everywhere, from vectors or from one label.

    Args:
        draw: Returns the road pixels (h, w) of a window.
        vectors: What was read from the vector file, if there is one.
    """

    draw: Callable[[Window], NDArray[np.bool_]]
    vectors: VectorSummary | None = None
    largest: float = 1.0

    def read(self, window: Window) -> Roads:
        """Draws a window."""
        road = self.draw(window)
        return road, np.ones(road.shape, dtype=bool)

    def check(self) -> None:
        """Accepts everything: there is no file that could be wrong."""


OpenRoads: TypeAlias = RasterRoads | KnownRoads


@contextmanager
def open_roads(
    scene: Scene, grid: PixelGrid, stored: PixelGrid, values: MaskValues
) -> Iterator[OpenRoads]:
    """Opens the labels of a scene.

    Args:
        scene: The scene.
        grid: The grid of its image, after resampling.
        stored: The grid of its image's file.
        values: The meaning of the values of a road mask.

    Yields:
        The object that reads their windows.

    Raises:
        DataError: The labels cannot be used; one line.
    """
    labels = scene.labels
    with ExitStack() as stack:
        if isinstance(labels, ImageLabel):
            is_road = labels.is_road
            yield KnownRoads(lambda window: np.full((window.height, window.width), is_road))
        elif isinstance(labels, VectorLabels):
            if ground_sampling_distance(grid) is None:
                raise DataError(
                    f"{scene.image}: has no CRS and transform that place it on the earth, so that "
                    "vector roads cannot be placed on it (data.source): georeference it (gdalwarp "
                    "takes ground control points), or give road masks of its size with data=folder"
                )
            draw = partial(draw_roads, road_shapes(labels, grid), grid)
            yield KnownRoads(draw, None if labels.path is None else road_features(labels).summary)
        else:
            with readable(labels):
                roads = RasterRoads(scene, labels, grid, stored, values, stack)
            yield roads
