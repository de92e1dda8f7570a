"""Trains a module of your own on tiles of roads, with VisualBackProp masks of every epoch."""

import pytorch_lightning as pl
import torch
from torch import nn

from vbp_lightning.callbacks import MaskPanels
from vbp_lightning.data import RoadTileDataModule, SyntheticScenes
from vbp_lightning.models import Normalize


class Classifier(pl.LightningModule):
    def __init__(self, mean, std):
        super().__init__()
        self.layers = nn.Sequential(Normalize(mean, std), nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU())
        self.layers += nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.layers += nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(32, 2))

    def forward(self, tiles):  # raw values, (N, 3, 96, 96), to scores of non-road and road
        return self.layers(tiles)

    def training_step(self, batch, index):
        tiles, labels = batch
        return nn.functional.cross_entropy(self(tiles), labels.long())

    def validation_step(self, batch, index):
        self.log("val_loss", self.training_step(batch, index))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 3e-3)


if __name__ == "__main__":
    data = RoadTileDataModule(SyntheticScenes("data"))
    data.setup()
    module = Classifier(data.mean, data.std)
    trainer = pl.Trainer(max_epochs=5, callbacks=[MaskPanels()], use_distributed_sampler=False)
    trainer.fit(module, datamodule=data)
