"""Blocks shared out among processes by Lightning's ``Trainer.predict``."""

import time
from collections.abc import Sequence
from itertools import chain

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import DataLoader

from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.scene_maps.block_maps import Mapper
from vbp_lightning.scene_maps.block_store import Range
from vbp_lightning.scene_maps.output_grid import Block
from vbp_lightning.scene_maps.scene_job import PERCENT, SceneJob

_Work = tuple[int, int]
"""Number of the scene and of the block in it: Lightning takes batches of records apart."""

_NOTHING: _Work = (-1, -1)
"""What every process is given to do beside its blocks: where there is no batch at all, Lightning
skips the end of the prediction too, and scenes whose blocks are all there would not be written."""


class SceneMapping(pl.LightningModule):
    """Computes and writes the maps of scenes, each process its own blocks and scenes.

    Process ``r`` of ``n`` computes every n-th block from the r-th on, of all scenes together, and
    writes every n-th scene when all blocks are there. The folder of the maps is one that all
    processes share.

    Args:
        mapper: Computes blocks.
        network: What the mapper runs: moved to the process's device.
        jobs: The scenes to do.
        shared_scale: Whether all masks are scaled alike.

    Attributes:
        errors: A line for each scene that could not be read to its end; it is not written, the
            others are. At the end every process knows those of all.
    """

    def __init__(
        self, mapper: Mapper, network: nn.Module, jobs: Sequence[SceneJob], shared_scale: bool
    ) -> None:
        super().__init__()
        self.network = network
        self.mapper = mapper
        self.jobs = jobs
        self.shared_scale = shared_scale
        self.errors: list[str] = []
        self._broken: set[int] = set()
        self._own: Sequence[_Work] = ()
        self._pixels = 0
        self._seconds = 0.0
        self._bar: Progress | None = None

    def predict_dataloader(self) -> DataLoader[_Work]:
        """The blocks of this process that are still to be computed."""
        if self.trainer.is_global_zero:
            for job in self.jobs:
                job.prepare()
        self.trainer.strategy.barrier("prepared")
        work = [
            (number, block) for number, job in enumerate(self.jobs) for block in job.store.missing()
        ]
        # None counts what is missing before each of them has looked.
        self.trainer.strategy.barrier("shared out")
        own = work[self.trainer.global_rank :: self.trainer.world_size]
        self._own = own
        return DataLoader([*own, _NOTHING], batch_size=None)  # type: ignore[arg-type]  # a list will do

    def on_predict_start(self) -> None:
        """Shows a bar with the speed of this process, in megapixels a second."""
        if self.trainer.is_global_zero:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.1f}/{task.total:.1f} Mpx"),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            blocks = [self._block(work) for work in self._own]
            total = sum(block.height * block.width for block in blocks) / 1e6
            self._task = self._bar.add_task("Mapping", total=total, speed="")
            self._bar.start()

    def predict_step(self, work: _Work, index: int = 0) -> bool:
        """Computes one block; says whether it could."""
        number = work[0]
        if number == _NOTHING[0]:
            return True
        if number in self._broken:
            return False
        block = self._block(work)
        start = time.monotonic()
        try:
            self.jobs[number].compute(self.mapper, block)
        except DataError as error:
            self.errors += error.lines
            self._broken.add(number)
            return False
        self._seconds += time.monotonic() - start
        self._pixels += block.height * block.width
        if self._bar is not None:
            self._bar.update(
                self._task, completed=self._pixels / 1e6, speed=f"{self.speed:.2f} Mpx/s"
            )
        return True

    def _block(self, work: _Work) -> Block:
        return self.jobs[work[0]].store.blocks[work[1]]

    @property
    def speed(self) -> float:
        """Megapixels that this process computed in a second; 0 where it computed none."""
        return self._pixels / 1e6 / self._seconds if self._seconds else 0.0

    def on_predict_end(self) -> None:
        """Writes this process's scenes once all blocks are there."""
        if self._bar is not None:
            self._bar.stop()
        strategy = self.trainer.strategy
        strategy.barrier("computed")
        self._share_errors()
        whole = [job for job in self.jobs if not job.store.missing()]
        own = whole[self.trainer.global_rank :: self.trainer.world_size]
        strategy.barrier("counted")
        shared = None
        if self.shared_scale:
            shared = _together([job.store.mask_range(PERCENT) for job in whole])
            strategy.barrier("measured")
        for job in own:
            job.write(shared if self.shared_scale else job.store.mask_range(PERCENT))
        strategy.barrier("written")

    def _share_errors(self) -> None:
        """Tells every process of the faults that others met; each is kept once."""
        if self.trainer.world_size > 1:
            found: list[list[str]] = [[]] * self.trainer.world_size
            torch.distributed.all_gather_object(found, self.errors)
            self.errors = list(dict.fromkeys(chain(*found)))


def _together(ranges: Sequence[Range | None]) -> Range | None:
    """One range for all scenes: of percentiles, the largest."""
    known = [each for each in ranges if each is not None]
    if not known:
        return None
    return Range(
        min(each.lowest for each in known),
        max(each.highest for each in known),
        max(each.percentile for each in known),
    )
