"""The raw maps of a scene, one file a block, until the rasters can be written.

Every block is a file of its own, renamed when it is whole: processes on any machine that share the
folder write beside each other, and what was computed before a crash need not be computed again.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vbp_lightning.files import replacing
from vbp_lightning.scene_maps.block_maps import BlockMaps
from vbp_lightning.scene_maps.output_grid import Block

_SAMPLE = 1 << 20
"""Pixels, about, whose values percentiles are taken from."""


@dataclass(frozen=True)
class Range:
    """Where the values of a mask lie.

    Args:
        lowest: The least.
        highest: The largest.
        percentile: What the wanted share of the values do not exceed.
    """

    lowest: float
    highest: float
    percentile: float


class BlockStore:
    """The blocks of one scene in a folder.

    Args:
        folder: Made when the first block is written.
        blocks: All blocks of the scene.
        settings: What the values depend on: blocks of other settings are thrown away.
    """

    def __init__(self, folder: Path, blocks: Sequence[Block], settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.blocks = blocks
        self._settings = json.dumps(dict(settings), sort_keys=True)

    def prepare(self) -> None:
        """Makes the folder; to be called by one process before any block is asked for."""
        note = self.folder / "settings.json"
        if self.folder.exists() and not (note.exists() and note.read_text() == self._settings):
            shutil.rmtree(self.folder)
        with replacing(note) as temporary:
            temporary.write_text(self._settings)

    def missing(self) -> list[int]:
        """Numbers of the blocks that are still to be computed."""
        return [
            number for number, block in enumerate(self.blocks) if not self._path(block).exists()
        ]

    def write(self, block: Block, maps: BlockMaps) -> None:
        """Keeps the maps of a block."""
        with replacing(self._path(block)) as temporary:
            np.savez(temporary, probability=maps.probability, mask=maps.mask)

    def read(self) -> Iterator[tuple[Block, BlockMaps]]:
        """All blocks in order."""
        for block in self.blocks:
            with np.load(self._path(block)) as kept:
                yield block, BlockMaps(kept["probability"], kept["mask"])

    def mask_range(self, percent: float) -> Range | None:
        """The range of the scene's mask; None where it has no value.

        The percentile is that of every n-th row and column, about a million pixels, and does not
        depend on the blocks.

        Args:
            percent: Of the values, in (0, 100].
        """
        lowest, highest = np.inf, -np.inf
        area = sum(block.height * block.width for block in self.blocks)
        step = max(1, int(np.sqrt(area / _SAMPLE)))
        sample = []
        for block, maps in self.read():
            mask = maps.mask
            seen = mask[np.isfinite(mask)]
            if seen.size:
                lowest, highest = min(lowest, seen.min()), max(highest, seen.max())
            part = mask[-block.row % step :: step, -block.col % step :: step]
            sample.append(part[np.isfinite(part)])
        if highest < lowest:
            return None
        values = np.concatenate(sample)
        at = float(np.percentile(values, percent)) if values.size else float(highest)
        return Range(float(lowest), float(highest), at)

    def remove(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, block: Block) -> Path:
        return self.folder / f"{block.row}_{block.col}.npz"
