"""Scenes and their labels, tile grids, splits, dataset layouts and the LightningDataModule."""

from vbp_lightning.data.scenes import (
    SPLITS,
    DataError,
    Label,
    LabelledTile,
    Scene,
    Split,
    Tile,
)

__all__ = [
    "SPLITS",
    "DataError",
    "Label",
    "LabelledTile",
    "Scene",
    "Split",
    "Tile",
]
