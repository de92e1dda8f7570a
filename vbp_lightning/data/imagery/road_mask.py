"""The road pixels of a scene, from whatever its labels are."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from vbp_lightning.data.datasets.scene import DataError, ImageLabel, Scene, VectorLabels
from vbp_lightning.data.imagery.extent import (
    PixelGrid,
    footprint,
    ground_sampling_distance,
    largest_shift,
)
from vbp_lightning.data.imagery.raster import palette_of, readable
from vbp_lightning.data.imagery.resampling import TOLERANCE
from vbp_lightning.data.imagery.vectors import draw_roads, road_shapes

_SAME_GRID = 0.1
"""Pixels that a mask may be off before it is resampled."""

_SHADES_OF_A_MASK = 16


class RasterRoads:
    """A road mask that is open for reading, on the grid of its image; a context manager.

    A mask on another grid or in another CRS is warped onto the image's, nearest neighbour; one that
    does not say where it lies has its image's place, if it has its size. Masks stored as grey
    colours (three equal bands, grey palettes) are read as their grey values.

    Attributes:
        largest: The largest mask value read so far.

    Raises:
        DataError: The mask cannot be used or does not belong to the image.
    """

    def __init__(
        self, scene: Scene, path: Path, grid: PixelGrid, stored: PixelGrid, threshold: float
    ) -> None:
        self.path = path
        self._threshold = threshold
        self.largest = 0.0
        self._middle = 0
        self._shades: set[float] = set()
        self._seen = 0
        self._stack = ExitStack()
        try:
            with readable(path):
                self._open(scene, grid, stored)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _open(self, scene: Scene, grid: PixelGrid, stored: PixelGrid) -> None:
        raster = self._stack.enter_context(rasterio.open(self.path))
        if raster.count not in (1, 3):
            raise DataError(
                f"{self.path}: a road mask has one band, and this file has {raster.count} "
                "(data.root): give a mask of one band"
            )
        palette = palette_of(raster)
        is_grey = palette is not None and bool(
            (palette[:, 0] == palette[:, 1]).all() and (palette[:, 1] == palette[:, 2]).all()
        )
        self._grey = palette[:, 0] if palette is not None and is_grey else None
        # In practice a nodata value of 0 in a mask means that there is no road.
        flags = raster.mask_flag_enums[0]
        self._reads_gaps = MaskFlags.all_valid not in flags and raster.nodata != 0
        self._bands = list(range(1, raster.count + 1))
        self._raster: Any = raster
        self._alpha = 0
        own = PixelGrid(raster.height, raster.width, raster.transform, raster.crs)
        if self._lies_on(own, grid):
            return
        if self._lies_on(own, stored):
            own = stored
        if not (own.is_georeferenced and grid.is_georeferenced):
            raise DataError(
                f"{self.path}: is {own.width} × {own.height} px, its image {scene.image} "
                f"{stored.width} × {stored.height} px, and not both are georeferenced (data.root): "
                "make them of one size"
            )
        if not footprint(own).intersects(footprint(grid)):
            raise DataError(
                f"{self.path}: lies beside its image {scene.image} on the map (data.root): pair "
                "each image with the mask of its place"
            )
        # The warped mask tells what it covers by an alpha band of its own; its gaps by its nodata.
        nodata = raster.nodata if self._reads_gaps else None
        self._raster = self._stack.enter_context(
            WarpedVRT(
                raster,
                src_crs=own.crs,
                src_transform=own.transform,
                crs=grid.crs,
                transform=grid.transform,
                width=grid.width,
                height=grid.height,
                resampling=Resampling.nearest,
                src_nodata=nodata,
                tolerance=TOLERANCE,
                add_alpha=True,
            )
        )
        self._alpha = raster.count + 1
        self._reads_gaps = False

    def _lies_on(self, own: PixelGrid, grid: PixelGrid) -> bool:
        if own.shape != grid.shape:
            return False
        if not (own.is_georeferenced and grid.is_georeferenced):
            placed = own.transform.is_identity or grid.transform.is_identity
            return placed or largest_shift(grid, own) <= _SAME_GRID
        return own.crs == grid.crs and largest_shift(grid, own) <= _SAME_GRID

    def read(self, window: Window | None = None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Road pixels (h, w) of a window, and where the mask says anything at all.

        Raises:
            DataError: The file is damaged, or is a picture.
        """
        with readable(self.path):
            values = self._raster.read(self._bands, window=window)
            if self._alpha:
                known = self._raster.read(self._alpha, window=window) != 0
            elif self._reads_gaps:
                known = self._raster.read_masks(1, window=window) != 0
            else:
                known = np.ones(values.shape[1:], dtype=bool)
        if len(values) == 3 and not (values[:1] == values[1:]).all():
            raise DataError(
                f"{self.path}: a road mask has one band, and this file has 3 that differ "
                "(data.root): give a mask of one band"
            )
        plane = values[0]
        if self._grey is not None:
            plane = self._grey[np.clip(plane, 0, len(self._grey) - 1)]
        if np.issubdtype(plane.dtype, np.floating):
            known &= np.isfinite(plane)
        low, high = 0.5 * self._threshold, 1.5 * self._threshold
        between = plane[(plane > low) & (plane < high)]
        self._middle += between.size
        if len(self._shades) <= _SHADES_OF_A_MASK:
            self._shades.update(np.unique(between).tolist()[: _SHADES_OF_A_MASK + 1])
        self._seen += plane.size
        if known.any():
            self.largest = max(self.largest, float(plane[known].max()))
        return (plane > self._threshold) & known, known

    def check(self) -> None:
        """Refuses what was read if it looks like a picture.

        A tenth may lie in the middle half of [0, 2·threshold], for soft borders and lossy
        compression, or more if it has a few values only.

        Raises:
            DataError: More than that does.
        """
        if self._middle > 0.1 * self._seen and len(self._shades) > _SHADES_OF_A_MASK:
            raise DataError(
                f"{self.path}: is not a road mask: many of its values are far from both "
                f"0 and {2 * self._threshold + 1:g} (data.mask_threshold={self._threshold:g}): "
                "give a mask that is 0 off the road and one value on it"
            )


