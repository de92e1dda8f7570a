"""The LightningDataModule: from a dataset's layout to batches of labelled tiles."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, is_dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal, Protocol, get_type_hints

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.accelerators import CUDAAccelerator
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from vbp_lightning.data.datasets.scene import SPLITS, DataError, Scene, Split
from vbp_lightning.data.imagery.normalisation import Normalisation
from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.data.imagery.reading import SceneInfo, for_each_scene, scene_info
from vbp_lightning.data.imagery.windows import overlap
from vbp_lightning.data.kinds import kind_faults, record_faults
from vbp_lightning.data.plain import plain, target_of
from vbp_lightning.data.settings import setting_faults
from vbp_lightning.data.tiles.augmentation import Augmentation
from vbp_lightning.data.tiles.dataset import Batch, TileDataset, TrainingTiles, crops
from vbp_lightning.data.tiles.labelling import TileTable, label_tiles
from vbp_lightning.data.tiles.planning import plan_tiles, without_shared_ground
from vbp_lightning.data.tiles.sampling import BalancedBatches, OrderedBatches
from vbp_lightning.data.tiles.scan import (
    Scan,
    different_types,
    repeated_names,
    shared_ground,
    split_errors,
    too_small,
)
from vbp_lightning.data.tiles.splits import (
    Region,
    block_regions,
    read_regions,
    scene_regions,
    write_regions,
)
from vbp_lightning.data.tiles.store import SceneStore, build_store, scan_scenes
from vbp_lightning.data.tiles.table import write_tiles
from vbp_lightning.data.tiles.tile import Label, LabelledTile, Tile

_AUGMENTATION = Augmentation()

_CELL = 2048
"""Pixels, side of a neighbourhood that streamed tiles are read together from."""

_log = logging.getLogger(__name__)


class SceneSource(Protocol):
    """A dataset's layout, as a dataclass of plain values: calling it finds the scenes."""

    __dataclass_fields__: Any

    def __call__(self) -> list[Scene]:
        """The scenes of the data set; may write them first, where they are made up."""


def _as_it_is(batch: Batch) -> Batch:
    """The collate function of datasets that make whole batches; a lambda could not be spawned."""
    return batch


