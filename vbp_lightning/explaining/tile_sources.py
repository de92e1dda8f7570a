"""The tiles that ``explain.py`` explains: of a split of the run's own data, or of images."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import DictConfig
from torch import Tensor

from vbp_lightning.callbacks.mask_panels import LABEL_NAMES
from vbp_lightning.cli import shown_progress
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import ImageLabel, Scene, Split
from vbp_lightning.data.imagery.unlabelled import image_files
from vbp_lightning.data.settings import SceneSource
from vbp_lightning.data.synthetic.generator import SyntheticScenes
from vbp_lightning.data.tiles.corrections import Corrections
from vbp_lightning.data.tiles.selection import choose_by_share
from vbp_lightning.data.tiles.splits import KnownSplits
from vbp_lightning.data.tiles.tile import LabelledTile, Tile
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.image_inputs import CutImages, ImageReader
from vbp_lightning.explaining.imagery import warn_of_other_imagery
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.models import RoadClassifier

MOST_TILES = 20_000
"""Largest number of tiles of a source that are compared with each other in memory."""

_BATCH = 64

_REMOTE = re.compile("://|/vsi")
"""What names of files on servers and in GDAL's virtual file systems hold."""

_SYSTEM = tuple(map(Path, ("/proc", "/sys", "/dev")))

_MEMORY = 8.0
"""GiB that a checkpoint may claim for its imagery."""

