"""Images as they come: any type, any number of bands, gaps marked in any way GDAL knows.

An image is opened for reading windows and closed again by its context. No handle may be inherited
by a DataLoader's worker: a forked handle shares its file offset with its siblings, and silently
wrong pixels come out.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.warp import calculate_default_transform
from rasterio.windows import Window

from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.imagery.extent import PixelGrid, ground_sampling_distance, metric_projection
from vbp_lightning.data.imagery.resampling import read_resampled
from vbp_lightning.data.imagery.windows import rescaled
from vbp_lightning.errors import reason

_SAME_SIZE = 0.001
"""An image whose pixels are this close to the wanted size is not resampled."""


@dataclass(frozen=True)
class Reading:
    """How scenes are read.

    Args:
        bands: Bands to take, each by its number counted from 1, its description or its colour
            interpretation; None takes all but an alpha band.
        nodata: Pixels that hold this value in an image show nothing, beside what the file itself
            says; None for none.
        resolution: Ground size of a pixel in metres that images are resampled to; None leaves
            them.
        mask_threshold: Values of a road mask above it are road.
    """

    bands: tuple[int | str, ...] | None = None
    nodata: float | None = None
    resolution: float | None = None
    mask_threshold: float = 127


@contextmanager
def readable(path: Path, key: str = "data.root") -> Iterator[None]:
    """Turns what GDAL raises while reading a file into one line that names it."""
    try:
        yield
    except (RasterioError, CPLE_BaseError, OSError, ValueError, MemoryError) as error:
        raise DataError(
            f"{path}: cannot be read ({reason(error)}): the file is damaged or not a raster; "
            f"replace it ({key})"
        ) from error


@contextmanager
def without_place() -> Iterator[None]:
    """Images without a place on the map are welcome; filters are process-wide, not a thread's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