class RoadTileDataModule(pl.LightningDataModule):
    """Tiles of scenes with their labels, normalisation and splits.

    ``setup`` reads every scene once, before any worker process exists, and holds it in memory in
    its own type. All faults of the data set are found before any is reported.

    Training draws as many road as non-road tiles, each class in shuffled passes; validation and
    evaluation take every tile once, as unbalanced as they are. What an epoch draws and how it
    augments follows from (seed, epoch, index) alone: neither the number of workers nor a resume
    changes it. With several processes each training batch is divided among them in order, and
    each validates a consecutive part of the tiles: the trainer must leave the samplers alone,
    ``Trainer(use_distributed_sampler=False)``.

    Args:
        source: The dataset's layout; or, with ``root``, what makes it: ``source(root=root)``.
        root: Folder of the data set, where ``source`` does not know it yet.
        bands: Bands to read, each by its number counted from 1, its description or its colour
            interpretation; None reads all but an alpha band.
        nodata: Image pixels of this value show nothing, beside what the files say themselves.
        resolution: Ground size of a pixel in metres that all images are resampled to; None leaves
            each its own.
        stretch: Two percentiles of each band's training pixels that the network takes for -1 and
            1, clipping what lies beyond; None scales by mean and standard deviation.
        tile_size: Tile size in pixels.
        context: Margin in pixels that each tile is read with on every side, for networks whose
            features are to come from real pixels up to the tile's border. Beyond the scene it
            holds what gaps hold. Labels, shares and bounds are those of the tile alone.
        stride: Distance in pixels between validation and test tiles; None for ``tile_size``.
        train_stride: Distance in pixels between training tiles; None for half a tile.
        cover_edges: Whether last tiles, shifted inwards, take the pixels that the stride leaves.
        road_share: Least road share of a road tile, in (0, 1]; below it and above 0 a tile is
            ignored.
        max_invalid: Largest share of invalid pixels in [0, 1]; tiles above it are dropped.
        mask_threshold: Values of a road mask above it are road.
        val_fraction: Part of the scenes without a split of their own that validates, in [0, 1).
        test_fraction: Part of the scenes without a split of their own that tests, in [0, 1).
        split_by: ``scene`` draws whole scenes, ``block`` the blocks of a grid within scenes.
        block_size: Side of a block.
        block_unit: Unit of ``block_size``: ``m`` or ``px``.
        block_margin: Pixels that lie at least between a training tile and each held-out pixel of
            its scene, where scenes are divided; None for the jitter of the augmentation and twice
            the context, so that no pixel is read for training and for a held-out tile.
        split_file: A ``splits.csv`` that a run has written, or a CSV of one's own with the columns
            ``scene`` and ``split``: read instead of drawing anything.
        split_seed: Of the draw of splits; apart from ``seed``, so that runs of different seeds
            are judged on the same scenes.
        tiles_per_epoch: Training tiles drawn in an epoch, over all processes, rounded down to
            whole batches (one at least); None for as many as there are labelled training tiles.
        batch_size: Tiles of a batch over all processes; must divide among them evenly.
        memory: GiB that the main process may take. Decoded scenes of up to half of it are kept in
            memory; larger data sets are read from disk tile by tile, an epoch's tiles ordered by
            place.
        num_workers: Worker processes of each loader; 0 cuts the tiles in the main process.
        augment: What is changed in training tiles; None or False for nothing.
        seed: Of drawing and augmentation.

    Raises:
        DataError: Settings make no sense; one line each.
    """

    def __init__(
        self,
        source: SceneSource | Callable[..., SceneSource],
        root: str | Path | None = None,
        bands: Sequence[int | str] | int | str | None = None,
        nodata: float | None = None,
        resolution: float | None = None,
        stretch: Sequence[float] | None = None,
        tile_size: int = 96,
        context: int = 0,
        stride: int | None = None,
        train_stride: int | None = None,
        cover_edges: bool = False,
        road_share: float = 0.05,
        max_invalid: float = 0.25,
        mask_threshold: float = 127,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_by: Literal["scene", "block"] = "scene",
        block_size: float = 500,
        block_unit: Literal["m", "px"] = "m",
        block_margin: int | None = None,
        split_file: str | Path | None = None,
        split_seed: int = 0,
        tiles_per_epoch: int | None = None,
        batch_size: int = 64,
        memory: float = 2.0,
        num_workers: int = 0,
        augment: Augmentation | Literal[False] | None = _AUGMENTATION,
        seed: int = 0,
    ) -> None:
        given = dict(locals())
        super().__init__()
        self.source = _with_root(source, root)
        if lines := _wrong_kinds(given, self.source):
            raise DataError(*lines)
        self.bands = [bands] if isinstance(bands, str | int) else bands and list(bands)
        self.nodata = nodata
        self.resolution = resolution
        self.stretch = None if stretch is None else list(stretch)
        self.tile_size = tile_size
        self.context = context
        self.stride = tile_size if stride is None else stride
        self.train_stride = max(1, tile_size // 2) if train_stride is None else train_stride
        self.cover_edges = cover_edges
        self.road_share = road_share
        self.max_invalid = max_invalid
        self.mask_threshold = mask_threshold
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_by = split_by
        self.block_size = block_size
        self.block_unit = block_unit
        self.block_margin = block_margin
        self.split_file = None if split_file is None else Path(split_file)
        self.split_seed = split_seed
        self.tiles_per_epoch = tiles_per_epoch
        self.batch_size = batch_size
        self.memory = memory
        self.num_workers = num_workers
        self.augment = augment or None
        self.seed = seed
        self.epoch = 0
        """The epoch to draw where no trainer is attached: set it in a training loop of your own."""
        self.normalisation = Normalisation([], [])
        """Measured on the valid pixels of the training split."""
        self._scan = Scan()
        self._numbers: dict[str, int] = {}
        self._spawned_store: SceneStore | None = None
        if lines := setting_faults(self._settings()):
            raise DataError(*lines)

    @property
    def mean(self) -> list[float]:
        """What the network takes for 0 in each band: what gaps are filled with."""
        return self.normalisation.mean

    @property
    def std(self) -> list[float]:
        """What the network takes for 1 in each band, measured from ``mean``."""
        return self.normalisation.std

    @property
    def counts(self) -> dict[Split, dict[str, int]]:
        """Number of tiles by split and label name, and of those dropped."""
        return self._scan.counts

    @property
    def scene_splits(self) -> dict[str, Any]:
        """The split of each scene by name, as plain builtins.

        A scene that is divided has a list of (row, col, height, width, split) instead.
        """
        return {
            name: parts[0].split
            if len(parts) == 1 and self.split_by == "scene" and self.split_file is None
            else [list(astuple(part)) for part in parts]
            for name, parts in self._scan.regions.items()
        }

    @property
    def in_channels(self) -> int:
        """Number of bands."""
        return len(self.mean)

    @property
    def data_config(self) -> dict[str, Any]:
        """The arguments as plain builtins, with ``_target_``s that Hydra can build them from."""
        config: dict[str, Any] = {"_target_": target_of(type(self))}
        config |= {name: plain(value) for name, value in self._settings().items()}
        source = plain(self.source)
        assert isinstance(source, dict)
        if "root" in source:
            config["root"] = source.pop("root")
            source["_partial_"] = True
        return config | {"source": source}

    def _settings(self) -> dict[str, Any]:
        """The arguments other than ``source`` and ``root`` by name."""
        return {name: getattr(self, name) for name in _setting_names()}

    def prepare_data(self) -> None:
        """Lets the source write what it makes up, in one process only."""
        self.source()

    def setup(self, stage: str | None = None) -> None:
        """Reads the scenes, cuts and labels the tiles and measures the normalisation, once.

        Args:
            stage: Unused; every split is set up.

        Raises:
            DataError: The data set cannot be used; one line for each fault that was found.
        """
        if self._scan.store is None:
            scan = self.scan()
            if scan.errors:
                self._scan, self.normalisation = Scan(), Normalisation([], [])
                raise DataError(*scan.errors)
            for line in scan.warnings:
                _log.warning(line)

    def scan(self) -> Scan:
        """Reads everything and reports it: unlike ``setup``, also where training could not run.

        Returns:
            The survey; its ``errors`` say why training could not run.

        Raises:
            DataError: There is nothing to survey, or ``split_file`` cannot be used.
        """
        scan = self._scan = Scan()
        found = self.source()
        by_name: dict[str, Scene] = {}
        for scene in found:
            by_name.setdefault(scene.name, scene)
        scan.found = len(by_name)
        threads = min(8, os.cpu_count() or 1)
        progress = self.trainer is None or self.trainer.is_global_zero
        reading = self._reading()
        infos, unreadable = for_each_scene(
            partial(scene_info, reading=reading),
            list(by_name.values()),
            "Opening scenes",
            threads,
            progress,
            keep=lambda info: info,
        )
        lines = scan.errors = repeated_names(found)
        small = too_small(infos, self.tile_size)
        infos = [info for info in infos if min(info.grid.shape) >= self.tile_size]
        unlike = different_types(infos)
        try:
            regions = self._regions(infos)
            plans = plan_tiles(
                infos,
                regions,
                self.tile_size,
                self.train_stride,
                self.stride,
                self.cover_edges,
                self._margin,
            )
            planned = sum(len(plan.corners) for plan in plans)
            plans = without_shared_ground(infos, plans, regions, self.tile_size, self._margin)
            scan.shared = planned - sum(len(plan.corners) for plan in plans)
        except DataError as error:
            lines += [*unreadable, *unlike, *small, *error.lines]
            return scan
        memory = int(self.memory * (1 << 30))
        scanned, statistics, more = scan_scenes(
            infos, plans, regions, reading, self.tile_size, memory, threads, progress
        )
        lines += [*unreadable, *more, *unlike, *small]
        scan.scanned = scanned
        scan.infos = [item.info for item in scanned]
        scan.regions = {info.scene.name: regions[info.scene.name] for info in scan.infos}
        self._label(scan, by_name.values())
        if statistics is None or statistics.count == 0:
            return scan
        scan.statistics = statistics
        stretch = None if self.stretch is None else (self.stretch[0], self.stretch[1])
        self.normalisation = statistics.normalisation(stretch)
        lines += [
            f"{scanned[0].info.scene.image.parent}: band {name} is the same everywhere in the "
            "training scenes: choose others with data.bands"
            for name, spread in zip(
                self.bands or range(1, len(self.std) + 1), self.std, strict=True
            )
            if spread == 0
        ]
        scan.warnings = shared_ground(scan.infos, scan.regions, scan.shared)
        self._numbers = {info.scene.name: number for number, info in enumerate(scan.infos)}
        scan.store = build_store(scanned, reading, self.mean, memory, self.num_workers)
        return scan

    def _reading(self) -> Reading:
        bands = None if self.bands is None else tuple(self.bands)
        return Reading(bands, self.nodata, self.resolution, self.mask_threshold)

    def _regions(self, infos: Sequence[SceneInfo]) -> dict[str, list[Region]]:
        """The splits of scenes as the settings say."""
        fractions = (self.val_fraction, self.test_fraction, self.split_seed)
        if self.split_file is not None:
            return read_regions(self.split_file, infos)
        if self.split_by == "block":
            return block_regions(infos, self.block_size, self.block_unit, *fractions)
        return scene_regions(infos, *fractions)

    @property
    def _margin(self) -> int:
        if self.block_margin is not None:
            return self.block_margin
        return (self.augment.jitter if self.augment else 0) + 2 * self.context

    def _label(self, scan: Scan, scenes: Iterable[Scene]) -> None:
        """Labels the tiles of all splits, and says which split cannot be used."""
        usable = {info.scene.name for info in scan.infos}
        # What an unusable scene lacks is no second fault of its split, whichever that was to be.
        lost = {scene.split for scene in scenes if scene.name not in usable}
        fractions = {"val": self.val_fraction, "test": self.test_fraction}
        for number, split in enumerate(SPLITS):
            scan.tiles[split], scan.counts[split] = label_tiles(
                scan.infos,
                [item.tiles for item in scan.scanned],
                split,
                number,
                self.tile_size,
                self.road_share,
                self.max_invalid,
            )
            if split not in lost and None not in lost:
                scan.errors += split_errors(
                    split,
                    [
                        item
                        for item in scan.scanned
                        if any(part.split == split for part in scan.regions[item.info.scene.name])
                    ],
                    scan.tiles[split],
                    scan.counts[split],
                    scan.shared if split == "train" else 0,
                    self.road_share,
                    self.mask_threshold,
                    fractions.get(split) == 0,
                )

    def tiles_of(self, split: Split) -> TileTable:
        """All tiles of a split but the dropped ones: ignored tiles are among them.

        Args:
            split: Which.

        Returns:
            By scene, row and column, as the source orders the scenes.
        """
        return self._scan.tiles[split]

    def read_tiles(self, tiles: Sequence[Tile | LabelledTile]) -> Tensor:
        """Raw tiles, as the network takes them; invalid pixels hold the band's training mean.

        Args:
            tiles: Any crops that lie inside their scenes.

        Returns:
            (N, C, size, size) float32 in the units of the scenes, size = tile_size + 2·context.
        """
        store = self._store
        positions = self._positions(tiles)
        return crops(store.bands, positions, self.tile_size, self.context, store.fill)

    def read_masks(self, tiles: Sequence[Tile | LabelledTile]) -> Tensor:
        """The road pixels of tiles and their context; false where a pixel is invalid.

        Args:
            tiles: Any crops that lie inside their scenes.

        Returns:
            (N, size, size) bool, the pixels that ``read_tiles`` gives.
        """
        size = self.tile_size + 2 * self.context
        masks = np.zeros((len(tiles), size, size), dtype=bool)
        for mask, (scene, row, col) in zip(masks, self._positions(tiles).tolist(), strict=True):
            plane = self._store.road[scene]
            place, own = overlap(row - self.context, col - self.context, size, size, plane.shape)
            mask[own] = plane[place]
        return torch.from_numpy(masks)

    def write_tiles(self, path: Path) -> None:
        """Writes the tiles of all splits as ``tiles.csv``.

        Args:
            path: The file to write or replace.

        Raises:
            OSError: The file cannot be written.
        """
        write_tiles(path, (tile for split in SPLITS for tile in self._scan.tiles[split]))

    def write_splits(self, path: Path) -> None:
        """Writes the split as ``splits.csv``, which ``split_file`` reads back.

        Args:
            path: The file to write or replace.

        Raises:
            OSError: The file cannot be written.
        """
        write_regions(path, self._scan.regions)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Balanced batches of augmented training tiles: this process's part of each.

        Raises:
            DataError: A batch cannot be divided evenly among the processes.
        """
        world_size = self.trainer.world_size if self.trainer else 1
        rank = self.trainer.global_rank if self.trainer else 0
        if self.batch_size % world_size:
            raise DataError(
                f"data.batch_size={self.batch_size}: cannot be divided evenly among {world_size} "
                f"processes: make it a multiple of {world_size}"
            )
        tiles = self._scan.tiles["train"]
        wanted = self.tiles_per_epoch or int(np.count_nonzero(tiles.labels != Label.IGNORED))
        store = self._workers_store
        dataset = TrainingTiles(
            scenes=store.bands,
            road=store.road,
            valid=store.valid,
            positions=tiles.positions,
            labels=tiles.labels,
            tile_size=self.tile_size,
            context=self.context,
            fill=store.fill,
            road_share=self.road_share,
            max_invalid=self.max_invalid,
            mean=self.mean,
            std=self.std,
            augment=self.augment,
            seed=self.seed,
        )
        batches = BalancedBatches(
            tiles.labels,
            max(1, wanted // self.batch_size),
            self.batch_size,
            self.seed,
            self._current_epoch,
            rank,
            world_size,
            _cells(tiles.positions) if store.is_streamed else None,
        )
        return self._loader(dataset, batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Labelled validation tiles in order; with several processes, this one's part of them."""
        return self._labelled_tiles("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Labelled test tiles in order; with several processes, this one's part of them."""
        return self._labelled_tiles("test")

    def predict_dataloader(
        self, splits: Sequence[Split] = ("val", "test")
    ) -> list[DataLoader[Batch]]:
        """All tiles of each split in the order of ``tiles_of``, in every process.

        Args:
            splits: One loader is made for each.

        Returns:
            Loaders of tiles and labels, -1 for ignored tiles.
        """
        return [self.evaluation_dataloader(split) for split in splits]

    def evaluation_dataloader(self, split: Split) -> DataLoader[Batch]:
        """All tiles of a split in the order of ``tiles_of``, in every process.

        Args:
            split: Which.

        Returns:
            A loader of tiles and labels, -1 for ignored tiles.
        """
        tiles = self._scan.tiles[split]
        dataset = self._ordered(tiles.positions, tiles.labels)
        return self._loader(dataset, OrderedBatches(len(dataset), self.batch_size))

    def _labelled_tiles(self, split: Split) -> DataLoader[Batch]:
        tiles = self._scan.tiles[split]
        labelled = tiles.labels != Label.IGNORED
        world_size = self.trainer.world_size if self.trainer else 1
        rank = self.trainer.global_rank if self.trainer else 0
        dataset = self._ordered(tiles.positions[labelled], tiles.labels[labelled])
        return self._loader(
            dataset, OrderedBatches(len(dataset), self.batch_size, rank, world_size)
        )

    def _current_epoch(self) -> int:
        if self.trainer is None:
            return self.epoch
        overfit: float = self.trainer.overfit_batches  # type: ignore[attr-defined]
        # Overfitting means the same tiles again and again.
        return 0 if overfit else self.trainer.current_epoch

    def _loader(
        self, dataset: TileDataset | TrainingTiles, batches: Sampler[NDArray[np.int64]]
    ) -> DataLoader[Batch]:
        return DataLoader(
            dataset,
            batch_sampler=batches,  # type: ignore[arg-type]  # arrays of keys, not lists
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # gets a whole batch
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer is not None
            and isinstance(self.trainer.accelerator, CUDAAccelerator),
        )

    def _ordered(self, positions: NDArray[np.int64], labels: NDArray[np.int64]) -> TileDataset:
        store = self._workers_store
        return TileDataset(store.bands, positions, labels, self.tile_size, self.context, store.fill)

    @property
    def _store(self) -> SceneStore:
        assert self._scan.store is not None, "call setup() first"
        return self._scan.store

    @property
    def _workers_store(self) -> SceneStore:
        """The store as workers get it: forked ones inherit it, others must be given handles."""
        if self.num_workers == 0 or torch.multiprocessing.get_start_method() == "fork":
            return self._store
        if self._spawned_store is None:
            self._spawned_store = self._store.shared()
        return self._spawned_store

    def _positions(self, tiles: Sequence[Tile | LabelledTile]) -> NDArray[np.int64]:
        """(N, 3) number of the scene, row and column."""
        plain = (item.tile if isinstance(item, LabelledTile) else item for item in tiles)
        rows = [(self._numbers[tile.scene], tile.row, tile.col) for tile in plain]
        return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _cells(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of the neighbourhoods that tiles (N, 3) lie in."""
    cells = np.stack([positions[:, 0], *(positions[:, 1:] // _CELL).T], axis=1)
    numbers: NDArray[np.int64] = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    return numbers


def _wrong_kinds(given: Mapping[str, object], source: SceneSource) -> list[str]:
    """Arguments and fields of the source that are of another kind than they say."""
    hints = get_type_hints(RoadTileDataModule.__init__)
    lines: list[str] = record_faults("data.source", source) if is_dataclass(source) else []
    return lines + kind_faults("data", {name: given[name] for name in _setting_names()}, hints)


def _setting_names() -> list[str]:
    """The arguments of the data module but ``source`` and ``root``."""
    return list(signature(RoadTileDataModule).parameters)[2:]


def _with_root(
    source: SceneSource | Callable[..., SceneSource], root: str | Path | None
) -> SceneSource:
    """The source, made where it is still to be."""
    if not callable(source):
        raise DataError(
            f"data.source={source}: is no layout: choose one with data=, as data=folder"
        )
    if root is not None:
        made: SceneSource = source(root=root)  # type: ignore[call-arg,assignment]
        return made
    if isinstance(source, partial):
        raise DataError(
            "data.root: is not set: name the folder of the data set, as in data.root=DIR"
        )
    return source  # type: ignore[return-value]
