"""Scenes and their labels, tile grids, splits, dataset layouts and the LightningDataModule."""

from vbp_lightning.data.augmentation import Augmentation
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.ground import ground_size
from vbp_lightning.data.image import CutImages, ImageReader, ResizedImages, image_files
from vbp_lightning.data.layouts import FolderScenes, LabelledImages, SpaceNetScenes, VectorScenes
from vbp_lightning.data.raster import Reading
from vbp_lightning.data.scenes import (
    SPLITS,
    DataError,
    ImageLabel,
    Label,
    LabelledTile,
    RoadWidths,
    Scene,
    Split,
    Tile,
    VectorLabels,
)
from vbp_lightning.data.stored import stored_datamodule
from vbp_lightning.data.survey import Survey
from vbp_lightning.data.synthetic import SyntheticScenes
from vbp_lightning.data.table import TILE_FIELDS, tile_fields

__all__ = [
    "SPLITS",
    "TILE_FIELDS",
    "Augmentation",
    "CutImages",
    "DataError",
    "FolderScenes",
    "ImageLabel",
    "ImageReader",
    "Label",
    "LabelledImages",
    "LabelledTile",
    "Reading",
    "ResizedImages",
    "RoadTileDataModule",
    "RoadWidths",
    "Scene",
    "SpaceNetScenes",
    "Split",
    "Survey",
    "SyntheticScenes",
    "Tile",
    "VectorLabels",
    "VectorScenes",
    "ground_size",
    "image_files",
    "stored_datamodule",
    "tile_fields",
]
