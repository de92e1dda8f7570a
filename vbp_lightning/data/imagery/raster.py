"""Images of any type and number of bands, with nodata marked in any way that GDAL knows.

An image is opened for reading windows and closed by its context. A DataLoader's worker must not
inherit an open file: forked handles share their file offset, and wrong pixels are read silently.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import array_bounds
from rasterio.warp import calculate_default_transform
from rasterio.windows import Window

from vbp_lightning.data.datasets.listing import refuse_special, remedy
from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.datasets.virtual_path import VirtualPath
from vbp_lightning.data.datasets.vsi import last_error
from vbp_lightning.data.imagery.extent import PixelGrid, ground_sampling_distance, metric_projection
from vbp_lightning.data.imagery.integrity import CompressedBlocks, gdal_reports, transform_of
from vbp_lightning.data.imagery.mask_values import MaskValues
from vbp_lightning.data.imagery.opening import COPIES, opened_raster
from vbp_lightning.data.imagery.resampling import read_resampled
from vbp_lightning.data.imagery.transparency import AlphaCounts
from vbp_lightning.data.imagery.windows import rescaled
from vbp_lightning.errors import plain, reason

_SAME_SIZE = 0.001
"""Relative difference of pixel sizes up to which an image is not resampled."""

_SAMPLE = 64
"""Side in pixels of the windows in which an alpha band is sampled."""

_MAX_BANDS = 1000
"""Largest number of bands that are read."""


@dataclass(frozen=True)
class Reading:
    """How scenes are read.

    Args:
        bands: Bands to read, each by its number counted from 1, its description or its colour
            interpretation; None reads all but an alpha band.
        nodata: A nodata value beside those that the file itself declares; None for none.
        resolution: Ground sampling distance in metres that images are resampled to; None for no
            resampling.
        alpha: Whether an alpha band that is not read as imagery is transparency; False ignores it.
            None takes it for transparency and refuses one of many values (``check_alpha``).
        mask_threshold: Values of a road mask above it are road, unless ``road_values`` are given.
        road_values: Values of a road mask that are road; None for those above the threshold.
        non_road_values: Its values that are not road, if ``road_values`` are given.
        ignore_values: Its values where the label is not known.
    """

    bands: tuple[int | str, ...] | None = None
    nodata: float | None = None
    resolution: float | None = None
    mask_threshold: float = 127
    # No part of the repr, by which scene maps are recognised. Masks do not concern them, and
    # ``SceneJob`` adds ``alpha``.
    alpha: bool | None = field(default=None, repr=False)
    road_values: tuple[float, ...] | None = field(default=None, repr=False)
    non_road_values: tuple[float, ...] = field(default=(0,), repr=False)
    ignore_values: tuple[float, ...] = field(default=(), repr=False)

    @property
    def mask_values(self) -> MaskValues:
        """The meaning of the values of a road mask."""
        return MaskValues(
            self.mask_threshold, self.road_values, self.non_road_values, self.ignore_values
        )


@contextmanager
def readable(path: Path, key: str = "data.root") -> Iterator[None]:
    """Turns GDAL's errors and warnings about a file into a ``DataError`` that names it.

    Nothing is opened that is no regular file.
    """
    refuse_special(path, key)
    advice = f"{remedy(path)} ({key})"
    try:
        with gdal_reports() as reports:
            yield
    except (RasterioError, CPLE_BaseError, OSError, ValueError, MemoryError) as error:
        why = _reason(path, error).removeprefix(f"{path}: ")
        raise DataError(f"{path}: cannot be read ({_without_copies(why)}): {advice}") from error
    if reports:
        why = _without_copies(" ".join(reports[0].split()))
        raise DataError(f"{path}: cannot be read ({why}): {advice}")


def _without_copies(text: str) -> str:
    """A message without the folder of copies (``opened_raster``)."""
    return re.sub(rf"[^\s'\"(]*{COPIES}[^/\s]*/", "", text)


def _reason(path: Path, error: BaseException) -> str:
    """The reason of an error; of a file that seems to be missing, that of the last request."""
    of_request = last_error() if isinstance(path, VirtualPath) else ""
    return of_request if of_request and "does not exist" in reason(error) else reason(error)


@contextmanager
def without_place() -> Iterator[None]:
    """Ignores rasterio's warning about images that are not georeferenced.

    Warning filters belong to the process: enter it outside of threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


