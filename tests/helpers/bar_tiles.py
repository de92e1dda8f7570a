"""Tiles with a bright bar as the road, and fits on them: what the tests of callbacks share."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

from vbp_lightning.data.tiles.tile import Label, LabelledTile, Tile
from vbp_lightning.models import RoadClassifier

SIZE = 32


class BarTiles(pl.LightningDataModule):
    """Noise, and a bright bar of some rows as the road, of 32 rows in all.

    Args:
        bars: Rows of each tile's bar. From 3 on the tile is road, below it is ignored.
        bands: Number of bands.
    """

    def __init__(self, bars=(0, 1, 4, 8, 15, 0, 1, 2, 6, 12) * 4, bands=3):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.bars = bars
        self.tiles = torch.rand(len(bars), bands, SIZE, SIZE, generator=generator)
        self.masks = torch.zeros(len(bars), SIZE, SIZE, dtype=torch.bool)
        for mask, rows in zip(self.masks, bars, strict=True):
            first = 4 if rows < SIZE else 0
            mask[first : first + rows] = True
        self.tiles += self.masks[:, None]
        self.reads = 0
        self.context = 0

    def tiles_of(self, split):
        assert split == "val"
        return [
            LabelledTile(
                Tile("scene", row * SIZE, 0), (0, 0, 1, 1), rows / SIZE, label(rows), split
            )
            for row, rows in enumerate(self.bars)
        ]

    def _rows(self, tiles):
        return [tile.tile.row // SIZE for tile in tiles]

    def read_tiles(self, tiles):
        self.reads += 1
        return self.tiles[self._rows(tiles)].clone()

    def read_road_masks(self, tiles):
        return self.masks[self._rows(tiles)]

    def loader(self, shuffle):
        labels = torch.tensor([int(tile.label) for tile in self.tiles_of("val")])
        keep = labels >= 0
        return DataLoader(TensorDataset(self.tiles[keep], labels[keep]), 8, shuffle=shuffle)

    def train_dataloader(self):
        return self.loader(shuffle=True)

    def val_dataloader(self):
        return self.loader(shuffle=False)


def label(rows):
    return Label.ROAD if rows >= 3 else Label.IGNORED if rows else Label.NON_ROAD


def model_of(bands=3, architecture="strided"):
    torch.manual_seed(1)
    return RoadClassifier(architecture, mean=[0.5] * bands, std=[0.5] * bands)


def trainer_of(folder, *callbacks, epochs=2, **options):
    options = {
        "logger": TensorBoardLogger(folder, name="", version=""),
        "enable_checkpointing": False,
        **options,
    }
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )


def fit(folder, *callbacks, datamodule=None, model=None, **options):
    """A fit of two epochs from a fixed seed; returns trainer, model and data module."""
    trainer = trainer_of(folder, *callbacks, **options)
    model, datamodule = model or model_of(), datamodule or BarTiles()
    torch.manual_seed(5)
    trainer.fit(model, datamodule=datamodule)
    for logger in trainer.loggers:
        logger.finalize("success")
    return trainer, model, datamodule
