"""Where the tiles come from that ``explain.py`` looks at: a run's own split, or images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import SPLITS, Split
from vbp_lightning.data.imagery.unlabelled import image_files
from vbp_lightning.data.stored import stored_datamodule
from vbp_lightning.data.tiles.selection import choose_by_share
from vbp_lightning.data.tiles.tile import LabelledTile, Tile
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.image_inputs import ImageReader
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.models import RoadClassifier


@dataclass(frozen=True)
class ChosenTiles:
    """Tiles to look at.

    Args:
        tiles: ``(N, C, H, W)`` float32, raw.
        places: Where each lies.
        known: Label and share of each, where the imagery has labels; else empty.
    """

    tiles: Tensor
    places: Sequence[Tile]
    known: Sequence[LabelledTile] = ()


class TileSource(Protocol):
    """Tiles that can be read in any order."""

    @property
    def places(self) -> Sequence[Tile]:
        """Where each tile lies."""

    @property
    def known(self) -> Sequence[LabelledTile]:
        """The tiles with their labels, or nothing."""

    def read(self, indices: Sequence[int]) -> Tensor:
        """``(N, C, H, W)`` float32, raw."""

    def choose(self, count: int) -> ChosenTiles:
        """Some telling tiles, the same at every call."""

    def report(self) -> None:
        """Raises a ``UserError`` with a line for each file that could not be read, if any."""


@dataclass(frozen=True)
class SplitTiles:
    """All tiles of a split of the data that a classifier was trained with.

    Args:
        datamodule: Set up.
        split: Whose tiles.
    """

    datamodule: RoadTileDataModule
    split: Split

    @property
    def known(self) -> Sequence[LabelledTile]:
        """The tiles with their labels, ignored ones included."""
        return self.datamodule.tiles_of(self.split)

    @cached_property
    def places(self) -> Sequence[Tile]:
        """Where each lies."""
        return [labelled.tile for labelled in self.known]

    def read(self, indices: Sequence[int]) -> Tensor:
        """``(N, C, H, W)`` float32, raw."""
        tiles = self.known
        return self.datamodule.read_tiles([tiles[index] for index in indices])

    def choose(self, count: int) -> ChosenTiles:
        """Tiles chosen as those of the panel: by label and road share."""
        tiles = self.known
        groups = choose_by_share(tiles, count)
        indices = [index for group in groups for index in group.indices]
        known = [tiles[index] for index in indices]
        return ChosenTiles(self.read(indices), [labelled.tile for labelled in known], known)

    def report(self) -> None:
        """The data module refuses what it cannot read."""


@dataclass
class ImageTiles:
    """All tiles of some images. One that cannot be read is left out and reported at the end.

    Args:
        reader: Makes tiles from an image.
        files: The images.

    Raises:
        UserError: None of the images can be read.
    """

    reader: ImageReader
    files: Sequence[Path]
    places: list[Tile] = field(init=False, default_factory=list)
    known: Sequence[LabelledTile] = field(init=False, default=())

    def __post_init__(self) -> None:
        self._owners: list[Path] = []
        self._of_file: dict[Path, range] = {}
        self._errors: list[str] = []
        for file in self.files:
            try:
                found = self.reader.places(file)
            except UserError as error:
                self._errors.extend(error.lines)
                continue
            self._of_file[file] = range(len(self.places), len(self.places) + len(found))
            self.places.extend(found)
            self._owners.extend([file] * len(found))
        if not self.places:
            raise UserError(*self._errors)

    def read(self, indices: Sequence[int]) -> Tensor:
        """``(N, C, H, W)`` float32, raw.

        Raises:
            UserError: An image cannot be read, or images differ in size.
        """
        parts: dict[int, Tensor] = {}
        of_file: dict[Path, list[int]] = {}
        for index in indices:
            of_file.setdefault(self._owners[index], []).append(index)
        for file, mine in of_file.items():
            tiles = self.reader.read(file, [self.places[index] for index in mine])
            parts.update(zip(mine, tiles, strict=True))
        return _side_by_side([parts[index][None] for index in indices])

    def choose(self, count: int) -> ChosenTiles:
        """Tiles spread evenly over each image, and as evenly over all, one an image at least.

        Raises:
            UserError: None of the images can be read.
        """
        files = len(self._of_file)
        tiles: list[Tensor] = []
        places: list[Tile] = []
        for number, mine in enumerate(self._of_file.values()):
            share = max(1, (number + 1) * count // files - number * count // files)
            spread = np.unique(np.linspace(0, len(mine) - 1, share).round().astype(int))
            chosen = [mine[rank] for rank in (spread if share > 1 else [len(mine) // 2])]
            try:
                tiles.append(self.read(chosen))
            except UserError as error:
                self._errors.extend(error.lines)
                continue
            places.extend(self.places[index] for index in chosen)
        if not places:
            raise UserError(*self._errors)
        return ChosenTiles(_side_by_side(tiles), places)

    def report(self) -> None:
        """Tells what was left out.

        Raises:
            UserError: A line for each image that could not be read.
        """
        if self._errors:
            raise UserError(*self._errors)


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    if len({part.shape[2:] for part in parts}) > 1:
        raise UserError(
            "the images differ in size (input): give preprocess.resize and preprocess.crop, so "
            "that they can be looked at side by side"
        )
    return torch.cat(list(parts))


def open_tiles(cfg: DictConfig, subject: Subject) -> TileSource:
    """The tiles that the config names: those of ``input``, or of a split of the run's own data.

    Args:
        cfg: The composed config of ``explain.py``: ``input`` and ``split``.
        subject: Who takes them.

    Raises:
        UserError: There are none, or the imagery cannot be used.
    """
    if not isinstance(cfg.tiles, int) or cfg.tiles < 1:
        raise UserError(f"tiles={cfg.tiles}: give a number of tiles, at least 1")
    if cfg.input is not None:
        return ImageTiles(subject.reader, image_files(Path(cfg.input)))
    if cfg.split not in SPLITS:
        raise UserError(f"split={cfg.split}: choose {', '.join(SPLITS)}")
    return SplitTiles(own_data(subject.classifier), cfg.split)


def own_data(classifier: RoadClassifier | None) -> RoadTileDataModule:
    """The data that a classifier was trained with, set up.

    Args:
        classifier: None for a foreign network, which tells nothing of its data.

    Raises:
        UserError: Nothing is known of it, or the imagery cannot be used.
    """
    if classifier is None:
        raise UserError("nothing tells which images to explain: give an image or a folder (input)")
    datamodule = stored_datamodule(classifier.hparams["data"] or {})
    datamodule.setup()
    return datamodule
