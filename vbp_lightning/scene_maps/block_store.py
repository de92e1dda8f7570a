"""Temporary storage of the raw maps of a scene, one file per block, until the rasters are written.

Each block is written atomically to its own file. Processes on several machines can therefore write
to a shared folder at the same time, and blocks computed before a crash are not computed again.
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
"""Approximate number of pixels that percentiles are computed from."""


@dataclass(frozen=True)
class Range:
    """The range of the values of a VisualBackProp mask.

    Args:
        lowest: Smallest value.
        highest: Largest value.
        percentile: The requested percentile of the values.
    """

    lowest: float
    highest: float
    percentile: float


class BlockStore:
    """The blocks of one scene in a folder.

    Args:
        folder: Created by :meth:`prepare`.
        blocks: All blocks of the scene.
    """

    def __init__(self, folder: Path, blocks: Sequence[Block]) -> None:
        self.folder = folder
        self.blocks = blocks
        self._note = folder / "settings.json"

    def prepare(self, settings: Mapping[str, str], origin: Mapping[str, str]) -> None:
        """Creates the folder; one process calls it before any process uses the blocks.

        Args:
            settings: What the values depend on; stored blocks of other settings are deleted.
            origin: Tags that the values do not depend on.
        """
        if self.folder.exists() and not settings.items() <= self.tags().items():
            shutil.rmtree(self.folder)
        with replacing(self._note, subfolder=True) as temporary:
            temporary.write_text(json.dumps({**settings, **origin}))

    def tags(self) -> dict[str, str]:
        """The settings and the origin of the stored blocks; empty if there are none."""
        try:
            tags: dict[str, str] = json.loads(self._note.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return tags

    def missing(self) -> list[int]:
        """Indices of the blocks that are not stored yet."""
        return [index for index, block in enumerate(self.blocks) if not self._path(block).exists()]

    def write(self, block: Block, maps: BlockMaps) -> None:
        """Stores the maps of a block."""
        with replacing(self._path(block)) as temporary:
            np.savez(temporary, probability=maps.probability, mask=maps.mask)

    def read(self) -> Iterator[tuple[Block, BlockMaps]]:
        """Yields all blocks in order with their maps."""
        for block in self.blocks:
            with np.load(self._path(block)) as stored:
                yield block, BlockMaps(stored["probability"], stored["mask"])

    def mask_range(self, percent: float) -> Range | None:
        """The range of the scene's VisualBackProp mask; None if it holds no value.

        The percentile is computed over every n-th row and column, about a million pixels, and does
        not depend on the size of the blocks.

        Args:
            percent: Percentile to compute, in (0, 100].
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
