"""Reading scenes: bands, road pixels and valid pixels of a window; many scenes in parallel."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window
from rich.console import Console
from rich.progress import track

from vbp_lightning.data.datasets.listing import is_file
from vbp_lightning.data.datasets.scene import DataError, ImageLabel, Scene, VectorLabels
from vbp_lightning.data.imagery.extent import PixelGrid
from vbp_lightning.data.imagery.fingerprint import scene_digest
from vbp_lightning.data.imagery.opening import opened_raster
from vbp_lightning.data.imagery.raster import OpenImage, Reading, readable, without_place
from vbp_lightning.data.imagery.road_mask import open_roads
from vbp_lightning.data.imagery.vector_files import VectorSummary
from vbp_lightning.data.imagery.white import is_searched, read_white_nodata, white_nodata

BLOCK_CACHE = 64 << 20
"""Bytes of GDAL's block cache: every block is read once, and the default is 5 % of the memory."""

_MANY_SCENES = 64
"""From this number of scenes on a progress bar is shown."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class SceneInfo:
    """The properties of a scene that are known before its pixels are read.

    Args:
        scene: Its record.
        grid: Where its pixels lie.
        count: Number of bands.
        dtype: Type of the bands.
        band_names: Description, colour or number of each band.
    """

    scene: Scene
    grid: PixelGrid
    count: int
    dtype: np.dtype[Any]
    band_names: Sequence[str]

    @property
    def nbytes(self) -> int:
        """Memory of its bands and its two boolean planes, in bytes."""
        return self.grid.height * self.grid.width * (self.count * self.dtype.itemsize + 2)

    @cached_property
    def digest(self) -> str:
        """Of the content of its image and labels; the files are read for it."""
        return scene_digest(self.scene.image, self.scene.labels)


@dataclass(frozen=True, eq=False)
class Pixels:
    """A window of a scene, or all of it.

    Args:
        bands: (C, h, w) in the raster's own type, real numbers.
        road: (h, w) whether a pixel is road; false where it is not valid.
        valid: (h, w) whether a pixel holds values and its label is known.
        imaged: (h, w) whether a pixel holds values.
    """

    bands: NDArray[Any]
    road: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    imaged: NDArray[np.bool_]


class OpenScene(ExitStack):
    """A scene whose image and labels are open; a context manager.

    Args:
        scene: The scene.
        reading: How it is read.

    Attributes:
        info: Its properties.
        is_striped: Whether the image is stored in whole rows.

    Raises:
        DataError: A file is missing or cannot be used; one line for each error of either file.
    """

    def __init__(self, scene: Scene, reading: Reading) -> None:
        super().__init__()
        lines: list[str] = []
        try:
            self._image = image = self.enter_context(OpenImage(scene.image, reading, scene.resize))
        except DataError as error:
            raise DataError(*error.lines, *_unreadable(scene.labels)) from error
        self.is_striped = image.is_striped
        self.info = SceneInfo(scene, image.grid, image.count, image.dtype, image.band_names)
        with _collected(lines):
            self._has_white_areas = scene.white_area > 0 and is_searched(image)
        with _collected(lines):
            self._roads = self.enter_context(
                open_roads(scene, image.grid, image.stored_grid, reading.mask_values)
            )
        if lines:
            self.close()
            raise DataError(*lines)

    @property
    def largest_mask_value(self) -> float:
        """The largest mask value that was read."""
        return self._roads.largest

    @property
    def vectors(self) -> VectorSummary | None:
        """What was read from the vector file of the labels, if there is one."""
        return self._roads.vectors

    @cached_property
    def _white_nodata(self) -> NDArray[np.bool_]:
        return read_white_nodata(self._image, self.info.scene.white_area)

    def read(self, window: Window | None = None) -> Pixels:
        """Reads a window.

        A pixel is valid where the image holds values (see ``OpenImage.read``), where it is not
        part of a white area without imagery (see ``Scene.white_area``), and where the labels are
        known. To find white areas, the first window that is not the whole scene reads the scene
        once more.

        Args:
            window: Inside the scene; None for all of it.

        Raises:
            DataError: A file is damaged; one line for each error of either file.
        """
        window = window or self.info.grid.window
        lines: list[str] = []
        with _collected(lines):
            bands, imaged = self._image.read(window)
        with _collected(lines):
            road, known = self._roads.read(window)
        if lines:
            raise DataError(*lines)
        if self._has_white_areas:
            if imaged.shape == self.info.grid.shape:
                imaged &= ~white_nodata(bands, self.info.scene.white_area)
            else:
                imaged &= ~self._white_nodata[window.toslices()]
        valid = imaged & known
        road &= valid
        return Pixels(bands, road, valid, imaged)

    def check(self) -> None:
        """Refuses labels and transparency that cannot be right, once all of them were read.

        Raises:
            DataError: The values of a road mask have no meaning, or an alpha band is imagery; one
                line for each.
        """
        lines: list[str] = []
        for check in (self._image.check_alpha, self._roads.check):
            with _collected(lines):
                check()
        if lines:
            raise DataError(*lines)


def scene_info(scene: Scene, reading: Reading) -> SceneInfo:
    """Opens a scene's image and returns its properties; its labels are not opened.

    Raises:
        DataError: A file is missing or the image cannot be used.
    """
    if lines := _missing_files(scene):
        raise DataError(*lines)
    with OpenImage(scene.image, reading, scene.resize) as image:
        return SceneInfo(scene, image.grid, image.count, image.dtype, image.band_names)


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that are kept: in a new one, GDAL and PROJ take 20 ms to open their database.

    Args:
        threads: Their number.
        process: The process, as a forked one has none of them.
    """
    return ThreadPoolExecutor(threads)


