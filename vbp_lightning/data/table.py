"""The list of a run's tiles as a file."""

import csv
from collections.abc import Iterable
from pathlib import Path

from vbp_lightning.data.scenes import LabelledTile
from vbp_lightning.files import replacing


def write_tiles(path: Path, tiles: Iterable[LabelledTile]) -> None:
    """Writes ``tiles.csv``: scene, row, col, bounds, share, label, split.

    ``bounds`` holds left, bottom, right and top with spaces between; ``label`` is ``road``,
    ``non_road`` or ``ignored``. Numbers are written so that they read back exactly.

    Args:
        path: The file to write or replace.
        tiles: Its rows, in order.

    Raises:
        OSError: The file cannot be written; an older one stays as it was.
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("scene", "row", "col", "bounds", "share", "label", "split"))
        for item in tiles:
            bounds = " ".join(repr(float(edge)) for edge in item.bounds)
            label = item.label.name.lower()
            tile = item.tile
            writer.writerow(
                (tile.scene, tile.row, tile.col, bounds, repr(item.share), label, item.split)
            )
