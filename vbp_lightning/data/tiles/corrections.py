"""Corrections of labels: the file in which people answer what tiles show, and what follows."""

import csv
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.datasets.text_table import read_text_table
from vbp_lightning.data.imagery.reading import SceneInfo
from vbp_lightning.data.tiles.grid import tile_bounds
from vbp_lightning.data.tiles.splits import shortened
from vbp_lightning.data.tiles.tile import ANSWERS, Answer, Label, Tile
from vbp_lightning.data.tiles.tile_table import TileTable
from vbp_lightning.files import replacing

CORRECTION_FIELDS = (
    *("scene", "row", "col", "bounds", "label", "probability", "score"),
    *("new_label", "note", "digest"),
)
"""Columns of a file of corrections."""

_NEEDED = ("scene", "row", "col", "new_label", "digest")

_LABELS = np.array([Label.ROAD, Label.NON_ROAD, Label.IGNORED, Label.IGNORED])
"""The label that follows from each of ``ANSWERS``."""

_KEY = "data.corrections"

_LONGEST = 40
"""Characters of a value that a line quotes."""


def tile_digest(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> str:
    """The digest of a tile's pixels, by which it is recognised.

    Args:
        pixels: ``(C, H, W)`` of the tile without its context, in the units of the scene; compared
            as float32, which the network gets.
        valid: ``(H, W)``; invalid pixels count as 0, since the value that they are filled with
            depends on the splits.

    Returns:
        16 hexadecimal digits. The first one is a letter, so that no spreadsheet takes the digest
        for a number.
    """
    values = np.where(valid, pixels.astype("<f4"), np.float32(0)) + np.float32(0)  # no -0
    content = repr(values.shape).encode() + np.ascontiguousarray(values).tobytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    return "abcdef"[int(digest[0], 16) % 6] + digest[1:]


def overlapping(
    positions: NDArray[np.int64], others: NDArray[np.int64], tile_size: int
) -> NDArray[np.bool_]:
    """Whether each tile shares pixels with one of the others.

    Args:
        positions: (N, 3) index of the scene, row and column.
        others: (M, 3) the same of the others.
        tile_size: Tile size in pixels.

    Returns:
        (N,).
    """
    from scipy.spatial import KDTree

    if not len(positions) or not len(others):
        return np.zeros(len(positions), bool)
    # The largest of the three differences: tiles of two scenes differ by a tile at least.
    scale = (tile_size, 1, 1)
    distances = KDTree(others * scale).query(positions * scale, p=np.inf)[0]
    near: NDArray[np.bool_] = distances < tile_size
    return near


@dataclass(frozen=True)
class Correction:
    """What a person says about a tile.

    Args:
        answer: The class of the tile; ``ignore`` and ``unsure`` leave it out.
        note: Any text.
        digest: :func:`tile_digest` of the pixels that the person saw.
        bounds: Of the tile, as ``tiles.csv`` writes them; empty if they are not known.
        row: Where it is in its file, for messages.
    """

    answer: Answer
    note: str
    digest: str
    bounds: str = ""
    row: str = ""


@dataclass(frozen=True)
class Corrections:
    """Corrections of labels, by tile.

    Args:
        by_tile: Those that are answered.
        path: Their file, for messages.
        key: The config key that named it.
        is_of_run: Whether a run has stored them: scenes that it does not hold any more are then
            reported elsewhere.
    """

    by_tile: Mapping[Tile, Correction] = field(default_factory=dict)
    path: str = ""
    key: str = _KEY
    is_of_run: bool = False

    @classmethod
    def read(cls, path: Path, of_run: bool = False) -> Self:
        """Reads a CSV with the columns ``CORRECTION_FIELDS``; rows without new label do not count.

        Args:
            path: The file. Only ``scene``, ``row``, ``col``, ``new_label`` and ``digest`` are
                needed, in any order.
            of_run: Whether a run that goes on has written it.

        Raises:
            DataError: It is no such file; one line for each error.
        """
        key = "resume" if of_run else _KEY
        table = read_text_table(path, key, "save it as CSV in UTF-8")
        if missing := [name for name in _NEEDED if name not in table]:
            raise DataError(
                f"{path}: has no column {', '.join(missing)} ({key}): give the corrections that"
                f" the gallery has saved, with the columns {', '.join(CORRECTION_FIELDS)}"
            )
        by_tile: dict[Tile, Correction] = {}
        lines = []
        for number, row in enumerate(table.to_dict("records"), 2):
            if not (answer := row["new_label"].strip()):
                continue
            place, error = f"row {number}", ""
            tile = _tile(row)
            if answer not in ANSWERS:
                error = (
                    f"says new_label {answer[:_LONGEST]!r}: give {', '.join(ANSWERS)} or nothing"
                )
            elif tile is None:
                error = (
                    f"has row {row['row'][:_LONGEST]!r} and col {row['col'][:_LONGEST]!r}, which a"
                    " spreadsheet may have changed: give whole numbers of pixels"
                )
            elif not row["digest"].strip():
                error = "has no digest: copy that of the tile from the gallery or suspects.csv"
            else:
                made = Correction(
                    cast("Answer", answer),
                    row.get("note", ""),
                    row["digest"].strip(),
                    row.get("bounds", ""),
                    place,
                )
                other = by_tile.setdefault(tile, made)
                if other.answer != answer:
                    error = f"says {answer}, {other.row} {other.answer} of the same tile: keep one"
            if error:
                lines.append(f"{path}: {place} {error} ({key})")
        if lines:
            raise DataError(*shortened(lines, f"more such rows ({key})"))
        if not by_tile:
            raise DataError(
                f"{path}: answers nothing, new_label is empty in every row ({key}): fill it in"
                f" with {', '.join(ANSWERS)}, or leave data.corrections out"
            )
        return cls(by_tile, str(path), key, of_run)

    @classmethod
    def of_checkpoint(cls, rows: Sequence[Sequence[Any]]) -> Self:
        """The corrections in a checkpoint's hyperparameters.

        Args:
            rows: As :attr:`rows` returns them.
        """
        by_tile = {Tile(*row[:3]): Correction(*row[3:]) for row in rows}
        return cls(by_tile, "the checkpoint", "ckpt", True)

    @property
    def rows(self) -> list[list[Any]]:
        """Scene, row, column, answer, note and digest of each, as plain builtins."""
        return [
            [tile.scene, tile.row, tile.col, each.answer, each.note, each.digest]
            for tile, each in self.by_tile.items()
        ]

    def write(self, path: Path) -> None:
        """Writes the CSV that :meth:`read` reads back.

        Args:
            path: The file to write or replace.

        Raises:
            OSError: The file cannot be written; an older one stays as it was.
        """
        with (
            replacing(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(CORRECTION_FIELDS)
            for tile, each in self.by_tile.items():
                place = (tile.scene, tile.row, tile.col, each.bounds)
                writer.writerow((*place, "", "", "", each.answer, each.note, each.digest))

    def unknown_scenes(self, names: Collection[str]) -> list[str]:
        """A line for each correction whose scene the data set does not hold."""
        lines = [
            self._line(
                each,
                f"is about scene {tile.scene[:_LONGEST]!r}, which the data set does not hold"
                " (data.root): remove the row, or name that data set",
            )
            for tile, each in self.by_tile.items()
            if tile.scene not in names and not self.is_of_run
        ]
        return shortened(lines, f"more rows about unknown scenes ({self.key})")

    def within(self, infos: Sequence[SceneInfo], tile_size: int) -> tuple[Self, list[str]]:
        """Leaves the corrections of some scenes.

        Args:
            infos: The scenes.
            tile_size: Tile size in pixels.

        Returns:
            Those whose tiles lie inside of one of the scenes; and a line for each that reaches
            beyond its scene.
        """
        shapes = {info.scene.name: info.grid.shape for info in infos}
        lines, kept = [], {}
        for tile, each in self.by_tile.items():
            if tile.scene not in shapes:
                continue
            height, width = shapes[tile.scene]
            if 0 <= tile.row <= height - tile_size and 0 <= tile.col <= width - tile_size:
                kept[tile] = each
            else:
                text = (
                    f"is about row {tile.row}, column {tile.col} of scene {tile.scene}, which has"
                    f" {width} × {height} px and no tile of {tile_size} px there (data.tile_size,"
                    " data.resolution): mark the tiles of this data set again"
                )
                lines.append(self._line(each, text))
        return replace(self, by_tile=kept), shortened(lines, f"more rows ({self.key})")

    def changed(
        self, digests: Sequence[str], infos: Sequence[SceneInfo], tile_size: int
    ) -> list[str]:
        """A line for each correction whose tile shows other pixels now.

        Args:
            digests: Of the tiles, in order.
            infos: Their scenes.
            tile_size: Tile size in pixels.
        """
        by_name = {info.scene.name: info for info in infos}
        lines = []
        for (tile, each), digest in zip(self.by_tile.items(), digests, strict=True):
            if each.digest == digest:
                continue
            name = f"tile {tile.row}, {tile.col} of scene {tile.scene}"
            side = _side(each.bounds, by_name[tile.scene], tile, tile_size)
            why = "is no longer the same: its pixels have changed: restore the imagery (data.root)"
            if side != tile_size:
                why = f"had {side} px, not {tile_size}: restore data.tile_size and data.resolution"
            lines.append(self._line(each, f"is about {name}, which {why}, or mark the tile again"))
        return shortened(lines, f"more rows about tiles that have changed ({self.key})")

    def positions(self, infos: Sequence[SceneInfo]) -> NDArray[np.int64]:
        """(M, 4) index of the scene, row, column and index into ``ANSWERS``, in some scenes."""
        index = {info.scene.name: number for number, info in enumerate(infos)}
        found = [
            (index[tile.scene], tile.row, tile.col, ANSWERS.index(each.answer))
            for tile, each in self.by_tile.items()
            if tile.scene in index
        ]
        return np.array(found, np.int64).reshape(-1, 4)

    def apply(self, tiles: TileTable) -> TileTable:
        """Replaces the labels of corrected tiles.

        Args:
            tiles: The tiles of a split without corrections.

        Returns:
            The tiles with corrections. Training tiles that overlap a correction, and are not
            corrected themselves, are left out.
        """
        own = self.positions(tiles.infos)
        _, here, there = np.intersect1d(
            _keys(tiles.positions), _keys(own), assume_unique=True, return_indices=True
        )
        answers, labels = tiles.answers.copy(), tiles.labels.copy()
        answers[here] = own[there, 3]
        labels[here] = _LABELS[answers[here]]
        kept = np.ones(len(tiles), bool)
        if tiles.split == "train":
            kept = (answers >= 0) | ~overlapping(tiles.positions, own[:, :3], tiles.tile_size)
        return replace(
            tiles,
            positions=tiles.positions[kept],
            shares=tiles.shares[kept],
            labels=labels[kept],
            answers=answers[kept],
        )

    def _line(self, correction: Correction, text: str) -> str:
        """A line about a correction."""
        place = f" {correction.row}" * bool(correction.row)
        return f"{self.path}:{place} {text} ({self.key})"


def _keys(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each scene, row and column."""
    scene, row, col = positions.T[:3]
    keys: NDArray[np.int64] = (scene << 48) | (row << 24) | col
    return keys


def _tile(row: Mapping[Any, str]) -> Tile | None:
    """The tile of a row of the file; None if its place is no pair of whole numbers."""
    try:
        return Tile(row["scene"], int(row["row"]), int(row["col"]))
    except ValueError:
        return None


def _side(bounds: str, info: SceneInfo, tile: Tile, tile_size: int) -> int:
    """The side in pixels that a tile of some bounds has; ``tile_size`` if they say nothing."""
    try:
        left, _, right, _ = map(float, bounds.split())
    except ValueError:
        return tile_size
    west, _, east, _ = tile_bounds(info.grid.transform, tile.row, tile.col, tile_size)
    share = (right - left) / (east - west)
    return round(share * tile_size) if 0 < share < 1000 else tile_size
