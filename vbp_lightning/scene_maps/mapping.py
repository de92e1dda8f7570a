"""The blocks of all scenes, distributed among processes by Lightning's ``Trainer.predict``."""

import time
from collections.abc import Sequence
from itertools import chain

import pytorch_lightning as pl
import torch
from rich.progress import Progress
from torch import nn
from torch.utils.data import DataLoader

from vbp_lightning.cli import progress_bar
from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.scene_maps.block_maps import Mapper
from vbp_lightning.scene_maps.block_store import Range
from vbp_lightning.scene_maps.output_grid import Block
from vbp_lightning.scene_maps.scene_job import PERCENT, SceneJob

_Work = tuple[int, int]
"""Index of a scene and of a block in it. Lightning would unpack a batch that is a dataclass."""

_NO_WORK: _Work = (-1, -1)
"""A batch that every process gets in addition to its blocks: without any batch Lightning also skips
``on_predict_end``, and scenes whose blocks are all stored would not be written."""


class SceneMapping(pl.LightningModule):
    """Computes and writes the maps of scenes in one or several processes.

    Process ``r`` of ``n`` computes every n-th block of all scenes, beginning with the r-th, and
    writes every n-th scene after all blocks are stored. All processes must share the output folder.

    Args:
        mapper: Computes blocks.
        network: The network that the mapper runs; the trainer moves it to the device.
        jobs: The scenes to map.
        shared_scale: Whether the VisualBackProp masks of all scenes are scaled with one range.

    Attributes:
        errors: One line for each scene that could not be read completely; such a scene is not
            written. At the end every process holds the errors of all processes.
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
        self._unreadable: set[int] = set()
        self._own: Sequence[_Work] = ()
        self._pixels = 0
        self._seconds = 0.0
        self._bar: Progress | None = None

    def predict_dataloader(self) -> DataLoader[_Work]:
        """The blocks that this process has to compute."""
        if self.trainer.is_global_zero:
            for job in self.jobs:
                job.prepare()
        self.trainer.strategy.barrier("prepared")
        work = [
            (scene, block) for scene, job in enumerate(self.jobs) for block in job.store.missing()
        ]
        # All ranks list their missing blocks before any starts.
        self.trainer.strategy.barrier("listed")
        self._own = work[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader([*self._own, _NO_WORK], batch_size=None)  # type: ignore[arg-type]  # a list is accepted

    def on_predict_start(self) -> None:
        """Shows a progress bar, in the first process only."""
        if self.trainer.is_global_zero:
            blocks = [self._block(work) for work in self._own]
            self._bar = progress_bar()
            self._bar.add_task("Mapping", total=sum(each.height * each.width for each in blocks))
            self._bar.start()

    def predict_step(self, work: _Work, index: int = 0) -> bool:
        """Computes one block; returns whether its image could be read."""
        scene = work[0]
        if scene == _NO_WORK[0]:  # the loader turns tuples into lists
            return True
        if scene in self._unreadable:
            return False
        block = self._block(work)
        start = time.monotonic()
        try:
            self.jobs[scene].compute(self.mapper, block)
        except DataError as error:
            self.errors += error.lines
            self._unreadable.add(scene)
            return False
        self._seconds += time.monotonic() - start
        self._pixels += block.height * block.width
        if self._bar is not None:
            text = f"Mapping, {self.speed:.2f} Mpx/s"
            self._bar.update(self._bar.task_ids[0], completed=self._pixels, description=text)
        return True

    def _block(self, work: _Work) -> Block:
        return self.jobs[work[0]].store.blocks[work[1]]

    @property
    def speed(self) -> float:
        """Megapixels per second that this process computed; 0 if it computed none."""
        return self._pixels / 1e6 / self._seconds if self._seconds else 0.0

    def on_predict_end(self) -> None:
        """Writes the scenes of this process after all processes have computed their blocks."""
        if self._bar is not None:
            self._bar.stop()
        strategy = self.trainer.strategy
        strategy.barrier("computed")
        for scene in range(self.trainer.global_rank, len(self.jobs), self.trainer.world_size):
            if scene not in self._unreadable:
                try:
                    self.jobs[scene].check_image()
                except DataError as error:
                    self.errors += error.lines
        self._share_errors()
        complete = [job for job in self.jobs if not job.store.missing()]
        own = complete[self.trainer.global_rank :: self.trainer.world_size]
        strategy.barrier("counted")
        shared = None
        if self.shared_scale:
            shared = _common_range([job.store.mask_range(PERCENT) for job in complete])
            strategy.barrier("measured")
        for job in own:
            job.write(shared if self.shared_scale else job.store.mask_range(PERCENT))
        strategy.barrier("written")

    def _share_errors(self) -> None:
        """Gathers the errors of all processes in each of them, without duplicates."""
        if self.trainer.world_size > 1:
            found: list[list[str]] = [[]] * self.trainer.world_size
            torch.distributed.all_gather_object(found, self.errors)
            self.errors = list(dict.fromkeys(chain(*found)))


def _common_range(ranges: Sequence[Range | None]) -> Range | None:
    """The range of all scenes together, with the largest of their percentiles; None for none."""
    known = [each for each in ranges if each is not None]
    if not known:
        return None
    return Range(
        min(each.lowest for each in known),
        max(each.highest for each in known),
        max(each.percentile for each in known),
    )
