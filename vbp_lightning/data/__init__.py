"""Scenes and their labels, tile grids, splits, dataset layouts and the LightningDataModule."""

from vbp_lightning.data.augmentation import Augmentation
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.image import image_tiles
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
from vbp_lightning.data.stored import stored_datamodule
from vbp_lightning.data.synthetic import SyntheticScenes
from vbp_lightning.data.table import TILE_FIELDS, tile_fields

__all__ = [
    "SPLITS",
    "TILE_FIELDS",
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
    "image_tiles",
    "stored_datamodule",
    "tile_fields",
]
