"""The cost of the mask panels per epoch: forward pass, masks, figures, PNG files, TensorBoard.

Run with ``python benchmarks/mask_panels.py``. The 16 tiles resemble photographs, smooth shapes with
sensor noise, since noise makes PNG compression slow.
"""

import argparse
import statistics
import tempfile
import time
from types import SimpleNamespace

import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn

from vbp_lightning.attribution import UPSAMPLINGS
from vbp_lightning.callbacks import MaskPanels
from vbp_lightning.data.tiles.tile import Label, LabelledTile, Tile
from vbp_lightning.models import RoadClassifier

LIMIT_SECONDS = 0.25


class NoisyTiles:
    """Forty validation tiles with every label."""

    context = 0
    shares = (0.0, 0.02, 0.06, 0.2, 0.4) * 8

    def tiles_of(self, split):
        """Like the method of the data module."""
        labels = [Label.NON_ROAD, Label.IGNORED, Label.ROAD, Label.ROAD, Label.ROAD] * 8
        return [
            LabelledTile(Tile("scene", row, 0), (0, 0, 1, 1), share, label, split)
            for row, (share, label) in enumerate(zip(self.shares, labels, strict=True))
        ]

    def read_tiles(self, tiles):
        """Raw tiles of three bands."""
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(len(tiles), 3, 8, 8, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=96, mode="bilinear")
        return 200 * smooth + 12 * torch.randn(smooth.shape, generator=generator)


def seconds_per_epoch(architecture, upsampling, epochs):
    """Seconds that the callback takes in each epoch; the first includes the choice of tiles."""
    model = RoadClassifier(architecture, mean=[100.0] * 3, std=[60.0] * 3).train()
    panels = MaskPanels(upsampling=upsampling, tiles=16)
    with tempfile.TemporaryDirectory() as folder:
        logger = TensorBoardLogger(folder)
        trainer = SimpleNamespace(
            state=SimpleNamespace(fn=TrainerFn.FITTING),
            sanity_checking=False,
            is_global_zero=True,
            default_root_dir=folder,
            datamodule=NoisyTiles(),
            loggers=[logger],
            current_epoch=0,
        )
        durations = []
        for trainer.current_epoch in range(epochs + 1):
            start = time.perf_counter()
            panels.on_validation_end(trainer, model)
            # TensorBoard's writing thread delays the training too, so its time is included.
            logger.experiment.flush()
            durations.append(time.perf_counter() - start)
        logger.finalize("success")
    return durations


def main():
    """Prints a row for each network and upsampling."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"16 tiles, {options.threads} threads, at most {LIMIT_SECONDS} s per epoch")
    print(f"{'network':8} {'upsampling':18} {'first':>7} {'median':>7} {'worst':>7}")
    for architecture in ("strided", "maxpool"):
        for upsampling in UPSAMPLINGS:
            first, *rest = seconds_per_epoch(architecture, upsampling, options.epochs)
            print(
                f"{architecture:8} {upsampling:18} {first:7.3f} "
                f"{statistics.median(rest):7.3f} {max(rest):7.3f}"
            )


if __name__ == "__main__":
    main()
