"""Scenes that do not fit into memory: imagery is read by windows, labels are kept compressed."""

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

_NON_ROAD, _ROAD, _INVALID = range(3)


class LabelPlanes:
    """Road and valid pixels of a scene, compressed in blocks; a block of one value is one number.

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
                stored = self._blocks[down, across]
                top, left = down * BLOCK, across * BLOCK
                shape = min(BLOCK, self.shape[0] - top), min(BLOCK, self.shape[1] - left)
                inside, own = overlap(rows.start - top, cols.start - left, height, width, shape)
                if isinstance(stored, int):
                    codes[own] = stored
                else:
                    block = np.frombuffer(zlib.decompress(stored), np.uint8)
                    codes[own] = block.reshape(shape)[inside]
        return codes


@dataclass(frozen=True, eq=False)
class StreamedPlane:
    """The road pixels of a scene, or its valid pixels, indexed by slices like an array (H, W).

    Args:
        planes: Both, compressed.
        road: Whether to return the road pixels.
    """

    planes: LabelPlanes
    road: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.planes.shape

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[np.bool_]:
        codes = self.planes.codes(*window)
        pixels: NDArray[np.bool_] = codes == _ROAD if self.road else codes != _INVALID
        return pixels


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
        planes: Its labels, which say where it is valid.
        pool: The open images.
        fill: (C,) what invalid pixels hold.
    """

    info: SceneInfo
    planes: LabelPlanes
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
        nodata = self.planes.codes(rows, cols) == _INVALID
        if nodata.any():
            bands[:, nodata] = self.fill[:, None]
        return bands