class OpenImage:
    """An image that is open for reading; a context manager.

    Paletted images are expanded to their colours. With ``reading.resolution`` the image is
    resampled window by window: in its own CRS where that keeps ground distances to 1 %, else in a
    local metric projection; bilinear towards finer, average towards coarser pixels,
    nearest for palettes.

    Attributes:
        grid: Where the pixels lie, after resampling.
        dtype: Of the bands that are read.
        count: Number of bands that are read.
        band_names: Description, colour or number of each.
        is_striped: Whether the file is stored in whole rows.

    Raises:
        DataError: The file cannot be used; one line.
    """

    def __init__(
        self, path: Path, reading: Reading, resize: int | None = None, key: str = "data.root"
    ) -> None:
        self.path = path
        self.key = key
        self._stack = ExitStack()
        try:
            with readable(path, key):
                self._open(reading, resize)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def has_mask(self) -> bool:
        """Whether a mask or an alpha band of the file marks its nodata pixels."""
        return bool(self._has_mask or self._alpha)

    @property
    def stored_grid(self) -> PixelGrid:
        """Where the pixels of the file itself lie."""
        stored: PixelGrid = self._stored
        return stored

    def close(self) -> None:
        """Closes the file."""
        self._stack.close()

    def _open(self, reading: Reading, resize: int | None) -> None:
        raster = self._stack.enter_context(rasterio.open(self.path))
        if raster.count == 0:
            inner = raster.subdatasets
            hint = f"give one of its {len(inner)} subdatasets, as {inner[0]}" if inner else "remove"
            raise DataError(f"{self.path}: holds no band: {hint} ({self.key})")
        self.grid = PixelGrid(raster.height, raster.width, raster.transform, raster.crs)
        if self.grid.crs is None and raster.gcps[0]:
            self.grid = PixelGrid(raster.height, raster.width, Affine.identity(), None)
        self._palette = palette_of(raster)
        meanings = list(raster.colorinterp)
        names = _band_names(raster)
        alpha = {
            number for number, meaning in enumerate(meanings, 1) if meaning is ColorInterp.alpha
        }
        transparency = min(alpha, default=0)
        if self._palette is not None:
            meanings = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
            names = ["red", "green", "blue"]
            alpha = set()
        self._bands = self._chosen(reading.bands, meanings, names, alpha)
        self.band_names = [names[band - 1] for band in self._bands]
        self.count = len(self._bands)
        sources = [1] if self._palette is not None else self._bands
        kinds = [
            np.dtype(raster.dtypes[band - 1])
            for band in sources
            if "complex" not in raster.dtypes[band - 1]
        ]
        if len(kinds) < len(sources):
            raise DataError(
                f"{self.path}: holds complex numbers: choose real bands with data.bands, or "
                f"convert the file ({self.key})"
            )
        self.dtype = np.dtype(np.uint8) if self._palette is not None else np.result_type(*kinds)
        self._sources = sources
        self._dtype = np.dtype(raster.dtypes[0]) if self._palette is not None else self.dtype
        # GDAL tags the fourth of four 8-bit bands as alpha, also where it is infrared: who names
        # it takes it for a band.
        self._alpha = 0 if alpha & set(self._bands) else transparency
        self._sentinels = [[raster.nodatavals[band - 1] for band in sources]]
        if reading.nodata is not None:
            self._sentinels.append([reading.nodata] * len(sources))
        flags = raster.mask_flag_enums[sources[0] - 1]
        self._has_mask = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
        self.is_striped = raster.block_shapes[0][1] == raster.width
        self._raster: Any = raster
        self._stored = self.grid
        self._method = Resampling.nearest
        if resize is not None:
            across, down = raster.width / resize, raster.height / resize
            transform = rescaled(self.grid.transform, across=across, down=down)
            self.grid = PixelGrid(resize, resize, transform, self.grid.crs)
            self._choose_method(max(across, down) > 1)
        elif reading.resolution is not None:
            self._resample(reading.resolution)

    def _choose_method(self, shrinks: bool) -> None:
        if self._palette is None:
            self._method = Resampling.average if shrinks else Resampling.bilinear

    def _chosen(
        self,
        wanted: Sequence[int | str] | None,
        meanings: Sequence[ColorInterp],
        names: Sequence[str],
        alpha: set[int],
    ) -> list[int]:
        """Numbers of the wanted bands."""
        if wanted is None:
            return [n for n in range(1, len(names) + 1) if n not in alpha] or [1]
        known: dict[int | str, int] = {}
        for number, meaning in reversed(list(enumerate(meanings, 1))):
            known[meaning.name.lower()] = number
            known[str(number)] = known[number] = number
        for number, name in reversed(list(enumerate(names, 1))):
            known[name.lower()] = number
        keys = [band if isinstance(band, int) else str(band).lower() for band in wanted]
        unknown = [str(key) for key in keys if key not in known]
        if unknown:
            listed = f"1 to {len(names)}"
            spoken = [name for name in names if not name.isdigit()]
            if spoken:
                listed += f" or {', '.join(spoken)}"
            remedy = f"data.bands may name {listed}"
            if self.key == "input":
                remedy = f"the checkpoint was trained with it, and this file has {listed} (input)"
            raise DataError(f"{self.path}: has no band {', '.join(unknown)}: {remedy}")
        return [known[key] for key in keys]

    def _resample(self, resolution: float) -> None:
        """Lays a grid of the wanted ground size over the image."""
        size = ground_sampling_distance(self.grid)
        if size is None:
            by_points = bool(self._raster.gcps[0])
            placed = "is placed by ground control points only" if by_points else "has no CRS"
            raise DataError(
                f"{self.path}: {placed}, so that its ground size is unknown: leave "
                "data.resolution=null, or georeference it (gdalwarp)"
            )
        if all(abs(metres / resolution - 1) < _SAME_SIZE for metres in size):
            return
        metric, units = metric_projection(self.grid)
        own = self.grid.transform
        assert self.grid.crs is not None
        crs = rasterio.crs.CRS.from_wkt(metric.to_wkt())
        if own.b == own.d == 0 and crs == self.grid.crs:
            across, down = (resolution * units / abs(step) for step in (own.a, own.e))
            transform = rescaled(own, across=across, down=down)
            width, height = round(self.grid.width / across), round(self.grid.height / down)
        else:
            transform, width, height = calculate_default_transform(
                self.grid.crs,
                crs,
                self.grid.width,
                self.grid.height,
                *self._raster.bounds,
                resolution=resolution * units,
            )
        self.grid = PixelGrid(max(1, height), max(1, width), transform, crs)
        self._choose_method(max(size) < resolution)

    def read(self, window: Window | None = None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Reads a window.

        A pixel is valid where every chosen band holds a value: not NaN or infinite, not nodata,
        not transparent, not masked out. A nodata value that imagery itself reaches, 0 or the
        largest of an integer type, counts only where all chosen bands hold it: one dark band is
        a shadow.

        Args:
            window: Inside the image; None for all of it.

        Returns:
            Bands (C, h, w) of type ``dtype``, side by side in memory, and valid pixels (h, w).

        Raises:
            DataError: The file is damaged.
        """
        window = window or self.grid.window
        if self.grid is self._stored:
            return self._read_stored(window)
        with readable(self.path, self.key):
            return read_resampled(self._read_stored, self._stored, self.grid, window, self._method)

    def _read_stored(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """A window of the image as it is stored."""
        with readable(self.path, self.key):
            # Bands side by side: a tile is then cut out of a third of the cache lines, and in the
            # layout that the networks are fast in.
            shape = int(window.height), int(window.width)
            pixels = np.empty((*shape, len(self._sources)), self._dtype).transpose(2, 0, 1)
            self._raster.read(self._sources, window=window, out=pixels)
            valid = np.ones(shape, dtype=bool)
            if self._alpha:
                valid &= self._raster.read(self._alpha, window=window) != 0
            if self._has_mask:
                valid &= self._raster.read_masks(self._sources[0], window=window) != 0
        for values in self._sentinels:
            valid &= ~_gaps(pixels, values)
        if self._palette is not None:
            colours = self._palette[np.clip(pixels[0], 0, len(self._palette) - 1)]
            valid &= colours[..., 3] != 0
            chosen = [band - 1 for band in self._bands]
            pixels = np.ascontiguousarray(colours[..., chosen]).transpose(2, 0, 1)
        if np.issubdtype(pixels.dtype, np.floating):
            valid &= np.isfinite(pixels).all(axis=0)
        return pixels, valid


def _is_reached(value: float, dtype: np.dtype[Any]) -> bool:
    """Whether imagery of a type may well hold a value that is also its nodata."""
    return np.issubdtype(dtype, np.integer) and value in (0, np.iinfo(dtype).max)


def _gaps(pixels: NDArray[Any], nodata: Sequence[float | None]) -> NDArray[np.bool_]:
    """Pixels (h, w) whose bands (C, h, w) hold nodata."""
    holds = np.zeros(pixels.shape, dtype=bool)
    reached = True
    for band, (value, values) in enumerate(zip(nodata, pixels, strict=True)):
        if value is not None:
            np.equal(values, value, out=holds[band])
            reached &= _is_reached(value, pixels.dtype)
    gaps: NDArray[np.bool_] = np.all(holds, axis=0) if reached else np.any(holds, axis=0)
    return gaps


def palette_of(raster: Any) -> NDArray[np.uint8] | None:  # noqa: ANN401
    """The colours (n, 4) of a paletted image."""
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
    """The description of each band, or its colour, or its number."""
    plain = (ColorInterp.undefined, ColorInterp.gray, ColorInterp.palette)
    return [
        description or (str(number) if meaning in plain else meaning.name)
        for number, (description, meaning) in enumerate(
            zip(raster.descriptions, raster.colorinterp, strict=True), 1
        )
    ]