def for_each_scene(
    act: Callable[[Scene], _Result],
    scenes: Sequence[Scene],
    description: str,
    threads: int,
    progress: bool,
) -> tuple[list[_Result], list[str]]:
    """Applies a function to many scenes in parallel threads.

    Args:
        act: The function; raises DataError for a scene that cannot be used.
        scenes: Its arguments.
        description: The label of the progress bar.
        threads: Number of threads; GDAL releases the interpreter's lock while it decodes.
        progress: Whether to show a bar if there are many scenes and a terminal.

    Returns:
        The results for the scenes that can be used, in order, and one line for each error of the
        others.
    """

    def attempt(scene: Scene) -> _Result | DataError:
        # GDAL's options belong to a thread, hence one Env per call. libjpeg warns where it pads
        # damaged blocks with grey.
        with rasterio.Env(
            GDAL_CACHEMAX=BLOCK_CACHE,
            GDAL_ERROR_ON_LIBJPEG_WARNING=True,
            GDAL_NUM_THREADS=max(1, threads // len(scenes)),
        ):
            try:
                return act(scene)
            except DataError as error:
                return error

    done: list[_Result] = []
    lines: list[str] = []
    console = Console(stderr=True)
    with without_place():
        results = track(
            _pool(threads, os.getpid()).map(attempt, scenes),
            description=description,
            total=len(scenes),
            console=console,
            transient=True,
            disable=not progress or len(scenes) < _MANY_SCENES or not console.is_terminal,
        )
        for result in results:
            if isinstance(result, DataError):
                lines.extend(result.lines)
            else:
                done.append(result)
    return done, lines


@contextmanager
def _collected(lines: list[str]) -> Iterator[None]:
    """Adds the lines of a :class:`DataError` to others instead of raising it."""
    try:
        yield
    except DataError as error:
        lines += error.lines


def _missing_files(scene: Scene) -> list[str]:
    """Returns a line for each missing file of a scene."""
    labels = scene.labels.path if isinstance(scene.labels, VectorLabels) else scene.labels
    lines = []
    if not is_file(scene.image, "data.root"):
        if isinstance(scene.labels, ImageLabel):
            lines.append(f"{scene.image}: is listed, but there is no such image (data.root)")
        else:
            lines.append(
                f"{labels}: is a mask without an image: put one at {scene.image} or remove the "
                "mask (data.root)"
            )
    # a vector file may be a folder, as a File Geodatabase is
    if isinstance(scene.labels, Path) and not is_file(scene.labels, "data.root"):
        lines.append(
            f"{scene.image}: has no road mask: put one at {labels} or remove the image (data.root)"
        )
    return lines


def _unreadable(labels: object) -> list[str]:
    """Returns a line if a road mask cannot be opened."""
    if isinstance(labels, Path):
        try:
            with readable(labels), opened_raster(labels):
                pass
        except DataError as error:
            return list(error.lines)
    return []