_LONGEST = 200
"""Characters of a text of a checkpoint that an error quotes."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChosenTiles:
    """Tiles to explain.

    Args:
        tiles: ``(N, C, H, W)`` float32, raw, on the CPU.
        places: Scene and corner of each tile.
        known: The same tiles with label and road share if the imagery has labels, else empty.
    """

    tiles: Tensor
    places: Sequence[Tile]
    known: Sequence[LabelledTile] = ()


@dataclass(frozen=True)
class SplitTiles:
    """All tiles of a split of the data that a classifier was trained with.

    Args:
        datamodule: Set up.
        split: Split of the tiles.
    """

    datamodule: RoadTileDataModule
    split: Split

    @property
    def known(self) -> Sequence[LabelledTile]:
        """The tiles with their labels, ignored ones included."""
        return self.datamodule.tiles_of(self.split)

    @cached_property
    def places(self) -> Sequence[Tile]:
        """Scene and corner of each tile."""
        return [labelled.tile for labelled in self.known]

    def read(self, indices: Sequence[int]) -> Tensor:
        """``(N, C, H, W)`` float32, raw."""
        tiles = self.known
        return self.datamodule.read_tiles([tiles[index] for index in indices])

    def choose(self, count: int) -> ChosenTiles:
        """Tiles chosen like those of the mask panels: by label and road share."""
        tiles = self.known
        groups = choose_by_share(tiles, count)
        indices = [index for group in groups for index in group.indices]
        known = [tiles[index] for index in indices]
        return ChosenTiles(self.read(indices), [labelled.tile for labelled in known], known)

    def by_scene(self) -> Iterator[tuple[Scene, list[int]]]:
        """The scenes of the split, each with the numbers of its tiles."""
        scenes = {scene.name: scene for scene in self.datamodule.source()}
        for name, group in groupby(range(len(self.places)), lambda i: self.places[i].scene):
            yield scenes[name], list(group)

    def report(self) -> None:
        """Does nothing: the data module has already refused files that cannot be read."""


@dataclass
class ImageTiles:
    """All tiles of some images. Images that cannot be read are left out and reported at the end.

    Args:
        reader: Makes tiles from an image.
        files: The images.

    Attributes:
        owners: The image of each tile.

    Raises:
        UserError: None of the images can be read.
    """

    reader: ImageReader
    files: Sequence[Path]
    places: list[Tile] = field(init=False, default_factory=list)
    known: Sequence[LabelledTile] = field(init=False, default=())

    def __post_init__(self) -> None:
        self.owners: list[Path] = []
        self._errors: list[str] = []
        for file in self.files:
            try:
                found = self.reader.places(file)
            except UserError as error:
                self._errors.extend(error.lines)
                continue
            self.places.extend(found)
            self.owners.extend([file] * len(found))
        if not self.places:
            raise UserError(*self._errors)

    def read(self, indices: Sequence[int]) -> Tensor:
        """``(N, C, H, W)`` float32, raw.

        Raises:
            UserError: An image cannot be read, or images differ in size.
        """
        return _stacked(
            [
                self.reader.read(file, [self.places[index] for index in group])
                for file, group in groupby(indices, self.owners.__getitem__)
            ]
        )

    def choose(self, count: int) -> ChosenTiles:
        """Tiles evenly spread over each image, equally many of each, at least one.

        Raises:
            UserError: None of the images can be read.
        """
        every = range(len(self.places))
        files = [list(group) for _, group in groupby(every, self.owners.__getitem__)]
        tiles: list[Tensor] = []
        places: list[Tile] = []
        for number, own in enumerate(files):
            share = (number + 1) * count // len(files) - number * count // len(files)
            spread = evenly_spread(len(own), share) if share > 1 else [len(own) // 2]
            chosen = [own[rank] for rank in spread]
            try:
                tiles.append(self.read(chosen))
            except UserError as error:
                self._errors.extend(error.lines)
                continue
            places.extend(self.places[index] for index in chosen)
        if not places:
            raise UserError(*self._errors)
        return ChosenTiles(_stacked(tiles), places)

    def by_scene(self) -> Iterator[tuple[Scene, list[int]]]:
        """The images as scenes without road, each with the numbers of its tiles."""
        for file, group in groupby(range(len(self.places)), self.owners.__getitem__):
            yield Scene(file.stem, file, ImageLabel(False)), list(group)

    def report(self) -> None:
        """Reports the images that were left out.

        Raises:
            UserError: A line for each image that could not be read.
        """
        if self._errors:
            raise UserError(*self._errors)


TileSource = SplitTiles | ImageTiles
"""Tiles that can be read in any order."""


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    if len({part.shape[2:] for part in parts}) > 1:
        raise UserError(
            "the images differ in size (input): give preprocess.resize and preprocess.crop, so "
            "that they can be stacked"
        )
    return torch.cat(list(parts))


def open_tiles(cfg: DictConfig, subject: Subject, split: Split | None = None) -> TileSource:
    """The tiles that the config names: those of ``input``, or of a split of the run's own data.

    Args:
        cfg: The composed config of ``explain.py``: ``input``, ``split`` and ``tiles``.
        subject: The network that takes them.
        split: Replaces the split of the config.

    Raises:
        UserError: There are none, or the imagery cannot be used.
    """
    if cfg.input is not None:
        tiles = ImageTiles(subject.reader, image_files(str(cfg.input)))
        if subject.classifier is not None and isinstance(subject.reader, CutImages):
            trained = subject.classifier.hparams["imagery"]
            warn_of_other_imagery(tiles.files, subject.reader, trained)
        return tiles
    found = SplitTiles(own_data(subject.classifier, cfg.data), split or cfg.split)
    if not len(found.known):
        raise UserError(
            f"split={found.split}: the run's own data have no tile of it: choose another"
        )
    return found


def own_data(
    classifier: RoadClassifier | None, changes: Mapping[str, str | None]
) -> RoadTileDataModule:
    """The data that a classifier was trained with and its splits, set up.

    A checkpoint may come from anybody. The folder that it names is read, and the log names it, but
    nothing is written there, nothing is fetched from servers that it names, and no whole file
    system is searched.

    Args:
        classifier: None for a custom model, which does not name its data.
        changes: ``root`` of imagery that was moved, a ``split_file`` to replace the splits of the
            run, and ``corrections`` to replace those of its labels; None for no change.

    Raises:
        UserError: The data are not known, are in no usual place, or cannot be used.
    """
    if classifier is None:
        raise UserError(
            "input=null: the data of a custom model are not known: give an image or a folder"
        )
    settings = classifier.hparams
    splits = None
    if settings["splits"] and changes.get("split_file") is None:
        splits = KnownSplits.of_checkpoint(settings["splits"], settings.get("digests") or {})
    given = {key: value for key, value in changes.items() if value is not None}
    datamodule = RoadTileDataModule.from_config(settings["data"] or {}, splits, **given)
    if settings.get("corrections") and "corrections" not in given:
        datamodule.known_corrections = Corrections.of_checkpoint(settings["corrections"])
    _check_place(datamodule.source, settings["data"], given.get("root"))
    memory = min(datamodule.settings.memory, _MEMORY)
    datamodule.settings = replace(datamodule.settings, memory=memory)
    datamodule.setup()
    return datamodule


def _check_place(source: SceneSource, config: Mapping[str, Any], given: str | None) -> None:
    """Refuses places that a checkpoint must not name, unless the user names them.

    Args:
        source: The layout, with the folder that counts.
        config: The data settings of the checkpoint.
        given: The folder that the user names, or None.
    """
    remedy = "name the folder of the imagery (data.root), or give an image (input)"
    root = Path(str(getattr(source, "root", ".")))
    named = [config["source"]] if given is not None else [config["source"], config.get("root")]
    remote = [text for text in _texts(named) if _REMOTE.search(text)]
    if remote and not _REMOTE.search(given or ""):
        raise UserError(
            f"{shorten(remote[0], _LONGEST)}: is not on this machine, and the checkpoint names it"
            f" (ckpt): nothing was fetched; {remedy}"
        )
    if given is not None:
        return
    for folder in (root, root / str(getattr(source, "images", "")).split("{")[0]):
        place = folder.resolve()
        if place == Path(place.anchor) or any(map(place.is_relative_to, _SYSTEM)):
            raise UserError(
                f"{folder}: the checkpoint names this as the folder of its imagery (ckpt): it is"
                f" not searched; {remedy}"
            )
    if isinstance(source, SyntheticScenes) and (missing := source.missing()):
        raise UserError(
            f"{source.folder}: {missing} of {source.scenes} procedural scenes are missing (ckpt):"
            " nothing is written to a folder that a checkpoint names; to write them, name it or"
            " another one (data.root)"
        )
    _log.info("The imagery is read from %s, which the checkpoint names (data.root)", root)


def _texts(value: object) -> Iterator[str]:
    """All texts in nested containers."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def label_names(source: TileSource) -> list[str]:
    """``road``, ``non-road`` or ``ignored`` of each tile; ``tile`` if labels are not known."""
    if not source.known:
        return ["tile"] * len(source.places)
    return [LABEL_NAMES[tile.label] for tile in source.known]


