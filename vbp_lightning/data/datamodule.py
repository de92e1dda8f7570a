"""The LightningDataModule: from a dataset's layout to batches of labelled tiles."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from vbp_lightning.data.augmentation import Augmentation
from vbp_lightning.data.dataset import Batch, TileDataset, TrainingTiles, crops
from vbp_lightning.data.grid import exceeds, labels_of, tile_bounds, tile_counts, tile_grid
from vbp_lightning.data.normalisation import band_statistics
from vbp_lightning.data.reading import LoadedScene, read_scenes
from vbp_lightning.data.sampling import BalancedBatches
from vbp_lightning.data.scenes import (
    SPLITS,
    DataError,
    Label,
    LabelledTile,
    Scene,
    Split,
    Tile,
)
from vbp_lightning.data.splits import draw_splits, shared_ground
from vbp_lightning.data.table import write_tiles

_AUGMENTATION = Augmentation()

_log = logging.getLogger(__name__)


class SceneSource(Protocol):
    """A dataset's layout, as a dataclass of plain values: calling it finds the scenes."""

    __dataclass_fields__: Any

    def __call__(self) -> list[Scene]:
        """The scenes of the data set; may write them first, where they are made up."""


def _as_it_is(batch: Batch) -> Batch:
    """The collate function of datasets that make whole batches; a lambda could not be spawned."""
    return batch