class OpenImage(ExitStack):
    """An image that is open for reading; a context manager.

    Paletted images are expanded to their colours. With ``reading.resolution`` the image is
    resampled window by window: in its own CRS if that keeps ground distances to 1 %, else in a
    local metric projection; bilinear towards finer, average towards coarser pixels, nearest for
    palettes.

    Args:
        path: The file.
        reading: How it is read.
        resize: Side in pixels that the image is resized to, regardless of its shape; None for no
            resizing.
        key: The config key that names the file, for messages.

    Attributes:
        grid: Where the pixels lie, after resampling.
        stored_grid: Where the pixels of the file lie.
        dtype: Type of the bands that are read.
        count: Number of bands that are read.
        band_names: Description, colour or number of each.
        is_striped: Whether the file is stored in whole rows.
        has_mask: Whether a mask or an alpha band of the file marks its nodata pixels.

    Raises:
        DataError: The file cannot be used; one line.
    """

    def __init__(
        self, path: Path, reading: Reading, resize: int | None = None, key: str = "data.root"
    ) -> None:
        super().__init__()
        self.path = path
        self.key = key
        try:
            with readable(path, key):
                self._open(reading, resize)
        except BaseException:
            self.close()
            raise

    def _open(self, reading: Reading, resize: int | None) -> None:
        raster: Any = self.enter_context(opened_raster(self.path))
        self._raster = raster
        self._blocks = CompressedBlocks(raster)
        if raster.count == 0:
            inner = raster.subdatasets
            hint = f"give one of its {len(inner)} subdatasets, as {inner[0]}" if inner else "remove"
            raise DataError(f"{self.path}: holds no band: {hint} ({self.key})")
        self._palette = palette_of(raster)
        if self._palette is None:
            colours, names = list(raster.colorinterp), _band_names(raster)
        else:
            colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
            names = [colour.name for colour in colours]
        self._bands = self._chosen(reading.bands, colours, names)
        self.band_names = [names[band - 1] for band in self._bands]
        self.count = len(self._bands)
        if self.count > _MAX_BANDS:
            raise DataError(
                f"{self.path}: has {self.count} bands, and at most {_MAX_BANDS} can be read: "
                f"choose some with data.bands ({self.key})"
            )
        self._sources = sources = self._bands if self._palette is None else [1]
        types = [raster.dtypes[band - 1] for band in sources]
        if any("complex" in name for name in types):
            raise DataError(
                f"{self.path}: holds complex numbers: choose real bands with data.bands, or "
                f"convert the file ({self.key})"
            )
        self._stored_dtype = np.result_type(*types)
        self.dtype = self._stored_dtype if self._palette is None else np.dtype(np.uint8)
        # GDAL tags the fourth of four 8-bit bands as alpha, also if it is infrared: an alpha band
        # that is named is imagery.
        alpha = [n for n, each in enumerate(raster.colorinterp, 1) if each is ColorInterp.alpha]
        is_named = self._palette is None and not set(alpha).isdisjoint(self._bands)
        self._alpha = 0 if is_named or reading.alpha is False else min(alpha, default=0)
        is_asked = self._alpha and reading.alpha is None
        self._alpha_counts = AlphaCounts() if is_asked else None
        self._read_bands = {*sources, self._alpha} - {0}
        self._nodata = [[raster.nodatavals[band - 1] for band in sources]]
        if reading.nodata is not None:
            self._nodata.append([reading.nodata] * len(sources))
        flags = raster.mask_flag_enums[sources[0] - 1]
        self._has_mask = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
        self.has_mask = bool(self._has_mask or self._alpha)
        self.is_striped = raster.block_shapes[0][1] == raster.width
        is_placed = raster.crs is not None or not raster.gcps[0]
        transform = transform_of(raster) if is_placed else Affine.identity()
        self.grid = PixelGrid(raster.height, raster.width, transform, raster.crs)
        self.stored_grid = self.grid
        shrinks = False
        if resize is not None:
            across, down = raster.width / resize, raster.height / resize
            transform = rescaled(self.grid.transform, across=across, down=down)
            self.grid = PixelGrid(resize, resize, transform, self.grid.crs)
            shrinks = max(across, down) > 1
        elif reading.resolution is not None:
            size = ground_sampling_distance(self.grid)
            if size is None:
                placed = (
                    "is placed by ground control points only" if raster.gcps[0] else "has no CRS"
                )
                raise DataError(
                    f"{self.path}: {placed}, so that its ground sampling distance is unknown: "
                    "leave data.resolution=null, or georeference it (gdalwarp)"
                )
            self.grid = _resampled(self.grid, size, reading.resolution)
            shrinks = max(size) < reading.resolution
        self._method = Resampling.average if shrinks else Resampling.bilinear
        if self._palette is not None:
            self._method = Resampling.nearest

    def _chosen(
        self,
        wanted: Sequence[int | str] | None,
        colours: Sequence[ColorInterp],
        names: Sequence[str],
    ) -> list[int]:
        """Numbers of the wanted bands."""
        numbers = range(len(names), 0, -1)  # the first of several bands of one name is taken
        if wanted is None:
            return [n for n in numbers[::-1] if colours[n - 1] is not ColorInterp.alpha] or [1]
        known: dict[int | str, int] = {colours[n - 1].name.lower(): n for n in numbers}
        known |= {n: n for n in numbers} | {str(n): n for n in numbers}
        known |= {names[n - 1].lower(): n for n in numbers}
        keys = [band if isinstance(band, int) else str(band).lower() for band in wanted]
        unknown = [str(key) for key in keys if key not in known]
        if unknown:
            listed = f"1 to {len(names)}"
            if spoken := [name for name in names if not name.isdigit()]:
                listed += f" or {', '.join(spoken)}"
            remedy = f"data.bands may name {listed}"
            if self.key == "input":
                remedy = f"the checkpoint was trained with it, and this file has {listed} (input)"
            raise DataError(f"{self.path}: has no band {', '.join(unknown)}: {remedy}")
        return [known[key] for key in keys]

    def read(self, window: Window | None = None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Reads a window.

        A pixel is valid if every chosen band holds a value: not NaN or infinite, not nodata, not
        transparent, not masked out. A nodata value that imagery itself reaches, 0 or the largest of
        an integer type, counts only if all chosen bands hold it: one dark band is a shadow.

        Args:
            window: Inside the image; None for all of it.

        Returns:
            Bands (C, h, w) of type ``dtype``, side by side in memory, and valid pixels (h, w).

        Raises:
            DataError: The file is damaged.
        """
        window = window or self.grid.window
        if self.grid is self.stored_grid:
            return self._read_stored(window)
        with readable(self.path, self.key):
            return read_resampled(
                self._read_stored, self.stored_grid, self.grid, window, self._method
            )

    def _read_stored(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """A window of the image as it is stored."""
        with readable(self.path, self.key):
            # The bands of a pixel are adjacent in memory: cutting a tile then touches a third of
            # the cache lines, and the networks are fastest with this layout.
            shape = int(window.height), int(window.width)
            pixels = np.empty((*shape, len(self._sources)), self._stored_dtype).transpose(2, 0, 1)
            self._raster.read(self._sources, window=window, out=pixels)
            self._blocks.verify(window, self._read_bands)  # GDAL has fetched them of a server
            valid = np.ones(shape, dtype=bool)
            if self._alpha:
                opacity = self._raster.read(self._alpha, window=window)
                if self._alpha_counts is not None:
                    self._alpha_counts.add(opacity)
                valid &= opacity != 0
            if self._has_mask:
                valid &= self._raster.read_masks(self._sources[0], window=window) != 0
        for values in self._nodata:
            valid &= ~_holds_nodata(pixels, values)
        if self._palette is not None:
            colours = self._palette[np.clip(pixels[0], 0, len(self._palette) - 1)]
            valid &= colours[..., 3] != 0
            chosen = [band - 1 for band in self._bands]
            pixels = np.ascontiguousarray(colours[..., chosen]).transpose(2, 0, 1)
        if np.issubdtype(pixels.dtype, np.floating):
            valid &= np.isfinite(pixels).all(axis=0)
        return pixels, valid

    def check_alpha(self) -> None:
        """Refuses an alpha band that looks like imagery, by the pixels that were read.

        Raises:
            DataError: Many of its values are neither 0 nor the largest, and ``Reading.alpha`` does
                not say what it is.
        """
        if self._alpha_counts is None or not self._alpha_counts.are_imagery:
            return
        every = ",".join(map(str, self._raster.indexes))
        remedy = (
            f"set data.bands=[{every}] if it is imagery, data.alpha=true if it is transparency, or "
            "data.alpha=false to leave it out"
        )
        if self.key == "input":
            colours = " ".join(f"-b {band}" for band in self._bands)
            remedy = (
                f"leave it out (gdal_translate {colours} IMAGE COLOURS.tif), or train with "
                f"data.bands=[{every}], data.alpha=true or data.alpha=false"
            )
        raise DataError(
            f"{self.path}: its band {self._alpha} is called alpha, but "
            f"{self._alpha_counts.partial:.0%} of its values are neither 0 nor the largest "
            f"({self.key}): {remedy}"
        )

    def sample_alpha(self) -> None:
        """Reads an alpha band at places all over the image, and refuses it as ``check_alpha``."""
        counts = self._alpha_counts
        if counts is not None:
            with readable(self.path, self.key):
                for window in _spread(*self.stored_grid.shape):
                    counts.add(self._raster.read(self._alpha, window=window))
            self.check_alpha()


def _spread(height: int, width: int) -> Iterator[Window]:
    """Small windows all over an image."""
    tops, lefts = (
        np.unique(np.linspace(0, max(0, side - _SAMPLE), 8).astype(int)).tolist()
        for side in (height, width)
    )
    for top, left in product(tops, lefts):
        yield Window(left, top, min(_SAMPLE, width), min(_SAMPLE, height))


def _holds_nodata(pixels: NDArray[Any], nodata: Sequence[float | None]) -> NDArray[np.bool_]:
    """Pixels (h, w) whose bands (C, h, w) hold the nodata value of their band."""
    is_integer = np.issubdtype(pixels.dtype, np.integer)
    reached = (None, 0, np.iinfo(pixels.dtype).max) if is_integer else (None,)
    holds = np.zeros(pixels.shape, dtype=bool)
    for band, (value, values) in enumerate(zip(nodata, pixels, strict=True)):
        if value is not None:
            np.equal(values, value, out=holds[band])
    combine = np.all if all(value in reached for value in nodata) else np.any
    result: NDArray[np.bool_] = combine(holds, axis=0)
    return result


def _resampled(grid: PixelGrid, size: tuple[float, float], resolution: float) -> PixelGrid:
    """The grid of an image with another ground sampling distance; the same if that is its own."""
    if all(abs(metres / resolution - 1) < _SAME_SIZE for metres in size):
        return grid
    metric, units = metric_projection(grid)
    own = grid.transform
    crs = CRS.from_wkt(metric.to_wkt())
    if own.b == own.d == 0 and crs == grid.crs:
        across, down = (resolution * units / abs(step) for step in (own.a, own.e))
        transform = rescaled(own, across=across, down=down)
        width, height = round(grid.width / across), round(grid.height / down)
    else:
        bounds = array_bounds(grid.height, grid.width, own)
        transform, width, height = calculate_default_transform(
            grid.crs, crs, grid.width, grid.height, *bounds, resolution=resolution * units
        )
    return PixelGrid(max(1, height), max(1, width), transform, crs)


def palette_of(raster: Any) -> NDArray[np.uint8] | None:  # noqa: ANN401
    """Returns the colours (n, 4), RGBA, of a paletted image; None for other images."""
    others = raster.colorinterp[1:]
    if raster.colorinterp[0] is not ColorInterp.palette or any(
        meaning is not ColorInterp.alpha for meaning in others
    ):
        return None
    colours = raster.colormap(1)
    table = np.zeros((max(colours) + 1, 4), np.uint8)
    for index, colour in colours.items():
        table[index] = colour
    return table


def _band_names(raster: Any) -> list[str]:  # noqa: ANN401
    """The description of each band, else its colour, else its number."""
    unnamed = (ColorInterp.undefined, ColorInterp.gray, ColorInterp.palette)
    return [
        plain(description or (str(number) if meaning in unnamed else meaning.name))
        for number, (description, meaning) in enumerate(
            zip(raster.descriptions, raster.colorinterp, strict=True), 1
        )
    ]
