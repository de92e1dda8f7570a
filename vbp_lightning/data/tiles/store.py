"""The pixels of a data set, in memory where they fit, else read as they are needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vbp_lightning.data.datasets.scene import Scene
from vbp_lightning.data.imagery.normalisation import (
    BandStatistics,
    combined,
    nodata_values,
    sample_bands,
    sampling_steps,
)
from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.data.imagery.reading import (
    OpenScene,
    Pixels,
    SceneInfo,
    for_each_scene,
)
from vbp_lightning.data.imagery.windows import scan_windows
from vbp_lightning.data.tiles.grid import tile_counts
from vbp_lightning.data.tiles.labelling import CountedTiles
from vbp_lightning.data.tiles.planning import TilePlan
from vbp_lightning.data.tiles.splits import Region, Regions, training_pixels
from vbp_lightning.data.tiles.streaming import ImagePool, LabelPlanes, StreamedBands, StreamedPlane

_CHUNK_SHARE = 1 / 128
"""Part of the memory budget for one chunk of a scene: several copies of it are held in each of
several threads."""

_CACHE_SHARE = 1 / 8
"""Part of the memory budget for GDAL's caches of all processes together."""

_SCANNING_THREADS = 2


class Plane(Protocol):
    """A boolean for each pixel of a scene."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[np.bool_]: ...


class Bands(Protocol):
    """The bands of a scene, nodata filled."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Bands, height and width."""

    def __len__(self) -> int: ...

    def __getitem__(self, window: tuple[slice, slice, slice]) -> NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class ScannedScene:
    """A scene all of whose pixels have been seen once.

    Args:
        info: What it is.
        tiles: Its tiles with what they hold.
        largest_mask_value: What the road mask reaches.
        road_pixels: Valid road pixels.
        valid_pixels: Valid pixels.
        held: Its pixels, or the labels alone where the images stay on disk.
    """

    info: SceneInfo
    tiles: CountedTiles
    largest_mask_value: float
    road_pixels: int
    valid_pixels: int
    held: Pixels | LabelPlanes


@dataclass(frozen=True, eq=False)
class SceneStore:
    """The pixels of all scenes, indexed by windows; nodata holds the training mean.

    Args:
        bands: (C, H, W) of each scene.
        road: (H, W) valid road pixels of each scene.
        valid: (H, W) valid pixels of each scene.
        is_streamed: Whether bands are read from disk with each window.
    """

    bands: Sequence[Bands]
    road: Sequence[Plane]
    valid: Sequence[Plane]
    fill: NDArray[Any]
    is_streamed: bool

    def shared(self) -> "SceneStore":
        """The same in memory that spawned processes can map instead of copying it."""
        if self.is_streamed:
            return self
        return SceneStore(
            [SharedArray(np.asarray(bands)) for bands in self.bands],
            [SharedArray(np.asarray(plane)) for plane in self.road],
            [SharedArray(np.asarray(plane)) for plane in self.valid],
            self.fill,
            is_streamed=False,
        )


