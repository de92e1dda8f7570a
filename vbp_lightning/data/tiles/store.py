"""The pixels of a data set: in memory if they fit, otherwise read from disk when needed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from vbp_lightning.data.datasets.scene import Scene
from vbp_lightning.data.imagery.constant_areas import ConstantArea, constant_areas, united
from vbp_lightning.data.imagery.normalisation import (
    BandStatistics,
    combined,
    nodata_values,
    sample_bands,
    sampling_steps,
)
from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.data.imagery.reading import OpenScene, SceneInfo, for_each_scene
from vbp_lightning.data.imagery.vector_files import VectorSummary
from vbp_lightning.data.imagery.windows import scan_windows
from vbp_lightning.data.tiles.grid import tile_counts
from vbp_lightning.data.tiles.planning import TilePlan
from vbp_lightning.data.tiles.signatures import Signatures
from vbp_lightning.data.tiles.splits import Region, Regions, training_pixels
from vbp_lightning.data.tiles.streaming import (
    INVALID_PIXEL,
    CompressedLabels,
    ImagePool,
    StreamedBands,
    pixel_labels,
)

_CHUNK_SHARE = 1 / 128
"""Fraction of the memory budget that a chunk of a scanned scene may take: each of several threads
holds several copies of its chunk."""

_CACHE_SHARE = 1 / 8
"""Fraction of the memory budget that GDAL's caches of all processes may take together."""

_SCANNING_THREADS = 2

_TILE_SAMPLES, _SCENE_SAMPLES = 8, 32
"""Rows and columns of a tile, and of a scene, by which equal ones are found."""


