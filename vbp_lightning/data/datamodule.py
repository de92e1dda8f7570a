"""The LightningDataModule: from a dataset's layout to batches of labelled tiles."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pydantic_core import to_jsonable_python
from pytorch_lightning.accelerators import CUDAAccelerator
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from vbp_lightning.data.datasets.scene import SPLITS, DataError, Scene, Split
from vbp_lightning.data.imagery.normalisation import Normalisation
from vbp_lightning.data.imagery.reading import SceneInfo, for_each_scene, scene_info
from vbp_lightning.data.imagery.windows import overlap
from vbp_lightning.data.settings import DataSettings, made_layout
from vbp_lightning.data.tiles.dataset import Batch, TileDataset, TrainingTiles, crops
from vbp_lightning.data.tiles.planning import overlaps, plan_tiles
from vbp_lightning.data.tiles.sampling import BalancedBatches, OrderedBatches
from vbp_lightning.data.tiles.scan import (
    Scan,
    different_types,
    overlap_warnings,
    repeated_names,
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
from vbp_lightning.data.tiles.streaming import ROAD_PIXEL
from vbp_lightning.data.tiles.tile import Label, LabelledTile, Tile
from vbp_lightning.data.tiles.tile_table import TileTable, label_tiles
from vbp_lightning.data.tiles.tiles_csv import write_tiles
from vbp_lightning.records import made

_CELL = 2048
"""Pixels, side of a neighbourhood that streamed tiles are read together from."""

_log = logging.getLogger(__name__)


class SceneSource(Protocol):
    """A dataset's layout, a dataclass of plain values: calling it finds the scenes."""

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
        source: The dataset's layout: a callable that returns the scenes, such as
            :class:`~vbp_lightning.data.datasets.pattern_scenes.PatternScenes`; or its settings as
            a mapping with its class under ``_target_``.
        root: Folder of the data set, where ``source`` is a mapping.
        **settings: The fields of :class:`~vbp_lightning.data.settings.DataSettings`.

    Attributes:
        settings: The checked settings.

    Raises:
        DataError: Settings are wrong; one line for each error.
    """

    def __init__(
        self,
        source: SceneSource | Mapping[str, Any],
        root: str | Path | None = None,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        super().__init__()
        layout: SceneSource | None
        if isinstance(source, Mapping):
            layout, lines = made_layout(source, root)
        else:
            layout, lines = source, []
        checked, more = made(DataSettings, "data", settings)
        if not callable(layout) and not lines:
            lines = [f"data.source={source}: is no layout: choose one with data=, as data=folder"]
        if layout is None or checked is None or lines:
            raise DataError(*lines, *more)
        self.source: SceneSource = layout
        self.settings = checked
        self.tile_size = checked.tile_size
        self.context = checked.context
        self.epoch = 0
        """The epoch to draw where no trainer is attached: set it in a training loop of your own."""
        self.normalisation = Normalisation([], [])
        """Measured on the valid pixels of the training split."""
        self._scan = Scan()
        self._numbers: dict[str, int] = {}
        self._spawned_store: SceneStore | None = None

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
        whole = self.settings.split_by == "scene" and self.settings.split_file is None
        return {
            name: parts[0].split
            if len(parts) == 1 and whole
            else [list(astuple(part)) for part in parts]
            for name, parts in self._scan.regions.items()
        }

    @property
    def in_channels(self) -> int:
        """Number of bands."""
        return len(self.mean)

    @property
    def data_config(self) -> dict[str, Any]:
        """The arguments as plain builtins, which ``from_config`` takes."""
        source = to_jsonable_python(self.source)
        return {
            "_target_": "vbp_lightning.data.RoadTileDataModule",
            "_recursive_": False,
            "_convert_": "all",
            "root": source.pop("root", None),
            "source": {"_target_": f"vbp_lightning.data.{type(self.source).__name__}", **source},
            **to_jsonable_python(self.settings),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **changes: object) -> Self:
        """Builds a data module from ``data_config``, which may come from anyone's checkpoint.

        Args:
            config: Plain builtins; empty where a checkpoint holds none. Only classes of this
                package are made from it, and nothing is imported by name.
            **changes: Arguments to replace, such as ``root`` for imagery that was moved.

        Raises:
            DataError: The config is empty, names anything else than this package's layouts, or
                holds wrong settings.
        """
        if not config:
            raise DataError(
                "the checkpoint tells nothing of its data (ckpt): give an image or a folder (input)"
            )
        arguments = {key: value for key, value in config.items() if not key.startswith("_")}
        try:
            return cls(**(arguments | changes))
        except DataError as error:
            raise DataError(
                *(
                    f"the checkpoint's data settings do not fit this version (ckpt): {line}"
                    for line in error.lines
                )
            ) from error

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
        reading = self.settings.reading
        infos, unreadable = for_each_scene(
            partial(scene_info, reading=reading),
            list(by_name.values()),
            "Opening scenes",
            threads,
            progress,
        )
        lines = scan.errors = repeated_names(found)
        small = too_small(infos, self.tile_size)
        infos = [info for info in infos if min(info.grid.shape) >= self.tile_size]
        unlike = different_types(infos)
        pairs = overlaps(infos)
        try:
            regions = self._regions(infos, pairs)
        except DataError as error:
            lines += [*unreadable, *unlike, *small, *error.lines]
            return scan
        plans = plan_tiles(
            infos,
            regions,
            pairs,
            self.tile_size,
            *self.settings.strides,
            self.settings.cover_edges,
            self.settings.margin,
        )
        scan.shared = sum(plan.shared for plan in plans)
        memory = int(self.settings.memory * (1 << 30))
        scanned, statistics, more = scan_scenes(
            infos, plans, regions, reading, self.tile_size, memory, threads, progress
        )
        lines += [*unreadable, *more, *unlike, *small]
        scan.scanned = scanned
        scan.regions = {info.scene.name: regions[info.scene.name] for info in scan.infos}
        self._label(scan, by_name.values())
        if statistics is None or statistics.count == 0:
            return scan
        scan.statistics = statistics
        self.normalisation = statistics.normalisation(self.settings.stretch)
        lines += [
            f"{scanned[0].info.scene.image.parent}: band {name} is the same everywhere in the "
            "training scenes: choose others with data.bands"
            for name, spread in zip(
                reading.bands or range(1, len(self.std) + 1), self.std, strict=True
            )
            if spread == 0
        ]
        scan.warnings = overlap_warnings(infos, regions, pairs, scan.shared)
        self._numbers = {info.scene.name: number for number, info in enumerate(scan.infos)}
        scan.store = build_store(scanned, reading, self.mean, memory, self.settings.num_workers)
        return scan

    def _regions(
        self, infos: Sequence[SceneInfo], pairs: Sequence[tuple[int, int]]
    ) -> dict[str, list[Region]]:
        """The splits of scenes as the settings say."""
        settings = self.settings
        fractions = (*settings.fractions, settings.split_seed)
        if settings.split_file is not None:
            return read_regions(settings.split_file, infos)
        if settings.split_by == "block":
            return block_regions(infos, settings.block_size, settings.block_unit, *fractions)
        return scene_regions(infos, pairs, *fractions)

    def _label(self, scan: Scan, scenes: Iterable[Scene]) -> None:
        """Labels the tiles of all splits, and says which split cannot be used."""
        usable = {info.scene.name for info in scan.infos}
        # What an unusable scene lacks is no second fault of its split, whichever that was to be.
        lost = {scene.split for scene in scenes if scene.name not in usable}
        settings = self.settings
        fractions = dict(zip(SPLITS[1:], settings.fractions, strict=True))
        for split in SPLITS:
            scan.tiles[split] = label_tiles(
                scan.scanned, split, self.tile_size, settings.road_share, settings.max_invalid
            )
            if split not in lost and None not in lost:
                optional = fractions.get(split) == 0
                scan.errors += split_errors(
                    scan, split, settings.road_share, settings.mask_threshold, optional
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
        return crops(self._store, self._positions(tiles), self.tile_size, self.context)

    def read_road_masks(self, tiles: Sequence[Tile | LabelledTile]) -> Tensor:
        """The road pixels of tiles and their context; false where a pixel is invalid.

        Args:
            tiles: Any crops that lie inside their scenes.

        Returns:
            (N, size, size) bool, the pixels that ``read_tiles`` gives.
        """
        size = self.tile_size + 2 * self.context
        masks = np.zeros((len(tiles), size, size), dtype=bool)
        for mask, (scene, row, col) in zip(masks, self._positions(tiles).tolist(), strict=True):
            labels = self._store.labels[scene]
            place, own = overlap(row - self.context, col - self.context, size, size, labels.shape)
            mask[own] = labels[place] == ROAD_PIXEL
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
        batch_size = self.settings.batch_size
        if batch_size % world_size:
            raise DataError(
                f"data.batch_size={batch_size}: cannot be divided evenly among {world_size} "
                f"processes: make it a multiple of {world_size}"
            )
        tiles = self._scan.tiles["train"]
        labelled = int(np.count_nonzero(tiles.labels != Label.IGNORED))
        wanted = self.settings.tiles_per_epoch or labelled
        dataset = TrainingTiles(
            self._ordered(tiles.positions, tiles.labels),
            self.settings.road_share,
            self.settings.max_invalid,
            self.mean,
            self.std,
            self.settings.augment or None,
            self.settings.seed,
        )
        batches = BalancedBatches(
            tiles.labels,
            max(1, wanted // batch_size),
            batch_size,
            self.settings.seed,
            self._current_epoch,
            rank,
            world_size,
            _cells(tiles.positions) if self._store.is_streamed else None,
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
        return self._loader(dataset, OrderedBatches(len(dataset), self.settings.batch_size))

    def _labelled_tiles(self, split: Split) -> DataLoader[Batch]:
        tiles = self._scan.tiles[split]
        labelled = tiles.labels != Label.IGNORED
        world_size = self.trainer.world_size if self.trainer else 1
        rank = self.trainer.global_rank if self.trainer else 0
        dataset = self._ordered(tiles.positions[labelled], tiles.labels[labelled])
        return self._loader(
            dataset, OrderedBatches(len(dataset), self.settings.batch_size, rank, world_size)
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
            num_workers=self.settings.num_workers,
            persistent_workers=self.settings.num_workers > 0,
            pin_memory=self.trainer is not None
            and isinstance(self.trainer.accelerator, CUDAAccelerator),
        )

    def _ordered(self, positions: NDArray[np.int64], labels: NDArray[np.int64]) -> TileDataset:
        return TileDataset(self._workers_store, positions, labels, self.tile_size, self.context)

    @property
    def _store(self) -> SceneStore:
        assert self._scan.store is not None, "call setup() first"
        return self._scan.store

    @property
    def _workers_store(self) -> SceneStore:
        """The store as workers get it: forked ones inherit it, others must be given handles."""
        if self.settings.num_workers == 0 or torch.multiprocessing.get_start_method() == "fork":
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
