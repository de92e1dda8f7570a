"""Reading scenes: each raster is opened, read whole and closed before anything else happens.

No handle outlives a call. A handle that a DataLoader's worker inherits by fork shares its file
offset with its siblings, and silently wrong pixels come out.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rich.console import Console
from rich.progress import track
from scipy import ndimage

from vbp_lightning.data.grid import coordinates
from vbp_lightning.data.scenes import DataError, Scene

_BLOCK_CACHE = 64 << 20
"""Bytes. Every block is read once; GDAL's default is 5 % of the machine's memory."""

_NEAR_WHITE = 240
"""Lossy compression frays the border of a saturated area down to about this value."""

_MANY_SCENES = 64
"""From here on reading takes long enough to show its progress."""


@dataclass(frozen=True, eq=False)
class LoadedScene:
    """A scene in memory.

    Args:
        scene: Its record.
        bands: (C, H, W) in the raster's own type, real numbers.
        road: (H, W) whether a pixel is road; false where it is not valid.
        valid: (H, W) whether a pixel shows anything.
        transform: From (column, row) to the coordinates of ``crs``.
        crs: Of the raster, or None.
        largest_mask_value: What the road mask reaches; tells a wrong threshold from no roads.
    """

    scene: Scene
    bands: NDArray[Any]
    road: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    transform: Affine
    crs: CRS | None
    largest_mask_value: float


@dataclass(frozen=True, eq=False)
class _Raster:
    bands: NDArray[Any]
    valid: NDArray[np.bool_]
    transform: Affine
    crs: CRS | None
    nodata: float | None


def missing_white(bands: NDArray[Any], white_area: int) -> NDArray[np.bool_]:
    """Areas of an 8-bit scene that are white because nothing was recorded there.

    Such an area is a connected (by edges) set of nearly white pixels, at least ``white_area`` of
    them saturated in every band. Small saturated roofs and cars stay valid.

    Args:
        bands: (C, H, W) uint8.
        white_area: Least number of saturated pixels; 0 finds nothing.

    Returns:
        (H, W).
    """
    lowest = bands.min(axis=0)
    if white_area == 0 or np.count_nonzero(lowest == 255) < white_area:
        return np.zeros(lowest.shape, dtype=bool)
    areas, _ = ndimage.label(lowest >= _NEAR_WHITE)
    saturated = np.bincount(areas[lowest == 255], minlength=areas.max() + 1)
    missing: NDArray[np.bool_] = (saturated >= white_area)[areas]
    return missing


def read_scene(scene: Scene, bands: Sequence[int] | None, mask_threshold: float) -> LoadedScene:
    """Reads a scene and its road mask.

    A pixel is valid where no chosen band says nodata, transparent (unless the alpha band is
    itself chosen) or NaN, where it is not part of
    a white gap (see ``Scene.white_area``), and where the mask does not say nodata. A nodata value
    of 0 in a mask is taken for *no road*, since that is what it means in practice.

    Args:
        scene: What to read.
        bands: Bands to take, counted from 1; None takes all but an alpha band.
        mask_threshold: Mask values above it are road.

    Returns:
        The scene in memory; the files are closed.

    Raises:
        DataError: Either file cannot be used, or they do not belong together.
    """
    lines: list[str] = []
    image = _read(scene.image, "image", scene, bands, lines)
    mask = _read(scene.mask, "mask", scene, [1], lines)
    if image is None or mask is None:
        raise DataError(*lines)
    lines += _mismatches(scene, image, mask)
    values = mask.bands[0]
    if not _is_mask(values, mask_threshold):
        lines.append(
            f"{scene.mask}: is not a road mask: many of its values are far from both "
            f"0 and {2 * mask_threshold + 1:g} (data.mask_threshold={mask_threshold:g}): give a "
            "mask that is 0 off the road and one value on it"
        )
    if scene.white_area and image.bands.dtype != np.uint8:
        lines.append(
            f"{scene.image}: white gaps are looked for in 8-bit images only, and this one is "
            f"{image.bands.dtype}: set data.source.white_area=0"
        )
    if lines:
        raise DataError(*lines)
    valid = image.valid & ~missing_white(image.bands, scene.white_area)
    if mask.nodata != 0:
        valid &= mask.valid
    return LoadedScene(
        scene=scene,
        bands=image.bands,
        road=(values > mask_threshold) & valid,
        valid=valid,
        transform=image.transform,
        crs=image.crs,
        largest_mask_value=float(values.max()),
    )


def read_scenes(
    scenes: Sequence[Scene],
    bands: Sequence[int] | None,
    mask_threshold: float,
    threads: int,
    progress: bool,
) -> tuple[list[LoadedScene], list[str]]:
    """Reads many scenes, decoding several at a time.

    Args:
        scenes: What to read.
        bands: Bands to take, counted from 1; None takes all but an alpha band.
        mask_threshold: Mask values above it are road.
        threads: How many to read at once; GDAL lets go of the interpreter while it decodes.
        progress: Whether to show a bar where many scenes are read on a terminal.

    Returns:
        The scenes that could be read, in order, and one line for each fault of the others.
    """

    def attempt(scene: Scene) -> LoadedScene | DataError:
        # GDAL's options belong to a thread, hence one Env a call. Warnings of libjpeg tell of
        # blocks that were padded with grey.
        with rasterio.Env(GDAL_CACHEMAX=_BLOCK_CACHE, GDAL_ERROR_ON_LIBJPEG_WARNING=True):
            try:
                return read_scene(scene, bands, mask_threshold)
            except DataError as error:
                return error

    loaded: list[LoadedScene] = []
    lines: list[str] = []
    console = Console(stderr=True)
    # Filters are process-wide: set once, around the threads.
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        results = track(
            pool.map(attempt, scenes),
            description="Reading scenes",
            total=len(scenes),
            console=console,
            transient=True,
            disable=not progress or len(scenes) < _MANY_SCENES or not console.is_terminal,
        )
        for result in results:
            if isinstance(result, DataError):
                lines.extend(result.lines)
            else:
                loaded.append(result)
    return loaded, lines


def _read(
    path: Path, role: str, scene: Scene, bands: Sequence[int] | None, lines: list[str]
) -> _Raster | None:
    """Reads one raster whole, or says in ``lines`` why it cannot be used."""
    if not path.is_file():
        if role == "mask":
            lines.append(
                f"{scene.image}: has no road mask: put one at {path} or take the image away "
                "(data.root)"
            )
        else:
            lines.append(
                f"{scene.mask}: is a mask without an image: put one at {path} or take the mask "
                "away (data.root)"
            )
        return None
    try:
        with rasterio.open(path) as raster:
            meanings = zip(raster.indexes, raster.colorinterp, strict=True)
            alpha = {index for index, meaning in meanings if meaning == ColorInterp.alpha}
            if role == "mask":
                if raster.count != 1:
                    lines.append(
                        f"{path}: a road mask has one band, and this file has {raster.count} "
                        "(data.root): give a mask of one band"
                    )
                    return None
            elif bands is None:
                bands = [index for index in raster.indexes if index not in alpha]
            unknown = [index for index in bands or [] if index not in raster.indexes]
            if unknown:
                lines.append(
                    f"{path}: has no band {', '.join(map(str, unknown))}: data.bands may name "
                    f"1 to {raster.count}"
                )
                return None
            if any(raster.dtypes[index - 1].startswith("complex") for index in bands or []):
                lines.append(
                    f"{path}: holds complex numbers: choose real bands with data.bands, or "
                    "convert the file (data.root)"
                )
                return None
            pixels = raster.read(list(bands or []))
            # GDAL tags the fourth of four 8-bit bands as alpha, also where it is infrared: who
            # names it takes it for a band.
            if alpha.isdisjoint(bands or []):
                valid = raster.read_masks(list(bands or [])).all(axis=0)
            else:
                valid = np.ones(raster.shape, dtype=bool)
            transform, crs, nodata = raster.transform, raster.crs, raster.nodata
    except (RasterioError, OSError, ValueError) as error:
        why = " ".join(str(error.__cause__ or error).split())
        lines.append(
            f"{path}: cannot be read ({why}): the file is damaged or not a raster; replace it "
            "(data.root)"
        )
        return None
    if np.issubdtype(pixels.dtype, np.floating):
        valid &= np.isfinite(pixels).all(axis=0)
    return _Raster(pixels, valid, transform, crs, nodata)


def _mismatches(scene: Scene, image: _Raster, mask: _Raster) -> list[str]:
    """Lines that say how image and mask do not lie on each other."""
    height, width = image.valid.shape
    if mask.valid.shape != image.valid.shape:
        return [
            f"{scene.mask}: is {mask.valid.shape[1]} × {mask.valid.shape[0]} px, its image "
            f"{scene.image} {width} × {height} px (data.root): make them of one size"
        ]
    if image.crs is not None and mask.crs is not None and image.crs != mask.crs:
        return [
            f"{scene.mask}: is in {_crs_name(mask.crs)}, its image {scene.image} in "
            f"{_crs_name(image.crs)} (data.root): bring them into one"
        ]
    if image.transform.is_identity or mask.transform.is_identity:
        return []
    shift = 0.0
    for corner in ((0, 0), (width, 0), (0, height), (width, height)):
        col, row = coordinates(~image.transform, *coordinates(mask.transform, *corner))
        shift = max(shift, abs(col - corner[0]), abs(row - corner[1]))
    if shift > 0.1:
        return [
            f"{scene.mask}: lies on another grid than its image {scene.image}, off by up to "
            f"{shift:.1f} px (data.root): resample it to the image's grid"
        ]
    return []


def _crs_name(crs: CRS) -> str:
    """A short name: the authority's where there is one."""
    authority = crs.to_authority()
    return ":".join(authority) if authority else "a CRS of its own"


def _is_mask(values: NDArray[Any], threshold: float) -> bool:
    """Whether nearly all values are far from the threshold, as those of a mask are.

    A tenth may lie in the middle half of [0, 2·threshold]: soft borders and lossy compression.
    """
    middle = (values > 0.5 * threshold) & (values < 1.5 * threshold)
    return bool(np.count_nonzero(middle) <= 0.1 * values.size)