class SharedArray:
    """An array in shared memory: a spawned worker gets a handle of it, not a copy.

    Args:
        array: The array, which is copied.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self._tensor = torch.from_numpy(np.ascontiguousarray(array))
        self._tensor.share_memory_()  # type: ignore[no-untyped-call]
        self.shape: tuple[int, ...] = array.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, window: Any) -> NDArray[Any]:  # noqa: ANN401
        result: NDArray[Any] = self._tensor.numpy()[window]
        return result


Bands: TypeAlias = NDArray[Any] | SharedArray | StreamedBands
"""The bands (C, H, W) of a scene, indexed by slices; nodata pixels hold the training mean."""

Labels: TypeAlias = NDArray[np.uint8] | SharedArray | CompressedLabels
"""The pixel labels (H, W) of a scene, indexed by slices."""


@dataclass(frozen=True, eq=False)
class ScannedScene:
    """A scene whose pixels have all been read once.

    Args:
        info: Its record, grid and bands.
        plan: Its (N,) tiles.
        road: (N,) valid road pixels of each tile.
        valid: (N,) valid pixels of each tile.
        road_pixels: Valid road pixels of the scene.
        valid_pixels: Valid pixels of the scene.
        largest_mask_value: The largest value of the road mask.
        vectors: What was read from the vector file of its labels, if there is one.
        labels: Its pixel labels.
        bands: (C, H, W) its imagery; None if that stays on disk.
        signature: Of its pixels, see :class:`~vbp_lightning.data.tiles.signatures.Signatures`; 0
            for a scene of one constant value.
        signatures: (N,) the same of each tile.
        constant: Areas of one value that no tag declares as nodata.
    """

    info: SceneInfo
    plan: TilePlan
    road: NDArray[np.int64]
    valid: NDArray[np.int64]
    road_pixels: int
    valid_pixels: int
    largest_mask_value: float
    vectors: VectorSummary | None
    labels: NDArray[np.uint8] | CompressedLabels
    bands: NDArray[Any] | None
    signature: int
    signatures: NDArray[np.uint64]
    constant: tuple[ConstantArea, ...] = ()


@dataclass(frozen=True, eq=False)
class SceneStore:
    """The pixels of all scenes.

    Args:
        bands: (C, H, W) of each scene; nodata pixels hold ``fill``.
        labels: (H, W) pixel labels of each scene.
        fill: (C,) the training mean of each band in the type of the bands.
        is_streamed: Whether bands are read from disk with each window.
    """

    bands: Sequence[Bands]
    labels: Sequence[Labels]
    fill: NDArray[Any]
    is_streamed: bool

    @cached_property
    def shared(self) -> "SceneStore":
        """The same pixels in shared memory, which spawned processes map instead of copying."""
        if self.is_streamed:
            return self
        bands, labels = (
            [SharedArray(np.asarray(array)) for array in arrays]
            for arrays in (self.bands, self.labels)
        )
        return replace(self, bands=bands, labels=labels)


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
    """Reads every scene once: counts, statistics, and the pixels themselves if they fit.

    Args:
        infos: The scenes, of one type and number of bands.
        plans: The tiles of each.
        regions: The splits of each.
        reading: How scenes are read.
        tile_size: Tile size in pixels.
        memory: Bytes that this process may take; decoded scenes of up to half of it are kept.
        threads: Scenes read at once.
        progress: Whether to show a progress bar.

    Returns:
        The scenes that could be read, in order; the statistics of their valid training pixels, or
        None if no scene could be read or their types differ; and one line for each error of the
        other scenes.
    """
    if not infos:
        return [], None, []
    alike = len({(info.count, info.dtype) for info in infos}) == 1
    fits = 2 * sum(info.nbytes for info in infos) <= memory
    limit = None if fits else int(memory * _CHUNK_SHARE)
    parts = [part for info in infos for part in regions[info.scene.name] if part.split == "train"]
    steps = sampling_steps(sum(part.height * part.width for part in parts))
    by_name = {info.scene.name: (info, plan) for info, plan in zip(infos, plans, strict=True)}

    def scan(scene: Scene) -> tuple[ScannedScene, BandStatistics]:
        return _scan(*by_name[scene.name], regions[scene.name], reading, tile_size, limit, steps)

    results, lines = for_each_scene(
        scan,
        [info.scene for info in infos],
        "Reading scenes",
        threads if fits else min(threads, _SCANNING_THREADS),
        progress,
    )
    statistics = combined([own for _, own in results]) if alike and results else None
    return [scanned for scanned, _ in results], statistics, lines


def _scan(
    info: SceneInfo,
    plan: TilePlan,
    regions: Sequence[Region],
    reading: Reading,
    tile_size: int,
    limit: int | None,
    steps: tuple[int, int],
) -> tuple[ScannedScene, BandStatistics]:
    """Reads a scene: whole and kept, or in chunks of ``limit`` bytes of which labels are kept.

    The statistics are those of the valid training pixels, sampled in ``steps``.
    """
    height, width = info.grid.shape
    compressed = CompressedLabels(height, width)
    rows, cols = plan.corners.T
    road, valid = np.zeros((2, len(rows)), np.int64)
    road_pixels = valid_pixels = 0
    samples = []
    of_tiles = Signatures(plan.corners, (tile_size, tile_size), _TILE_SAMPLES)
    of_scene = Signatures(np.zeros((1, 2), np.int64), (height, width), _SCENE_SAMPLES)
    constant: list[ConstantArea] = []
    info.digest  # noqa: B018  # computed here, in a thread, just before the file is read anyway
    with OpenScene(info.scene, reading) as opened:
        chunk_pixels = height * width * (info.nbytes if limit is None else limit) // info.nbytes
        for chunk in scan_windows((height, width), opened.is_striped, chunk_pixels):
            pixels = opened.read(chunk)
            top, left = chunk.row_off, chunk.col_off
            labels = pixel_labels(pixels.road, pixels.valid)
            if limit is not None:
                compressed.store(top, left, labels)
            here = (rows > top - tile_size) & (rows < top + chunk.height)
            here &= (cols > left - tile_size) & (cols < left + chunk.width)
            corners = plan.corners[here] - [top, left]
            road[here] += tile_counts(pixels.road, corners, tile_size)
            valid[here] += tile_counts(pixels.valid, corners, tile_size)
            for signatures in (of_tiles, of_scene):
                signatures.add(pixels.bands, pixels.valid, top, left)
            road_pixels += int(np.count_nonzero(pixels.road))
            valid_pixels += int(np.count_nonzero(pixels.valid))
            training = pixels.valid & training_pixels(regions, chunk)
            samples.append(sample_bands(pixels.bands, training, (top, left), steps))
            where = (top, left), (height, width), tile_size
            constant += constant_areas(pixels.bands, pixels.imaged, *where)
        opened.check()
        largest, vectors = opened.largest_mask_value, opened.vectors
    scanned = ScannedScene(
        *(info, plan, road, valid, road_pixels, valid_pixels, largest, vectors),
        labels=labels if limit is None else compressed,
        bands=pixels.bands if limit is None else None,
        signature=int(of_scene.values[0]),
        signatures=of_tiles.values,
        constant=united(constant),
    )
    return scanned, combined(samples)


def build_store(
    scanned: Sequence[ScannedScene],
    reading: Reading,
    mean: Sequence[float],
    memory: int,
    workers: int,
) -> SceneStore:
    """The store of scanned scenes; nodata pixels of those in memory are filled in place.

    Args:
        scanned: All scenes.
        reading: How they were read.
        mean: The training mean of each band, which nodata pixels hold.
        memory: Bytes that a process may take.
        workers: Number of worker processes that will read.
    """
    fill = nodata_values(mean, scanned[0].info.dtype)
    pool = ImagePool(reading, int(memory * _CACHE_SHARE) // (workers + 1))

    def bands(item: ScannedScene) -> Bands:
        if isinstance(item.labels, CompressedLabels):
            return StreamedBands(item.info, item.labels, pool, fill)
        assert item.bands is not None
        nodata = item.labels == INVALID_PIXEL
        if nodata.any():
            for band, value in zip(item.bands, fill, strict=True):
                band[nodata] = value
        return item.bands

    labels = [item.labels for item in scanned]
    return SceneStore(list(map(bands, scanned)), labels, fill, scanned[0].bands is None)
