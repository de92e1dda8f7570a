"""The data module whose validation tiles the callbacks explain."""

import pytorch_lightning as pl

from vbp_lightning.data.datamodule import RoadTileDataModule


def tile_data(trainer: pl.Trainer) -> RoadTileDataModule:
    """The data module of a trainer.

    Raises:
        ValueError: It is none of tiles.
    """
    datamodule: RoadTileDataModule | None = getattr(trainer, "datamodule", None)
    if datamodule is None or not hasattr(datamodule, "tiles_of"):
        raise ValueError(
            "MaskPanels and ExplanationScores show the validation tiles of a RoadTileDataModule:"
            " call trainer.fit(module, datamodule=…) with one"
        )
    return datamodule
