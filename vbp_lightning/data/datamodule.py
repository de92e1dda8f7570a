"""The LightningDataModule: reads the scenes of a layout and returns batches of labelled tiles."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pydantic_core import to_jsonable_python
from pytorch_lightning.accelerators import CUDAAccelerator
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from vbp_lightning.data.datasets.scene import SPLITS, DataError, Scene, Split
from vbp_lightning.data.imagery.constant_areas import constant_area_notes
from vbp_lightning.data.imagery.datum import shift_warnings
from vbp_lightning.data.imagery.extent import PixelGrid, ground_sampling_distance
from vbp_lightning.data.imagery.normalisation import Normalisation
from vbp_lightning.data.imagery.reading import SceneInfo, for_each_scene, scene_info
from vbp_lightning.data.imagery.vector_files import vector_notes
from vbp_lightning.data.settings import DataSettings, SceneSource, made_layout
from vbp_lightning.data.tiles.corrections import Corrections, tile_digest
from vbp_lightning.data.tiles.dataset import Batch, TileDataset, TrainingTiles, crops, road_masks
from vbp_lightning.data.tiles.planning import overlaps, plan_tiles
from vbp_lightning.data.tiles.repeats import repeated_scenes, repeated_tiles
from vbp_lightning.data.tiles.sampling import BalancedBatches, OrderedBatches
from vbp_lightning.data.tiles.scan import (
    Scan,
    different_types,
    no_road_pixels,
    other_scales,
    overlap_warnings,
    repeated_names,
    split_errors,
    too_small,
)
from vbp_lightning.data.tiles.splits import (
    UNUSED,
    KnownSplits,
    Region,
    block_regions,
    part_of_training,
    scene_regions,
    write_regions,
)
from vbp_lightning.data.tiles.store import SceneStore, build_store, scan_scenes
from vbp_lightning.data.tiles.streaming import INVALID_PIXEL
from vbp_lightning.data.tiles.tile import ANSWERS, Label, LabelledTile, Tile
from vbp_lightning.data.tiles.tile_table import TileTable, label_tiles
from vbp_lightning.data.tiles.tiles_csv import write_tiles
from vbp_lightning.records import made

_CELL = 2048
"""Side, in pixels, of the neighbourhoods that group the tiles of streamed scenes."""

_THREADS = min(8, os.cpu_count() or 1)
"""Scenes that are read at once."""

_log = logging.getLogger(__name__)


def _unchanged(batch: Batch) -> Batch:
    """The collate function for datasets that return batches; a lambda cannot be pickled."""
    return batch


class _LazyLoader(DataLoader[Batch]):
    """A loader that draws nothing before its first batch is asked for.

    The workers of torch's loader draw as soon as an iterator is made. Lightning makes one already
    to count the batches for the learning rate's schedule, before it restores the epoch of a resumed
    run.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        yield from super().__iter__()


