"""Scenes that do not fit into memory: imagery is read by windows, labels are kept compressed.

Measured: 20.4 GiB of imagery take 1.03 GiB of memory (``benchmarks/reading.py memory``).
"""

import os
import zlib
from collections import OrderedDict
from dataclasses import dataclass
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
"""Largest number of images that a process keeps open."""

ROAD_PIXEL, INVALID_PIXEL = 1, 2
"""Labels of pixels; all others are 0."""


def pixel_labels(road: NDArray[np.bool_], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Road and valid pixels (h, w) as one array of ``ROAD_PIXEL``, ``INVALID_PIXEL`` and 0."""
    return np.where(valid, road.astype(np.uint8), np.uint8(INVALID_PIXEL))


class CompressedLabels:
    """The pixel labels of a scene in compressed blocks, indexed by slices like an array (H, W).

    A block of one value is kept as a number.

    Args:
        height: Rows of the scene.
        width: Columns of the scene.
    """

    def __init__(self, height: int, width: int) -> None:
        self.shape = (height, width)
        self._blocks: dict[tuple[int, int], bytes | int] = {}

    def store(self, top: int, left: int, labels: NDArray[np.uint8]) -> None:
        """Stores a window.

        Args:
            top: Its first row, a multiple of ``BLOCK``.
            left: Its first column, a multiple of ``BLOCK``.
            labels: (h, w), multiples of ``BLOCK`` except at the scene's far edges.
        """
        for row in range(0, len(labels), BLOCK):
            for col in range(0, labels.shape[1], BLOCK):
                block = labels[row : row + BLOCK, col : col + BLOCK]
                first = int(block[0, 0])
                uniform = bool((block == first).all())
                self._blocks[(top + row) // BLOCK, (left + col) // BLOCK] = (
                    first if uniform else zlib.compress(block.tobytes(), 1)
                )

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[np.uint8]:
        rows, cols = window
        height, width = rows.stop - rows.start, cols.stop - cols.start
        labels = np.empty((height, width), np.uint8)
        for down in range(rows.start // BLOCK, -(-rows.stop // BLOCK)):
            for across in range(cols.start // BLOCK, -(-cols.stop // BLOCK)):
                top, left = down * BLOCK, across * BLOCK
                shape = min(BLOCK, self.shape[0] - top), min(BLOCK, self.shape[1] - left)
                inside, own = overlap(rows.start - top, cols.start - left, height, width, shape)
                stored = self._blocks[down, across]
                if isinstance(stored, int):
                    labels[own] = stored
                else:
                    block = np.frombuffer(zlib.decompress(stored), np.uint8)
                    labels[own] = block.reshape(shape)[inside]
        return labels


class ImagePool:
    """Open images of this process: opened when first read, the least recently used closed first.

    No handle is passed on by a fork or a pickle: every process opens its own.

    Args:
        reading: How images are read.
        cache: Size of GDAL's block cache in bytes, for each process.
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
            DataError: The file is damaged or missing.
        """
        if self._owner != os.getpid():
            # Inherited handles belong to the parent process: they are dropped, not closed.
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


@dataclass(frozen=True, eq=False)
class StreamedBands:
    """The bands of a scene, indexed by slices like an array (C, H, W).

    Args:
        info: The scene.
        labels: Its pixel labels, which mark invalid pixels.
        pool: The open images.
        fill: (C,) the values of invalid pixels.
    """

    info: SceneInfo
    labels: CompressedLabels
    pool: ImagePool
    fill: NDArray[Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bands, height and width."""
        return self.info.count, *self.info.grid.shape

    def __len__(self) -> int:
        return self.info.count

    def __getitem__(self, window: tuple[slice, slice, slice]) -> NDArray[Any]:
        _, rows, cols = window
        bands = self.pool.read(self.info.scene, Window.from_slices(rows, cols))
        nodata = self.labels[rows, cols] == INVALID_PIXEL
        if nodata.any():
            bands[:, nodata] = self.fill[:, None]
        return bands