def evenly_spread(count: int, most: int = MOST_TILES) -> npt.NDArray[np.int64]:
    """Numbers from 0 to ``count - 1``, at most ``most`` of them, evenly spread.

    Args:
        count: At least 1.
        most: At least 1.
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def compared_tiles(numbers: Sequence[int]) -> list[int]:
    """At most ``MOST_TILES`` of some tiles, evenly spread; prints a line if some are left out.

    Args:
        numbers: Numbers of the tiles, at least one.

    Returns:
        Their numbers, in the given order.
    """
    if len(numbers) > MOST_TILES:
        print(f"{MOST_TILES} evenly spread tiles of {len(numbers)} are used")
    return [numbers[place] for place in evenly_spread(len(numbers))]


def road_probabilities(
    source: TileSource, subject: Subject, target: int | None = 1
) -> npt.NDArray[np.float64]:
    """``(N,)`` P(road) of all tiles of a source, with a progress bar.

    Args:
        source: The tiles.
        subject: A road classifier.
        target: The class that is explained; P(road) does not depend on it.

    Raises:
        UserError: There is no such class, an image cannot be read, or a probability is not a
            number.
    """
    batches = in_batches(source, range(len(source.places)), "Predicting")
    return torch.cat([subject.probabilities(tiles, target)[0] for tiles in batches]).numpy()


def in_batches(source: TileSource, numbers: Sequence[int], what: str) -> Iterator[Tensor]:
    """Reads tiles in batches, with a progress bar.

    Args:
        source: Source of the tiles.
        numbers: Numbers of the tiles, in the requested order.
        what: Text before the bar.

    Yields:
        ``(n, C, H, W)`` float32, raw, on the CPU.
    """
    for start in shown_progress(range(0, len(numbers), _BATCH), what):
        yield source.read(numbers[start : start + _BATCH])