class RoadTileDataModule(pl.LightningDataModule):
    """Tiles of scenes with their labels, normalisation and splits.

    ``setup`` reads every scene once, before worker processes are started, and keeps its pixels in
    their own data type. All errors of the data set are reported together.

    Training batches hold as many road as non-road tiles, each class drawn in shuffled passes.
    Validation, test and prediction use every tile once, without balancing. The tiles of an epoch
    and their augmentation depend on (seed, epoch, index) alone, and hence neither on the number of
    workers nor on whether the run was resumed. With several processes, each gets a consecutive part
    of every training batch and of the validation and test tiles. Lightning must not replace the
    samplers: use ``Trainer(use_distributed_sampler=False)``.

    Args:
        source: The layout of the data set: a dataclass whose instances, when called, return the
            scenes, such as :class:`~vbp_lightning.data.datasets.pattern_scenes.PatternScenes`; or
            a mapping of its settings with the class under ``_target_``.
        root: Folder of the data set; used if ``source`` is a mapping.
        **settings: The fields of :class:`~vbp_lightning.data.settings.DataSettings`.

    Attributes:
        settings: The validated settings.

    Raises:
        DataError: Settings are invalid; one line for each error.
    """

    def __init__(
        self,
        source: SceneSource | Mapping[str, Any],
        root: str | Path | None = None,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        super().__init__()
        layout, lines = made_layout(source, root)
        checked, more = made(DataSettings, "data", settings)
        if layout is None or checked is None:
            raise DataError(*lines, *more)
        self.source = layout
        self.settings = checked
        self.tile_size = checked.tile_size
        self.context = checked.context
        self.epoch = 0
        """The epoch to draw if no trainer is attached; set it in your own training loop."""
        self.normalisation = Normalisation([], [])
        """Computed from the valid pixels of the training split by ``setup``."""
        self.known_splits: KnownSplits | None = None
        """The splits of a run, which hold instead of those of the settings: set it before setup."""
        self.known_corrections: Corrections | None = None
        """The corrections of a run, which hold instead of those of the settings, likewise."""
        self._scan = Scan()

    def __repr__(self) -> str:
        """The layout, the size of the tiles, and the numbers of tiles of each split."""
        root = getattr(self.source, "root", None)
        lines = [
            f"source={type(self.source).__name__}, root={root},"
            f" tile_size={self.tile_size}, context={self.context}"
        ]
        for split, counts in self.counts.items():
            lines.append(f"{split}: {', '.join(f'{name}={n}' for name, n in counts.items())}")
        if not self.counts:
            lines.append("not set up")
        return "\n  ".join([f"{type(self).__name__}(", *lines]) + "\n)"

    __str__ = __repr__

    @property
    def mean(self) -> list[float]:
        """The value of each band that is normalised to 0; nodata pixels are filled with it."""
        return self.normalisation.mean

    @property
    def std(self) -> list[float]:
        """The distance from ``mean`` of each band that is normalised to 1."""
        return self.normalisation.std

    @property
    def counts(self) -> dict[Split, dict[str, int]]:
        """Number of tiles by split and label name, and number of dropped tiles."""
        return {split: tiles.counts for split, tiles in self._scan.tiles.items()}

    @property
    def scene_splits(self) -> dict[str, Any]:
        """The split of each scene by name, as plain builtins.

        The value of a divided scene is a list of (row, col, height, width, split).
        """
        whole = self.settings.split_by == "scene" and self.settings.split_file is None
        return {
            name: parts[0].split
            if len(parts) == 1 and whole
            else [list(astuple(part)) for part in parts]
            for name, parts in self._scan.regions.items()
        }

    @property
    def scene_digests(self) -> dict[str, str]:
        """The digest of the content of each scene that is used, by name."""
        return {info.scene.name: info.digest for info in self._scan.infos}

    @property
    def grids(self) -> dict[str, PixelGrid]:
        """Where the pixels of each scene that is used lie, by name."""
        return {info.scene.name: info.grid for info in self._scan.infos}

    @property
    def corrections(self) -> Corrections:
        """The corrections of labels in the scenes that are used."""
        return self._scan.corrections

    @property
    def correction_lines(self) -> list[str]:
        """What the corrections of labels change, a line for each split; empty without any."""
        scan, lines, placed = self._scan, [], 0
        for split, tiles in scan.tiles.items():
            answers = tiles.answers[tiles.answers >= 0]
            placed += len(answers)
            if not len(answers):
                continue
            counts = np.bincount(answers, minlength=len(ANSWERS)).tolist()
            each = ", ".join(
                f"{count} {name.replace('_', '-')}"
                for count, name in zip(counts, ANSWERS, strict=True)
            )
            lines.append(f"Corrected labels of {split}: {each}")
        if scan.left_out:
            lines.append(f"Training tiles left out, since they overlap these: {scan.left_out}")
        if unplaced := len(scan.corrections.by_tile) - placed:
            lines.append(f"Corrected labels of no tile of this run: {unplaced}")
        return lines

    @property
    def imagery(self) -> dict[str, Any]:
        """What the training imagery is like, as plain builtins, to compare other images with it.

        ``tile_size`` in pixels; the names of the ``bands``; ``ground_sampling_distance``, the
        least and the largest in metres, or None where it is unknown; ``values``, the 1st and the
        99th percentile of each band.
        """
        statistics, scan = self._scan.statistics, self._scan
        assert statistics is not None, "call setup() first"
        sizes = [
            size
            for info in scan.infos
            if any(part.split == "train" for part in scan.regions[info.scene.name])
            for size in ground_sampling_distance(info.grid) or ()
        ]
        return {
            "tile_size": self.tile_size,
            "bands": list(scan.infos[0].band_names),
            "ground_sampling_distance": [min(sizes), max(sizes)] if sizes else None,
            "values": [
                list(pair) for pair in zip(*map(statistics.percentile, (1, 99)), strict=True)
            ],
        }

    @property
    def data_config(self) -> dict[str, Any]:
        """The arguments as plain builtins; the input of ``from_config``."""
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
    def from_config(
        cls, config: Mapping[str, Any], splits: KnownSplits | None = None, **changes: object
    ) -> Self:
        """Builds a data module from a ``data_config``, also from that of an untrusted checkpoint.

        Args:
            config: Plain builtins; empty if the checkpoint holds no data settings. Only layouts of
                this package are instantiated, and nothing is imported by name. The file of
                ``corrections`` that it names is not read.
            splits: The splits of the run, as
                :meth:`~vbp_lightning.data.tiles.splits.KnownSplits.of_checkpoint` takes them from
                the checkpoint; None to read or draw them as the settings say.
            **changes: Arguments to replace, such as ``root`` if the imagery was moved.

        Raises:
            DataError: The config is empty, names a class that is not a layout of this package, or
                holds invalid settings.
        """
        if not config:
            raise DataError(
                "the checkpoint holds no data settings (ckpt): give an image or a folder (input)"
            )
        arguments = {
            key: value
            for key, value in config.items()
            if not key.startswith("_") and key != "corrections"
        }
        try:
            made = cls(**(arguments | changes))
        except DataError as error:
            prefix = "the checkpoint's data settings do not fit this version (ckpt)"
            raise DataError(*(f"{prefix}: {line}" for line in error.lines)) from error
        made.known_splits = splits
        return made

    def prepare_data(self) -> None:
        """Calls the layout in one process, so that synthetic scenes are written only once."""
        self.source()

    def setup(self, stage: str | None = None) -> None:
        """Reads the scenes, labels the tiles and computes the normalisation, unless it is done.

        Args:
            stage: Unused; every split is set up.

        Raises:
            DataError: The data set cannot be used; one line for each error that was found.
        """
        if self._scan.store is None:
            scan = self.scan()
            if scan.errors:
                self._scan, self.normalisation = Scan(), Normalisation([], [])
                raise DataError(*scan.errors)
            for line in scan.warnings:
                _log.warning(line)

    def compare_scenes(self, whole: bool) -> None:
        """Compares the scenes, by name and content, with ``known_splits``; cuts no tiles.

        Args:
            whole: Whether the data set must hold the same scenes with the same splits. Otherwise,
                scenes that came later are named in the log.

        Raises:
            DataError: A scene has changed or is gone; one line for each.
        """
        known = self.known_splits
        if known is None:
            return
        found = {scene.name: scene for scene in self.source()}
        lines = known.missing(found)
        if whole:
            lines += known.other(found.values(), self.settings.split_file is None)
        else:
            for line in known.later(found):
                _log.warning(line)

        def compare(scene: Scene) -> None:
            known.check(scene.name, scene.image, scene_info(scene, self.settings.reading).digest)

        digested = [found[name] for name in known.digests if name in found]
        lines += for_each_scene(compare, digested, "Comparing scenes", _THREADS, True)[1]
        if lines:
            raise DataError(*lines)

    def scan(self) -> Scan:
        """Reads the scenes as ``setup`` does, but returns the errors instead of raising them.

        Returns:
            The scan; training can run if its ``errors`` are empty.

        Raises:
            DataError: The layout finds no scenes.
        """
        settings = self.settings
        scan = self._scan = Scan()
        found = self.source()
        by_name: dict[str, Scene] = {}
        for scene in found:
            by_name.setdefault(scene.name, scene)
        scan.found = len(by_name)
        lines = scan.errors = repeated_names(found)
        scenes = list(by_name.values())
        known, unlisted, gone = self.known_splits, [], []
        if known is None and self.settings.split_file is not None:
            try:
                known = KnownSplits.read(self.settings.split_file)
            except DataError as error:
                unlisted = list(error.lines)
        if known is not None:
            scenes = [scene for scene in scenes if known.is_used(scene.name)]
            lines += (gone := known.missing(by_name))
            scan.warnings += known.later(by_name)

        corrections = self.known_corrections or Corrections()
        if self.known_corrections is None and settings.corrections is not None:
            try:
                corrections = Corrections.read(settings.corrections)
            except DataError as error:
                lines += error.lines
        lines += corrections.unknown_scenes(by_name)

        def opened(scene: Scene) -> SceneInfo:
            info = scene_info(scene, reading)
            if known is not None and known.digests:
                known.check(scene.name, scene.image, info.digest)
            return info

        progress = self.trainer is None or self.trainer.is_global_zero
        reading = settings.reading
        infos, unreadable = for_each_scene(opened, scenes, "Opening scenes", _THREADS, progress)
        unfit = too_small(infos, self.tile_size)
        infos = [info for info in infos if min(info.grid.shape) >= self.tile_size]
        lines += unreadable
        unfit = [*different_types(infos), *unfit]
        pairs = overlaps(infos)
        try:
            if unlisted:
                raise DataError(*unlisted)
            regions = self._regions(infos, pairs, known)
        except DataError as error:
            lines += [*unfit, *error.lines]
            return scan
        unused = {
            name: own for name, own in regions.items() if {part.split for part in own} == {"none"}
        }
        if unused:
            scenes = [scene for scene in scenes if scene.name not in unused]
            infos = [info for info in infos if info.scene.name not in unused]
            pairs = overlaps(infos)
        if known is not None:
            left_alone = (n for n in by_name if n in known.parts and not known.is_used(n))
            unused |= {name: [UNUSED] for name in left_alone}
        scan.corrections, misplaced = corrections.within(infos, self.tile_size)
        lines += misplaced
        tiling = (self.tile_size, *settings.strides, settings.cover_edges, settings.margin)
        added = scan.corrections.positions(infos)[:, :3]
        plans = plan_tiles(infos, regions, pairs, *tiling, added)
        scan.shared = sum(plan.shared for plan in plans)
        memory = int(settings.memory * (1 << 30))
        scanned, statistics, more = scan_scenes(
            infos, plans, regions, reading, self.tile_size, memory, _THREADS, progress
        )
        lines += [*more, *unfit]
        scan.scanned = scanned
        scan.corrections, _ = scan.corrections.within(scan.infos, self.tile_size)
        scan.warnings += vector_notes(item.vectors for item in scanned if item.vectors is not None)
        scan.regions = {info.scene.name: regions[info.scene.name] for info in scan.infos} | unused
        self._label(scan, scenes, bool(gone))
        if settings.evidence is not None:
            lines += no_road_pixels(scan)
        if statistics is None or statistics.count == 0:
            return scan
        scan.statistics = statistics
        self.normalisation = statistics.normalisation(settings.stretch)
        lines += [
            f"{scanned[0].info.scene.image.parent}: band {name} is the same everywhere in the "
            "training scenes: choose others with data.bands"
            for name, spread in zip(
                reading.bands or range(1, len(self.std) + 1), self.std, strict=True
            )
            if spread == 0
        ]
        scan.warnings += other_scales(scanned, reading.mask_values)
        scan.warnings += constant_area_notes(
            [
                (
                    str(item.info.scene.image),
                    item.info.grid.height * item.info.grid.width,
                    item.info.dtype,
                    item.constant,
                )
                for item in scanned
            ]
        )
        vectors = [(item.info, item.vectors) for item in scanned if item.vectors is not None]
        scan.warnings += shift_warnings(vectors)
        scan.warnings += overlap_warnings(infos, regions, pairs, scan.shared)
        scan.store = build_store(scanned, reading, self.mean, memory, settings.num_workers)
        digests = self.tile_digests([*scan.corrections.by_tile])
        lines += scan.corrections.changed(digests, scan.infos, self.tile_size)
        self._find_repeats(scan, [(infos[a].scene.name, infos[b].scene.name) for a, b in pairs])
        return scan

    def _find_repeats(self, scan: Scan, overlapping: Sequence[tuple[str, str]]) -> None:
        """Adds an error for each scene, and a warning for tiles, that several splits show.

        Args:
            scan: Its store is made.
            overlapping: Names of scenes that overlap, whose common tiles are left out already.
        """
        assert scan.store is not None
        numbers = {info.scene.name: number for number, info in enumerate(scan.infos)}
        across, notes, same = repeated_scenes(scan.scanned, scan.regions, scan.store)
        # a run that exists goes on with the splits that it has
        is_of_run = self.known_splits is not None and self.known_splits.is_of_run
        (scan.warnings if is_of_run else scan.errors).extend(across)
        scan.warnings += notes
        same |= {(numbers[a], numbers[b]) for a, b in overlapping if {a, b} <= numbers.keys()}
        scan.warnings += repeated_tiles(
            scan.scanned, scan.store, self.tile_size, self.settings.max_invalid, same
        )

    def _regions(
        self,
        infos: Sequence[SceneInfo],
        pairs: Sequence[tuple[int, int]],
        known: KnownSplits | None,
    ) -> dict[str, list[Region]]:
        """The regions of each scene with their splits: known, read or drawn."""
        settings = self.settings
        fractions = (*settings.fractions, settings.split_seed)
        if known is not None:
            regions = known.regions(infos)
            if known.is_of_run:
                return regions
        elif settings.split_by == "block":
            regions = block_regions(infos, settings.block_size, settings.block_unit, *fractions)
        else:
            regions = scene_regions(infos, pairs, *fractions)
        if settings.train_fraction is None:
            return regions
        return part_of_training(regions, settings.train_fraction, settings.split_seed)

    def _label(self, scan: Scan, scenes: Iterable[Scene], some_gone: bool) -> None:
        """Labels the tiles of all splits and adds the errors of splits that cannot be used.

        Args:
            scan: Its scenes.
            scenes: All scenes that were to be used.
            some_gone: Whether there should be more of them.
        """
        usable = {info.scene.name for info in scan.infos}
        # A split that lacks tiles because a scene is unusable is not reported as a second error.
        # The split of an unusable scene may be unknown: then no split is reported.
        lost = {scene.split for scene in scenes if scene.name not in usable}
        lost |= {None} if some_gone else set()
        settings = self.settings
        fractions = dict(zip(SPLITS, (None, *settings.fractions), strict=True))
        for split in SPLITS:
            tiles = label_tiles(
                scan.scanned, split, self.tile_size, settings.road_share, settings.max_invalid
            )
            scan.tiles[split] = scan.corrections.apply(tiles)
            scan.left_out += len(tiles) - len(scan.tiles[split])
            emptied = [
                name.replace("_", "-")
                for name in ("road", "non_road")
                if tiles.counts[name] > 0 == scan.tiles[split].counts[name]
            ]
            if emptied:
                path, key = scan.corrections.path, scan.corrections.key
                scan.errors.append(
                    f"{path}: leaves no {' and no '.join(emptied)} tile in split {split} ({key}):"
                    " correct fewer tiles, or add scenes (data.root)"
                )
            elif split not in lost and None not in lost:
                optional = fractions[split] == 0
                scan.errors += split_errors(
                    scan, split, settings.road_share, settings.reading.mask_values, optional
                )

    def tiles_of(self, split: Split) -> TileTable:
        """The tiles of a split, ignored tiles included, dropped tiles excluded.

        Args:
            split: The split.

        Returns:
            Ordered by scene, row and column; the scenes are in the order of the layout.
        """
        return self._scan.tiles[split]

    def read_tiles(self, tiles: Sequence[Tile | LabelledTile]) -> Tensor:
        """Raw tiles, the input of the network; invalid pixels hold the training mean of their band.

        Args:
            tiles: Tiles that lie inside their scenes.

        Returns:
            (N, C, size, size) float32 in the units of the scenes, size = tile_size + 2·context.
        """
        return crops(self._store, self._positions(tiles), self.tile_size, self.context)

    def read_road_masks(self, tiles: Sequence[Tile | LabelledTile]) -> Tensor:
        """The road masks of tiles and their context; invalid pixels are false.

        Args:
            tiles: Tiles that lie inside their scenes.

        Returns:
            (N, size, size) bool, pixel by pixel as in ``read_tiles``.
        """
        masks = road_masks(self._store, self._positions(tiles), self.tile_size, self.context)
        return torch.from_numpy(masks)

    def tile_digests(self, tiles: Sequence[Tile | LabelledTile]) -> list[str]:
        """:func:`~vbp_lightning.data.tiles.corrections.tile_digest` of tiles.

        Args:
            tiles: Tiles that lie inside their scenes.
        """
        size, found = self.tile_size, []
        for scene, row, col in self._positions(tiles).tolist():
            here = slice(row, row + size), slice(col, col + size)
            valid = self._store.labels[scene][here] != INVALID_PIXEL
            found.append(tile_digest(self._store.bands[scene][:, *here], valid))
        return found

    def write_tiles(self, path: Path) -> None:
        """Writes the tiles of all splits as ``tiles.csv``.

        Args:
            path: The file to write or replace.

        Raises:
            OSError: The file cannot be written.
        """
        write_tiles(path, (tile for split in SPLITS for tile in self._scan.tiles[split]))

    def write_splits(self, path: Path) -> None:
        """Writes the splits of scenes as ``splits.csv``, which ``data.split_file`` reads.

        Args:
            path: The file to write or replace.

        Raises:
            OSError: The file cannot be written.
        """
        write_regions(path, self._scan.regions, self.scene_digests)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Balanced batches of augmented training tiles; of each batch, the part of this process.

        Raises:
            DataError: A batch cannot be divided evenly among the processes.
        """
        rank, world_size = self._process
        batch_size = self.settings.batch_size
        if batch_size % world_size or batch_size < 2 * world_size:
            raise DataError(
                f"data.batch_size={batch_size}: cannot be divided evenly among {world_size} "
                f"processes: make it a multiple of {world_size}, with 2 tiles for each at least"
            )
        tiles = self._scan.tiles["train"]
        labelled = int(np.count_nonzero(tiles.labels != Label.IGNORED))
        wanted = self.settings.tiles_per_epoch or labelled
        evidence = self.settings.evidence
        count = max(1, wanted // batch_size)
        pairs = count * batch_size // 2
        if evidence is not None and pairs * evidence.share < 1:
            raise DataError(
                f"data.evidence.share={evidence.share:g}: replaces none of the {pairs} pairs of an"
                f" epoch: give at least {np.ceil(1e4 / pairs) / 1e4:g}"
            )
        epochs = getattr(self.trainer, "max_epochs", None) or 0  # -1: without an end
        reach = [
            evidence.dilation / float(np.mean(ground_sampling_distance(info.grid) or 1))
            for info in self._scan.infos
            if evidence is not None
        ]
        dataset = TrainingTiles(
            self._dataset(tiles.positions, tiles.labels),
            self.settings.road_share,
            self.settings.max_invalid,
            self.mean,
            self.std,
            self.settings.augment or None,
            self.settings.seed,
            self.corrections.positions(self._scan.infos)[:, :3]
            if self.corrections.by_tile
            else None,
            evidence,
            reach,
            evidence.until * epochs if evidence and epochs > 0 else float("inf"),
        )
        batches = BalancedBatches(
            tiles.labels,
            count,
            batch_size,
            self.settings.seed,
            self._current_epoch,
            rank,
            world_size,
            _cells(tiles.positions) if self._store.is_streamed else None,
            partners=evidence is not None,
        )
        return self._loader(dataset, batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Labelled validation tiles in order; with several processes, the part of this process.

        Raises:
            DataError: The trainer's limit leaves one class alone, so that nothing can be measured.
        """
        self._refuse_one_class()
        return self._ordered("val", labelled=True)

    def _refuse_one_class(self) -> None:
        """Checks that the batches that a trainer validates on hold both classes."""
        limit: float = getattr(self.trainer, "limit_val_batches", 1.0)
        labels = self._scan.tiles["val"].labels
        labels = labels[labels != Label.IGNORED]
        world_size = self._process[1]
        seen: set[int] = set()
        for rank in range(world_size):
            batches = [*OrderedBatches(len(labels), self.settings.batch_size, rank, world_size)]
            count = limit if isinstance(limit, int) else int(limit * len(batches))
            for batch in batches[:count]:
                seen |= {*labels[batch].tolist()}
        if len(seen) == 1:
            name = Label(seen.pop()).name.lower().replace("_", "-")
            raise DataError(
                f"trainer.limit_val_batches={limit}: leaves {name} tiles alone for validation, by "
                "which no metric and no threshold can be computed: raise it, or data.batch_size"
            )

    def test_dataloader(self) -> DataLoader[Batch]:
        """Labelled test tiles in order; with several processes, the part of this process."""
        return self._ordered("test", labelled=True)

    def predict_dataloader(
        self, splits: Sequence[Split] = ("val", "test")
    ) -> list[DataLoader[Batch]]:
        """All tiles of each split in the order of ``tiles_of``, in every process.

        Args:
            splits: The splits, one for each loader.

        Returns:
            Loaders of tiles and labels, -1 for ignored tiles.
        """
        return [self._ordered(split, labelled=False) for split in splits]

    def _ordered(self, split: Split, labelled: bool) -> DataLoader[Batch]:
        """The labelled tiles of a split divided among the processes, or all tiles in each."""
        tiles = self._scan.tiles[split]
        chosen = tiles.labels != Label.IGNORED if labelled else slice(None)
        dataset = self._dataset(tiles.positions[chosen], tiles.labels[chosen])
        process = self._process if labelled else (0, 1)
        batches = OrderedBatches(len(dataset), self.settings.batch_size, *process)
        return self._loader(dataset, batches)

    @property
    def _process(self) -> tuple[int, int]:
        """The rank of this process, and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _current_epoch(self) -> int:
        if self.trainer is None:
            return self.epoch
        overfit: float = self.trainer.overfit_batches  # type: ignore[attr-defined]
        # Overfitting repeats the tiles of the first epoch.
        return 0 if overfit else self.trainer.current_epoch

    def _loader(
        self, dataset: TileDataset | TrainingTiles, batches: Sampler[NDArray[np.int64]]
    ) -> DataLoader[Batch]:
        return _LazyLoader(
            dataset,
            batch_sampler=batches,  # type: ignore[arg-type]  # arrays of keys, not lists
            collate_fn=_unchanged,  # type: ignore[arg-type]  # gets a whole batch
            num_workers=self.settings.num_workers,
            persistent_workers=self.settings.num_workers > 0,
            pin_memory=self.trainer is not None
            and isinstance(self.trainer.accelerator, CUDAAccelerator),
        )

    def _dataset(self, positions: NDArray[np.int64], labels: NDArray[np.int64]) -> TileDataset:
        return TileDataset(self._workers_store, positions, labels, self.tile_size, self.context)

    @property
    def _store(self) -> SceneStore:
        assert self._scan.store is not None, "call setup() first"
        return self._scan.store

    @property
    def _workers_store(self) -> SceneStore:
        """The store for workers: forked workers inherit it, spawned ones map shared memory."""
        if self.settings.num_workers == 0 or torch.multiprocessing.get_start_method() == "fork":
            return self._store
        return self._store.shared

    def _positions(self, tiles: Sequence[Tile | LabelledTile]) -> NDArray[np.int64]:
        """(N, 3) index of the scene, row and column."""
        index = {info.scene.name: place for place, info in enumerate(self._scan.infos)}
        plain = (item.tile if isinstance(item, LabelledTile) else item for item in tiles)
        rows = [(index[tile.scene], tile.row, tile.col) for tile in plain]
        return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _cells(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of the neighbourhood of each tile (N, 3)."""
    cells = np.stack([positions[:, 0], *(positions[:, 1:] // _CELL).T], axis=1)
    numbers: NDArray[np.int64] = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    return numbers
