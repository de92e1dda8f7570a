"""Scenes that do not fit into memory: read window by window, their labels kept in small blocks."""

import os
import zlib
from collections import OrderedDict
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from vbp_lightning.data.datasets.scene import Scene
from vbp_lightning.data.imagery.raster import OpenImage, Reading, without_place
from vbp_lightning.data.imagery.reading import SceneInfo
from vbp_lightning.data.imagery.windows import BLOCK, overlap

_OPEN_IMAGES = 32
"""Handles that a process holds at most."""

_NON_ROAD, _ROAD, _INVALID = range(3)


class LabelPlanes:
    """Road and valid pixels of a scene, compressed: blocks of one value take next to nothing.

    Args:
        height: Rows of the scene.
        width: Columns of the scene.
    """

    def __init__(self, height: int, width: int) -> None:
        self.shape = (height, width)
        self._blocks: dict[tuple[int, int], bytes | int] = {}

    def store(self, top: int, left: int, road: NDArray[np.bool_], valid: NDArray[np.bool_]) -> None:
        """Keeps a window.

        Args:
            top: Its first row, a multiple of ``BLOCK``.
            left: Its first column, a multiple of ``BLOCK``.
            road: (h, w), multiples of ``BLOCK`` but at the scene's far edges.
            valid: Likewise.
        """
        codes = np.where(valid, road.astype(np.uint8), np.uint8(_INVALID))
        for row in range(0, len(codes), BLOCK):
            for col in range(0, codes.shape[1], BLOCK):
                block = codes[row : row + BLOCK, col : col + BLOCK]
                first = int(block[0, 0])
                uniform = bool((block == first).all())
                self._blocks[(top + row) // BLOCK, (left + col) // BLOCK] = (
                    first if uniform else zlib.compress(block.tobytes(), 1)
                )

    def codes(self, rows: slice, cols: slice) -> NDArray[np.uint8]:
        """0 for non-road, 1 for road, 2 for invalid pixels of a window inside the scene."""
        height, width = rows.stop - rows.start, cols.stop - cols.start
        codes = np.empty((height, width), np.uint8)
        for down in range(rows.start // BLOCK, -(-rows.stop // BLOCK)):
            for across in range(cols.start // BLOCK, -(-cols.stop // BLOCK)):
                top, left = down * BLOCK, across * BLOCK
                shape = min(BLOCK, self.shape[0] - top), min(BLOCK, self.shape[1] - left)
                own, here = overlap(rows.start - top, cols.start - left, height, width, shape)
                block = self._blocks[down, across]
                if isinstance(block, bytes):
                    pixels = np.frombuffer(zlib.decompress(block), np.uint8)
                    codes[here] = pixels.reshape(shape)[own]
                else:
                    codes[here] = block
        return codes


class StreamedPlane:
    """The road pixels of a scene, or its valid ones, indexed by a window as an array is."""

    def __init__(self, planes: LabelPlanes, road: bool) -> None:
        self.shape = planes.shape
        self._planes = planes
        self._road = road

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[np.bool_]:
        codes = self._planes.codes(*window)
        pixels: NDArray[np.bool_] = codes == _ROAD if self._road else codes != _INVALID
        return pixels


class ImagePool:
    """Open images of this process: opened when first read, the longest unused closed first.

    A handle never crosses a fork or a pickle: every process opens its own.

    Args:
        reading: How images are read.
        cache: GDAL's block cache, bytes a process.
    """

    def __init__(self, reading: Reading, cache: int) -> None:
        self._reading = reading
        self._cache = cache
        self._owner = os.getpid()
        self._images: OrderedDict[str, OpenImage] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_images": OrderedDict(), "_owner": -1}

    def read(self, scene: Scene, window: Window) -> NDArray[Any]:
        """The bands (C, h, w) of a window.

        Raises:
            DataError: The file is damaged, or has gone.
        """
        if self._owner != os.getpid():
            # What was inherited belongs to the parent: forgotten, not closed.
            self._images, self._owner = OrderedDict(), os.getpid()
        with rasterio.Env(GDAL_CACHEMAX=self._cache, GDAL_ERROR_ON_LIBJPEG_WARNING=True):
            image = self._images.pop(scene.name, None)
            if image is None:
                with without_place():
                    image = OpenImage(scene.image, self._reading, scene.resize)
                if len(self._images) >= _OPEN_IMAGES:
                    self._images.popitem(last=False)[1].close()
            self._images[scene.name] = image
            return image.read(window)[0]


class StreamedBands:
    """The bands of a scene, indexed by a window as an array (C, H, W) is.

    Args:
        info: The scene.
        planes: Its labels: where it is valid.
        pool: Where its image is open.
        fill: What invalid pixels hold, one value a band.
    """

    def __init__(
        self, info: SceneInfo, planes: LabelPlanes, pool: ImagePool, fill: NDArray[Any]
    ) -> None:
        self.shape = (info.count, *info.grid.shape)
        self._scene = info.scene
        self._planes = planes
        self._pool = pool
        self._fill = fill

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, window: tuple[slice, slice, slice]) -> NDArray[Any]:
        _, rows, cols = window
        place = Window(cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)
        bands = self._pool.read(self._scene, place)
        nodata = self._planes.codes(rows, cols) == _INVALID
        if nodata.any():
            bands[:, nodata] = self._fill[:, None]
        return bands
