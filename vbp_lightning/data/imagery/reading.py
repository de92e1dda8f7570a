"""Reading scenes: image, labels and gaps of a window, or of many whole scenes at once."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window
from rich.console import Console
from rich.progress import track

from vbp_lightning.data.datasets.scene import DataError, ImageLabel, Scene, VectorLabels
from vbp_lightning.data.imagery.extent import PixelGrid
from vbp_lightning.data.imagery.raster import OpenImage, Reading, readable, without_place
from vbp_lightning.data.imagery.road_mask import OpenRoads, open_roads
from vbp_lightning.data.imagery.white import WhiteAreas, missing_white

BLOCK_CACHE = 64 << 20
"""Bytes. Every block is read once; GDAL's default is 5 % of the machine's memory."""

_MANY_SCENES = 64
"""From here on reading takes long enough to show its progress."""

_Result = TypeVar("_Result")
_Kept = TypeVar("_Kept")


@dataclass(frozen=True, eq=False)
class SceneInfo:
    """What is known of a scene before its pixels are read.

    Args:
        scene: Its record.
        grid: Where its pixels lie.
        count: Number of bands.
        dtype: Of the bands.
        band_names: Description, colour or number of each band.
    """

    scene: Scene
    grid: PixelGrid
    count: int
    dtype: np.dtype[Any]
    band_names: Sequence[str]

    @property
    def nbytes(self) -> int:
        """Memory that its bands and its two planes of labels take, in bytes."""
        return self.grid.height * self.grid.width * (self.count * self.dtype.itemsize + 2)


@dataclass(frozen=True, eq=False)
class Pixels:
    """A window of a scene, or all of it.

    Args:
        bands: (C, h, w) in the raster's own type, real numbers.
        road: (h, w) whether a pixel is road; false where it is not valid.
        valid: (h, w) whether a pixel shows anything, and its label is known.
    """

    bands: NDArray[Any]
    road: NDArray[np.bool_]
    valid: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LoadedScene:
    """A scene in memory.

    Args:
        info: What it is.
        pixels: All of it.
        largest_mask_value: What the road mask reaches; tells a wrong threshold from no roads.
    """

    info: SceneInfo
    pixels: Pixels
    largest_mask_value: float


class OpenScene:
    """A scene whose image and labels are open; a context manager.

    Args:
        scene: What to open.
        reading: How.

    Attributes:
        info: What is known without its pixels.

    Raises:
        DataError: One line for each fault of either file.
    """

    def __init__(self, scene: Scene, reading: Reading) -> None:
        lines = _missing_files(scene)
        if lines:
            raise DataError(*lines)
        self._white: WhiteAreas | None = None
        self._stack = ExitStack()
        try:
            self._image = self._stack.enter_context(OpenImage(scene.image, reading, scene.resize))
        except DataError as error:
            lines += [*error.lines, *_unreadable(scene.labels)]
        else:
            image = self._image
            self.info = SceneInfo(scene, image.grid, image.count, image.dtype, image.band_names)
            if scene.white_area and not np.issubdtype(image.dtype, np.integer):
                lines.append(
                    f"{scene.image}: white gaps are looked for in images of whole numbers, and "
                    f"this one is {image.dtype}: set data.source.white_area=0, and data.nodata to "
                    "the value of gaps"
                )
            try:
                self._roads: OpenRoads = self._stack.enter_context(  # type: ignore[assignment]
                    open_roads(scene, image.grid, image.stored_grid, reading.mask_threshold)
                )
            except DataError as error:
                lines += error.lines
        if lines:
            self._stack.close()
            raise DataError(*lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def is_striped(self) -> bool:
        """Whether the image is stored in whole rows."""
        striped: bool = self._image.is_striped
        return striped

    @property
    def largest_mask_value(self) -> float:
        """The largest mask value that was read."""
        return self._roads.largest

    def find_white_gaps(self, windows: Iterable[Window]) -> None:
        """Looks for white gaps that reach across windows; ``read`` then takes these alone.

        Args:
            windows: They cover the scene once, in rows from left to right.

        Raises:
            DataError: The image is damaged.
        """
        self._white = WhiteAreas(self.info.grid.width, self.info.scene.white_area)
        for window in windows:
            self._white.add(window.row_off, window.col_off, self._image.read(window)[0])

    def read(self, window: Window | None = None) -> Pixels:
        """Reads a window. White gaps are looked for within it, if they were not found before.

        A pixel is valid where the image shows something (see :meth:`OpenImage.read`), where it is
        not part of a white gap (see ``Scene.white_area``), and where the labels are known.

        Args:
            window: Inside the scene; None for all of it.

        Raises:
            DataError: One line for each fault of either file.
        """
        lines: list[str] = []
        try:
            bands, valid = self._image.read(window)
        except DataError as error:
            lines += error.lines
        try:
            road, known = self._roads.read(window)
        except DataError as error:
            lines += error.lines
        if lines:
            raise DataError(*lines)
        valid &= known
        if self._white is not None and window is not None:
            valid &= ~self._white.missing(window.row_off, window.col_off, bands)
        elif self.info.scene.white_area:
            valid &= ~missing_white(bands, self.info.scene.white_area)
        road &= valid
        return Pixels(bands, road, valid)

    def check(self) -> None:
        """Refuses labels that cannot be right, once all of them were read.

        Raises:
            DataError: A mask is a picture.
        """
        self._roads.check()


def load_scene(scene: Scene, reading: Reading) -> LoadedScene:
    """Reads a scene whole.

    Raises:
        DataError: One line for each fault.
    """
    with OpenScene(scene, reading) as opened:
        pixels = opened.read()
        opened.check()
        return LoadedScene(opened.info, pixels, opened.largest_mask_value)


def scene_info(scene: Scene, reading: Reading) -> SceneInfo:
    """Opens a scene's image and tells what it is; its labels are not looked at.

    Raises:
        DataError: A file is missing or the image cannot be used.
    """
    if lines := _missing_files(scene):
        raise DataError(*lines)
    with OpenImage(scene.image, reading, scene.resize) as image:
        return SceneInfo(scene, image.grid, image.count, image.dtype, image.band_names)


def for_each_scene(
    act: Callable[[Scene], _Result],
    scenes: Sequence[Scene],
    description: str,
    threads: int,
    progress: bool,
    keep: Callable[[_Result], _Kept],
) -> tuple[list[_Kept], list[str]]:
    """Does something with many scenes, several at a time.

    Args:
        act: What to do with a scene; raises DataError for one that cannot be used.
        scenes: With which.
        description: What the progress bar says.
        threads: How many at once; GDAL lets go of the interpreter while it decodes.
        progress: Whether to show a bar where there are many scenes, on a terminal.
        keep: What to keep of a result; called in the order of the scenes, by one thread.

    Returns:
        What was kept of the scenes that could be used, in order, and one line for each fault of the
        others.
    """

    def attempt(scene: Scene) -> _Result | DataError:
        # GDAL's options belong to a thread, hence one Env a call. Warnings of libjpeg tell of
        # blocks that were padded with grey.
        with rasterio.Env(
            GDAL_CACHEMAX=BLOCK_CACHE,
            GDAL_ERROR_ON_LIBJPEG_WARNING=True,
            GDAL_NUM_THREADS=max(1, threads // len(scenes)),
        ):
            try:
                return act(scene)
            except DataError as error:
                return error

    done: list[_Kept] = []
    lines: list[str] = []
    console = Console(stderr=True)
    with without_place(), ThreadPoolExecutor(threads) as pool:
        results = track(
            pool.map(attempt, scenes),
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
                done.append(keep(result))
    return done, lines


def _missing_files(scene: Scene) -> list[str]:
    """A line for each file of a scene that is not there."""
    labels = scene.labels.path if isinstance(scene.labels, VectorLabels) else scene.labels
    lines = []
    if not _exists(scene.image):
        what = "is a mask without an image"
        if isinstance(scene.labels, ImageLabel):
            lines.append(f"{scene.image}: is listed, but there is no such image (data.root)")
        else:
            lines.append(
                f"{labels}: {what}: put one at {scene.image} or take the mask away (data.root)"
            )
    if isinstance(labels, Path) and not _exists(labels):
        lines.append(
            f"{scene.image}: has no road mask: put one at {labels} or take the image away "
            "(data.root)"
        )
    return lines


def _unreadable(labels: object) -> list[str]:
    """A line if a road mask cannot even be opened."""
    if isinstance(labels, Path):
        try:
            with readable(labels), rasterio.open(labels):
                pass
        except DataError as error:
            return list(error.lines)
    return []


def _exists(path: Path) -> bool:
    # GDAL's own file systems, as /vsizip/…, are not the operating system's.
    return path.is_file() or str(path).startswith("/vsi")