class DrawnRoads:
    """Vector roads drawn onto a scene; a context manager that holds nothing open.

    Raises:
        DataError: The vectors cannot be used, or the scene has no place on the map.
    """

    def __init__(self, scene: Scene, labels: VectorLabels, grid: PixelGrid) -> None:
        self.largest = 1.0
        self._grid = grid
        if ground_sampling_distance(grid) is None:
            raise DataError(
                f"{scene.image}: has no CRS and transform that place it on the earth, so that "
                "vector roads cannot be placed on it (data.source): georeference it (gdalwarp "
                "takes ground control points), or give road masks of its size with data=folder"
            )
        self._shapes = road_shapes(labels, grid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def read(self, window: Window | None = None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Road pixels (h, w) of a window; all are known."""
        road = draw_roads(self._shapes, self._grid, window)
        return road, np.ones(road.shape, dtype=bool)

    def check(self) -> None:
        """Nothing that was read can be wrong."""


class WholeImage:
    """One label for all pixels of an image; a context manager that holds nothing open."""

    def __init__(self, label: ImageLabel, grid: PixelGrid) -> None:
        self.largest = 1.0
        self._is_road = label.is_road
        self._grid = grid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def read(self, window: Window | None = None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The label for each pixel (h, w) of a window; all are known."""
        shape = self._grid.shape if window is None else (window.height, window.width)
        return np.full(shape, self._is_road), np.ones(shape, dtype=bool)

    def check(self) -> None:
        """Nothing that was read can be wrong."""


OpenRoads: TypeAlias = RasterRoads | DrawnRoads | WholeImage


def open_roads(scene: Scene, grid: PixelGrid, stored: PixelGrid, threshold: float) -> OpenRoads:
    """Opens the labels of a scene.

    Args:
        scene: Whose.
        grid: Where the pixels of its image lie, after resampling.
        stored: Where those of the image's file lie.
        threshold: Values of a road mask above it are road.

    Raises:
        DataError: The labels cannot be used; one line.
    """
    labels = scene.labels
    if isinstance(labels, ImageLabel):
        return WholeImage(labels, grid)
    if isinstance(labels, VectorLabels):
        return DrawnRoads(scene, labels, grid)
    return RasterRoads(scene, labels, grid, stored, threshold)
