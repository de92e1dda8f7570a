"""The overhead of Lightning in a training step: ``python benchmarks/training_step.py``.

Lightning and a plain loop alternate in one process with the same data module, network, optimiser,
schedule, memory format, precision and threads. A step is the time from the start of one batch to
the start of the next, including reading and augmenting tiles, progress bar and logging. The figure
is the ratio of the medians.
"""

import statistics
import tempfile
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn

from vbp_lightning import RoadClassifier, RoadTileDataModule
from vbp_lightning.callbacks import RunSummary
from vbp_lightning.data.synthetic.generator import SyntheticScenes

STEPS = 20
ROUNDS = 4
WARM_UP = 3


class StepClock(Callback):
    """Records the time at which each training batch starts."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, *_: object) -> None:
        """Records the time."""
        self.starts.append(time.perf_counter())


def intervals(starts: list[float]) -> list[float]:
    """Durations of the steps after the warm-up."""
    pairs = zip(starts[WARM_UP:], starts[WARM_UP + 1 :], strict=False)
    return [after - before for before, after in pairs]


def lightning_steps(model: RoadClassifier, data: RoadTileDataModule, folder: Path) -> list[float]:
    """Seconds per step with Lightning as set up by ``train.py``."""
    clock = StepClock()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        callbacks=[clock, RunSummary(), RichProgressBar()],
        logger=TensorBoardLogger(folder, name="", version="", default_hp_metric=False),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    trainer.fit(model, data)
    return intervals(clock.starts)


def bare_steps(model: RoadClassifier, data: RoadTileDataModule) -> list[float]:
    """Seconds per step of a plain loop."""
    network = model.network.train()
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=5e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=STEPS)
    data.trainer = None
    starts = []
    for tiles, labels in data.train_dataloader():
        starts.append(time.perf_counter())
        logits = network(tiles.contiguous(memory_format=torch.channels_last)).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return intervals(starts)


def main() -> None:
    """Prints the ratio for both networks."""
    with tempfile.TemporaryDirectory() as folder:
        data = RoadTileDataModule(
            SyntheticScenes(Path(folder) / "scenes", scenes=8, size=576),
            tiles_per_epoch=STEPS * 64,
            batch_size=64,
        )
        data.setup()
        for architecture in ("strided", "maxpool"):
            times: dict[str, list[float]] = {"lightning": [], "bare": []}
            for _ in range(ROUNDS):
                model = RoadClassifier(architecture, mean=data.mean, std=data.std)
                times["lightning"] += lightning_steps(model, data, Path(folder))
                times["bare"] += bare_steps(model, data)
            medians = {name: statistics.median(values) for name, values in times.items()}
            print(
                f"{architecture}: lightning {1e3 * medians['lightning']:.1f} ms, bare loop"
                f" {1e3 * medians['bare']:.1f} ms per step of 64 tiles,"
                f" ratio {medians['lightning'] / medians['bare']:.3f}"
                f" ({torch.get_num_threads()} threads)"
            )


if __name__ == "__main__":
    main()