class _OrderedBatches(Sampler[NDArray[np.int64]]):
    """Consecutive batches of about equal size, taken by every process or shared among them."""

    def __init__(self, length: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self._batches: list[NDArray[np.int64]] = []
        if length == 0:
            return
        shares = np.array_split(np.arange(length), world_size)
        # The same number of batches in every process: one that runs out would let the others
        # wait, since DDP exchanges the buffers in each forward pass.
        size = max(1, batch_size // world_size)
        self._batches = np.array_split(shares[rank], max(1, -(-len(shares[-1]) // size)))

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return iter(self._batches)


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
        bands: Bands to read, counted from 1; None reads all but an alpha band.
        tile_size: Tile size in pixels.
        stride: Distance in pixels between validation and test tiles; None for ``tile_size``.
        train_stride: Distance in pixels between training tiles; None for half a tile.
        cover_edges: Whether last tiles, shifted inwards, take the pixels that the stride leaves.
        road_share: Least road share of a road tile, in (0, 1]; below it and above 0 a tile is
            ignored.
        max_invalid: Largest share of invalid pixels in [0, 1]; tiles above it are dropped.
        mask_threshold: Values of a road mask above it are road.
        val_fraction: Part of the scenes without a split of their own that validates, in [0, 1).
        test_fraction: Part of the scenes without a split of their own that tests, in [0, 1).
        split_seed: Of the draw of splits; apart from ``seed``, so that runs of different seeds
            are judged on the same scenes.
        tiles_per_epoch: Training tiles drawn in an epoch, over all processes, rounded down to
            whole batches (one at least); None for as many as there are labelled training tiles.
        batch_size: Tiles of a batch over all processes; must divide among them evenly.
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
        bands: Sequence[int] | None = None,
        tile_size: int = 96,
        stride: int | None = None,
        train_stride: int | None = None,
        cover_edges: bool = False,
        road_share: float = 0.05,
        max_invalid: float = 0.25,
        mask_threshold: float = 127,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        tiles_per_epoch: int | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        augment: Augmentation | Literal[False] | None = _AUGMENTATION,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.source = _with_root(source, root)
        self.bands = None if bands is None else list(bands)
        self.tile_size = tile_size
        self.stride = tile_size if stride is None else stride
        self.train_stride = max(1, tile_size // 2) if train_stride is None else train_stride
        self.cover_edges = cover_edges
        self.road_share = road_share
        self.max_invalid = max_invalid
        self.mask_threshold = mask_threshold
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.tiles_per_epoch = tiles_per_epoch
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augment = augment or None
        self.seed = seed
        self.epoch = 0
        """The epoch to draw where no trainer is attached: set it in a training loop of your own."""
        self.mean: list[float] = []
        self.std: list[float] = []
        self.counts: dict[Split, dict[str, int]] = {}
        """Number of tiles by split and label name, and of those dropped."""
        self.scene_splits: dict[str, Split] = {}
        self._loaded: list[LoadedScene] = []
        self._numbers: dict[str, int] = {}
        self._tiles: dict[Split, list[LabelledTile]] = {}
        if lines := self._setting_faults():
            raise DataError(*lines)

    @property
    def in_channels(self) -> int:
        """Number of bands."""
        return len(self.mean)

    @property
    def data_config(self) -> dict[str, Any]:
        """The arguments as plain builtins, with ``_target_``s that Hydra can build them from."""
        source: dict[str, Any] = {"_target_": _path_of(type(self.source))}
        source |= {
            field.name: _plain(getattr(self.source, field.name))
            for field in fields(self.source)  # type: ignore[arg-type]  # the dataclass protocol is private
        }
        config: dict[str, Any] = {"_target_": _path_of(type(self))}
        if "root" in source:
            config["root"] = source.pop("root")
            source["_partial_"] = True
        augment: dict[str, Any] | None = None
        if self.augment is not None:
            augment = {"_target_": _path_of(type(self.augment)), **asdict(self.augment)}
        return config | {
            "source": source,
            "bands": self.bands,
            "tile_size": self.tile_size,
            "stride": self.stride,
            "train_stride": self.train_stride,
            "cover_edges": self.cover_edges,
            "road_share": self.road_share,
            "max_invalid": self.max_invalid,
            "mask_threshold": self.mask_threshold,
            "val_fraction": self.val_fraction,
            "test_fraction": self.test_fraction,
            "split_seed": self.split_seed,
            "tiles_per_epoch": self.tiles_per_epoch,
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "augment": augment,
            "seed": self.seed,
        }

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
        if self._loaded:
            return
        found = self.source()
        by_name: dict[str, Scene] = {}
        for scene in found:
            by_name.setdefault(scene.name, scene)
        scenes = list(by_name.values())
        splits = draw_splits(scenes, self.val_fraction, self.test_fraction, self.split_seed)
        loaded, unreadable = read_scenes(
            scenes,
            self.bands,
            self.mask_threshold,
            threads=min(8, os.cpu_count() or 1),
            progress=self.trainer is None or self.trainer.is_global_zero,
        )
        lines = _repeated_names(found) + unreadable + _different_types(loaded)
        small = [item for item in loaded if min(item.valid.shape) < self.tile_size]
        lines += [
            f"{item.scene.image}: is {item.valid.shape[1]} × {item.valid.shape[0]} px, smaller "
            f"than a tile of {self.tile_size} px: leave the scene out or lower data.tile_size"
            for item in small
        ]
        # What an unusable scene lacks is no second fault of its split.
        usable = {item.scene.name for item in loaded} - {item.scene.name for item in small}
        incomplete = {splits[scene.name] for scene in scenes if scene.name not in usable}
        tiles: dict[Split, list[LabelledTile]] = {}
        counts: dict[Split, dict[str, int]] = {}
        for split in SPLITS:
            members = [item for item in loaded if splits[item.scene.name] == split]
            tiles[split], counts[split] = self._label(members, split)
            if split not in incomplete:
                lines += self._split_faults(split, members, tiles[split], counts[split])
        if lines:
            raise DataError(*lines)
        training = [item for item in loaded if splits[item.scene.name] == "train"]
        mean, std = band_statistics((item.bands, item.valid) for item in training)
        names = self.bands or range(1, len(std) + 1)
        lines = [
            f"{training[0].scene.image.parent}: band {name} is the same everywhere in the "
            "training scenes: choose others with data.bands"
            for name, spread in zip(names, std, strict=True)
            if spread == 0
        ]
        if lines:
            raise DataError(*lines)
        _warn_of_shared_ground(loaded, splits)
        for item in loaded:
            _fill(item, mean)
        self.mean, self.std = mean, std
        self.scene_splits = splits
        self.counts = counts
        self._tiles = tiles
        self._numbers = {item.scene.name: number for number, item in enumerate(loaded)}
        self._loaded = loaded

    def tiles_of(self, split: Split) -> list[LabelledTile]:
        """All tiles of a split but the dropped ones: ignored tiles are among them.

        Args:
            split: Which.

        Returns:
            By scene, row and column, as the source orders the scenes.
        """
        return self._tiles[split]

    def read_tiles(self, tiles: Sequence[Tile | LabelledTile]) -> Tensor:
        """Raw tiles, as the network takes them; invalid pixels hold the band's training mean.

        Args:
            tiles: Any crops that lie inside their scenes.

        Returns:
            (N, C, tile_size, tile_size) float32 in the units of the scenes.
        """
        return crops([item.bands for item in self._loaded], self._positions(tiles), self.tile_size)

    def read_masks(self, tiles: Sequence[Tile | LabelledTile]) -> Tensor:
        """The road pixels of tiles; false where a pixel is invalid.

        Args:
            tiles: Any crops that lie inside their scenes.

        Returns:
            (N, tile_size, tile_size) bool.
        """
        size = self.tile_size
        masks = np.empty((len(tiles), size, size), dtype=bool)
        for place, (scene, row, col) in enumerate(self._positions(tiles).tolist()):
            masks[place] = self._loaded[scene].road[row : row + size, col : col + size]
        return torch.from_numpy(masks)

    def write_tiles(self, path: Path) -> None:
        """Writes the tiles of all splits as ``tiles.csv``.

        Args:
            path: The file to write or replace.

        Raises:
            OSError: The file cannot be written.
        """
        write_tiles(path, (tile for split in SPLITS for tile in self._tiles[split]))

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
        tiles = self._tiles["train"]
        labels = np.array([int(tile.label) for tile in tiles], dtype=np.int64)
        wanted = self.tiles_per_epoch or int(np.count_nonzero(labels != Label.IGNORED))
        dataset = TrainingTiles(
            scenes=[item.bands for item in self._loaded],
            road=[item.road for item in self._loaded],
            valid=[item.valid for item in self._loaded],
            positions=self._positions(tiles),
            labels=labels,
            tile_size=self.tile_size,
            road_share=self.road_share,
            max_invalid=self.max_invalid,
            mean=self.mean,
            std=self.std,
            augment=self.augment,
            seed=self.seed,
        )
        batches = BalancedBatches(
            labels,
            max(1, wanted // self.batch_size),
            self.batch_size,
            self.seed,
            self._current_epoch,
            rank,
            world_size,
        )
        return self._loader(dataset, batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Labelled validation tiles in order: with several processes, this one's part of them."""
        tiles = [tile for tile in self._tiles["val"] if tile.label != Label.IGNORED]
        world_size = self.trainer.world_size if self.trainer else 1
        rank = self.trainer.global_rank if self.trainer else 0
        batches = _OrderedBatches(len(tiles), self.batch_size, rank, world_size)
        return self._loader(self._ordered(tiles), batches)

    def evaluation_dataloader(self, split: Split) -> DataLoader[Batch]:
        """All tiles of a split in the order of ``tiles_of``, in every process.

        Args:
            split: Which.

        Returns:
            A loader of tiles and labels, -1 for ignored tiles.
        """
        tiles = self._tiles[split]
        return self._loader(self._ordered(tiles), _OrderedBatches(len(tiles), self.batch_size))

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
        )

    def _ordered(self, tiles: Sequence[LabelledTile]) -> TileDataset:
        labels = np.array([int(tile.label) for tile in tiles], dtype=np.int64)
        scenes = [item.bands for item in self._loaded]
        return TileDataset(scenes, self._positions(tiles), labels, self.tile_size)

    def _positions(self, tiles: Sequence[Tile | LabelledTile]) -> NDArray[np.int64]:
        """(N, 3) number of the scene, row and column."""
        plain = (item.tile if isinstance(item, LabelledTile) else item for item in tiles)
        rows = [(self._numbers[tile.scene], tile.row, tile.col) for tile in plain]
        return np.array(rows, dtype=np.int64).reshape(-1, 3)

    def _label(
        self, members: Sequence[LoadedScene], split: Split
    ) -> tuple[list[LabelledTile], dict[str, int]]:
        """The tiles of a split's scenes, and how many there are of each label."""
        size = self.tile_size
        stride = self.train_stride if split == "train" else self.stride
        tiles: list[LabelledTile] = []
        dropped = 0
        for item in members:
            corners = tile_grid(item.valid.shape, size, stride, self.cover_edges)
            seen = tile_counts(item.valid, corners, size)
            kept = (seen > 0) & ~exceeds(size**2 - seen, size**2, self.max_invalid)
            dropped += int(np.count_nonzero(~kept))
            corners, seen = corners[kept], seen[kept]
            road = tile_counts(item.road, corners, size)
            shares = (road / seen).tolist()
            labels = labels_of(road, seen, self.road_share).tolist()
            tiles.extend(
                LabelledTile(
                    tile=Tile(item.scene.name, row, col),
                    bounds=tile_bounds(item.transform, row, col, size),
                    share=share,
                    label=Label(label),
                    split=split,
                )
                for (row, col), share, label in zip(corners.tolist(), shares, labels, strict=True)
            )
        found = Counter(tile.label for tile in tiles)
        counts = {label.name.lower(): found[label] for label in reversed(Label)}
        return tiles, counts | {"dropped": dropped}

    def _split_faults(
        self,
        split: Split,
        members: Sequence[LoadedScene],
        tiles: Sequence[LabelledTile],
        counts: dict[str, int],
    ) -> list[str]:
        """Why a split, all of whose scenes could be read, cannot be used."""
        fraction = {"val": self.val_fraction, "test": self.test_fraction}.get(split)
        if not members:
            if fraction == 0:
                return []
            remedy = "" if split == "train" else f", or set data.{split}_fraction=0 to go without"
            return [f"data.root: no scene belongs to split {split}: add some{remedy}"]
        where = members[0].scene.image.parent
        if not tiles:
            return [
                f"{where}: split {split} has no tile left, {counts['dropped']} hold too little "
                "imagery: raise data.max_invalid or add scenes"
            ]
        lines = []
        if not any(item.road.any() for item in members):
            largest = max(item.largest_mask_value for item in members)
            lines.append(
                f"{members[0].scene.mask.parent}: no road mask of split {split} has a road: the "
                f"largest value is {largest:g} and road lies above "
                f"data.mask_threshold={self.mask_threshold:g}: lower it or add scenes with roads"
            )
        elif counts["road"] == 0:
            largest = max(tile.share for tile in tiles)
            lines.append(
                f"{where}: split {split} has no road tile: the largest road share is "
                f"{largest:.3g}, below data.road_share={self.road_share:g}: lower it or add scenes"
            )
        if counts["non_road"] == 0:
            lines.append(
                f"{where}: split {split} has no non-road tile, every one holds some road: add "
                "scenes, or lower data.tile_size"
            )
        return lines

    def _setting_faults(self) -> list[str]:
        """Settings that make no sense, one line each."""
        least = {"tile_size": 1, "stride": 1, "train_stride": 1, "batch_size": 1}
        least |= {"num_workers": 0, "seed": 0, "split_seed": 0, "mask_threshold": 0}
        lines = [
            f"data.{name}={getattr(self, name)}: must be at least {value}"
            for name, value in least.items()
            if getattr(self, name) < value
        ]
        if self.tiles_per_epoch is not None and self.tiles_per_epoch < 1:
            lines.append(f"data.tiles_per_epoch={self.tiles_per_epoch}: must be at least 1 or null")
        if not 0 < self.road_share <= 1:
            lines.append(f"data.road_share={self.road_share}: must be in (0, 1]")
        if not 0 <= self.max_invalid <= 1:
            lines.append(f"data.max_invalid={self.max_invalid}: must be in [0, 1]")
        if not (
            self.val_fraction >= 0
            and self.test_fraction >= 0
            and self.val_fraction + self.test_fraction < 1
        ):
            lines.append(
                f"data.val_fraction={self.val_fraction}, data.test_fraction={self.test_fraction}: "
                "must not be negative and leave something to train on"
            )
        if self.bands is not None and not self.bands:
            lines.append("data.bands=[]: name at least one band, or null for all")
        return lines + (self.augment.faults() if self.augment else [])


def _with_root(
    source: SceneSource | Callable[..., SceneSource], root: str | Path | None
) -> SceneSource:
    """The source, made where it is still to be."""
    if root is not None:
        made: SceneSource = source(root=root)  # type: ignore[call-arg,assignment]
        return made
    if isinstance(source, partial):
        raise DataError(
            "data.root: is not set: name the folder of the data set, as in data.root=DIR"
        )
    return source  # type: ignore[return-value]


def _path_of(kind: type) -> str:
    """Where Hydra finds a class; the package's own by their public names."""
    module = kind.__module__
    if module.startswith("vbp_lightning.data."):
        module = "vbp_lightning.data"
    return f"{module}.{kind.__qualname__}"


def _plain(value: object) -> object:
    """A source's field as a plain builtin."""
    return str(value) if isinstance(value, Path) else value


def _repeated_names(scenes: Sequence[Scene]) -> list[str]:
    """A line for each name that several scenes bear."""
    images: dict[str, list[Path]] = {}
    for scene in scenes:
        images.setdefault(scene.name, []).append(scene.image)
    return [
        f"{', '.join(map(str, paths))}: several scenes are called {name} (data.root): rename or "
        "remove all but one"
        for name, paths in images.items()
        if len(paths) > 1
    ]


def _different_types(loaded: Sequence[LoadedScene]) -> list[str]:
    """A line for each scene that differs from most in its bands or its type."""
    kinds = Counter((item.bands.shape[0], item.bands.dtype.name) for item in loaded)
    if len(kinds) < 2:
        return []
    (bands, dtype), _ = kinds.most_common(1)[0]
    return [
        f"{item.scene.image}: has {item.bands.shape[0]} bands of {item.bands.dtype.name}, most "
        f"others {bands} of {dtype}: choose common ones with data.bands or convert it (data.root)"
        for item in loaded
        if (item.bands.shape[0], item.bands.dtype.name) != (bands, dtype)
    ]


def _warn_of_shared_ground(loaded: Sequence[LoadedScene], splits: Mapping[str, Split]) -> None:
    """Says so where training scenes lie on those that judge the model."""
    if shared := shared_ground(loaded, splits):
        first, second = shared[0]
        _log.warning(
            "Scenes of different splits show the same ground: %s (%s) and %s (%s), and %d more "
            "pairs: figures on val and test may flatter (data.root)",
            *(first, splits[first], second, splits[second]),
            len(shared) - 1,
        )


def _fill(item: LoadedScene, mean: Sequence[float]) -> None:
    """Gives invalid pixels the training mean: what the network takes for nothing in particular."""
    gaps = ~item.valid
    if not gaps.any():
        return
    integers = np.issubdtype(item.bands.dtype, np.integer)
    for band, value in zip(item.bands, mean, strict=True):
        band[gaps] = round(value) if integers else value
