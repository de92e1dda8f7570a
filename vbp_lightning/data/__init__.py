"""Scenes and their labels, tile grids, splits, dataset layouts and the LightningDataModule."""

from vbp_lightning.data.augmentation import Augmentation
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.massachusetts import MassachusettsScenes
from vbp_lightning.data.scenes import (
    SPLITS,
    DataError,
    Label,
    LabelledTile,
    Scene,
    Split,
    Tile,
)
from vbp_lightning.data.synthetic import SyntheticScenes

__all__ = [
    "SPLITS",
    "Augmentation",
    "DataError",
    "Label",
    "LabelledTile",
    "MassachusettsScenes",
    "RoadTileDataModule",
    "Scene",
    "Split",
    "SyntheticScenes",
    "Tile",
]
