"""``tiles.csv``: the list of a run's tiles."""

import csv
from collections.abc import Iterable
from pathlib import Path

from vbp_lightning.data.tiles.tile import LabelledTile
from vbp_lightning.files import replacing

TILE_FIELDS = ("scene", "row", "col", "bounds", "share", "label")
"""Columns that describe a tile in all tables of tiles."""


def tile_fields(item: LabelledTile) -> tuple[str | int, ...]:
    """The values of ``TILE_FIELDS``, numbers written so that they read back exactly.

    ``bounds`` holds left, bottom, right and top with spaces between; ``label`` is ``road``,
    ``non_road`` or ``ignored``.
    """
    bounds = " ".join(repr(float(edge)) for edge in item.bounds)
    tile = item.tile
    return tile.scene, tile.row, tile.col, bounds, repr(item.share), item.label.name.lower()


def write_tiles(path: Path, tiles: Iterable[LabelledTile]) -> None:
    """Writes ``tiles.csv``: the ``TILE_FIELDS`` and the split of each tile.

    Args:
        path: The file to write or replace.
        tiles: Its rows, in order. They are written one by one, since a data set may have millions.

    Raises:
        OSError: The file cannot be written; an older one stays as it was.
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow((*TILE_FIELDS, "split"))
        writer.writerows((*tile_fields(item), item.split) for item in tiles)