class SharedArray:
    """An array in shared memory: a spawned worker gets a handle of it, not a copy.

    Args:
        array: What to share.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        # PyTorch cannot hold every unsigned type, bytes are the same for all.
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._bytes: torch.Tensor = torch.from_numpy(flat).clone()
        self._bytes.share_memory_()  # type: ignore[no-untyped-call]
        self._dtype = array.dtype
        self.shape: tuple[int, ...] = array.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, window: Any) -> NDArray[Any]:  # noqa: ANN401
        array: NDArray[Any] = self._bytes.numpy().view(self._dtype).reshape(self.shape)
        result: NDArray[Any] = array[window]
        return result


def scan_scenes(
    infos: Sequence[SceneInfo],
    plans: Sequence[TilePlan],
    regions: Regions,
    reading: Reading,
    tile_size: int,
    memory: int,
    threads: int,
    progress: bool,
) -> tuple[list[ScannedScene], BandStatistics | None, list[str]]:
    """Reads every scene once: counts, statistics, and the pixels themselves where they fit.

    Args:
        infos: The scenes, of one type and number of bands.
        plans: The tiles of each.
        regions: The splits of each.
        reading: How scenes are read.
        tile_size: Tile size in pixels.
        memory: Bytes that this process may take; decoded scenes of up to half of it are kept.
        threads: Scenes read at once.
        progress: Whether to show a bar.

    Returns:
        The scenes that could be read, in order; the statistics of their valid training pixels, None
        if none could be read or they differ in type; and one line for each error of the others.
    """
    if not infos:
        return [], None, []
    alike = len({(info.count, info.dtype) for info in infos}) == 1
    fits = in_memory(infos, memory)
    chunk = None if fits else int(memory * _CHUNK_SHARE)
    parts = [part for info in infos for part in regions[info.scene.name] if part.split == "train"]
    steps = sampling_steps(sum(part.height * part.width for part in parts))
    by_name = {info.scene.name: (info, plan) for info, plan in zip(infos, plans, strict=True)}

    def scan(scene: Scene) -> tuple[ScannedScene, BandStatistics]:
        return _scan(*by_name[scene.name], regions[scene.name], reading, tile_size, chunk, steps)

    results, lines = for_each_scene(
        scan,
        [info.scene for info in infos],
        "Reading scenes",
        threads if fits else min(threads, _SCANNING_THREADS),
        progress,
    )
    statistics = combined([own for _, own in results]) if alike and results else None
    return [scanned for scanned, _ in results], statistics, lines


def in_memory(infos: Sequence[SceneInfo], memory: int) -> bool:
    """Whether decoded scenes are kept: they must fit into half of ``memory`` bytes."""
    return 2 * sum(info.nbytes for info in infos) <= memory


def _scan(
    info: SceneInfo,
    plan: TilePlan,
    regions: Sequence[Region],
    reading: Reading,
    tile_size: int,
    chunk: int | None,
    steps: tuple[int, int],
) -> tuple[ScannedScene, BandStatistics]:
    """Reads a scene in chunks of so many bytes, or whole if its pixels are kept.

    The statistics are those of the valid training pixels, sampled in ``steps``.
    """
    height, width = info.grid.shape
    planes = LabelPlanes(height, width)
    road = np.zeros(len(plan.corners), np.int64)
    valid = np.zeros(len(plan.corners), np.int64)
    road_pixels = valid_pixels = 0
    samples = []
    with OpenScene(info.scene, reading) as opened:
        pixels_at_a_time = (
            height * width if chunk is None else chunk * height * width // info.nbytes
        )
        for window in scan_windows((height, width), opened.is_striped, pixels_at_a_time):
            pixels = opened.read(window)
            top, left = window.row_off, window.col_off
            bottom, right = top + window.height, left + window.width
            if chunk is not None:
                planes.store(top, left, pixels.road, pixels.valid)
            rows, cols = plan.corners.T
            here = (rows < bottom) & (rows + tile_size > top)
            here &= (cols < right) & (cols + tile_size > left)
            corners = plan.corners[here] - np.array([top, left])
            road[here] += tile_counts(pixels.road, corners, tile_size)
            valid[here] += tile_counts(pixels.valid, corners, tile_size)
            road_pixels += int(np.count_nonzero(pixels.road))
            valid_pixels += int(np.count_nonzero(pixels.valid))
            training = training_pixels(regions, slice(top, bottom), width)[:, left:right]
            samples.append(sample_bands(pixels.bands, pixels.valid & training, (top, left), steps))
        opened.check()
        largest = opened.largest_mask_value
    scanned = ScannedScene(
        info,
        CountedTiles(plan.corners, plan.splits, road, valid),
        largest,
        road_pixels,
        valid_pixels,
        pixels if chunk is None else planes,
    )
    return scanned, combined(samples)


def build_store(
    scanned: Sequence[ScannedScene],
    reading: Reading,
    mean: Sequence[float],
    memory: int,
    workers: int,
) -> SceneStore:
    """Returns the store of scanned scenes; those in memory are filled in place.

    Args:
        scanned: All scenes.
        reading: How they were read.
        mean: The value of nodata pixels in each band.
        memory: Bytes that a process may take.
        workers: Processes beside the main one that will read.
    """
    dtype = scanned[0].info.dtype
    fill = nodata_values(mean, dtype)
    pool = ImagePool(reading, int(memory * _CACHE_SHARE) // (workers + 1))
    bands: list[Bands] = []
    road: list[Plane] = []
    valid: list[Plane] = []
    is_streamed = False
    for item in scanned:
        if isinstance(item.held, LabelPlanes):
            is_streamed = True
            bands.append(StreamedBands(item.info, item.held, pool, fill))
            road.append(StreamedPlane(item.held, road=True))
            valid.append(StreamedPlane(item.held, road=False))
            continue
        nodata = ~item.held.valid
        if nodata.any():
            for band, value in zip(item.held.bands, fill, strict=True):
                band[nodata] = value
        bands.append(item.held.bands)
        road.append(item.held.road)
        valid.append(item.held.valid)
    return SceneStore(bands, road, valid, fill, is_streamed)
