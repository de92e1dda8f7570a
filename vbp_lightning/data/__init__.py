"""Scenes and their labels, tile grids, splits, dataset layouts and the LightningDataModule."""

from importlib import import_module
from typing import TYPE_CHECKING

from vbp_lightning.data.augmentation import Augmentation
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
from vbp_lightning.data.survey import Survey
from vbp_lightning.data.synthetic import SyntheticScenes
from vbp_lightning.data.table import TILE_FIELDS, tile_fields

if TYPE_CHECKING:
    from vbp_lightning.data.datamodule import RoadTileDataModule
    from vbp_lightning.data.stored import stored_datamodule

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

_LATER = {"RoadTileDataModule": "datamodule", "stored_datamodule": "stored"}


def __getattr__(name: str) -> object:
    """Imports what needs Lightning when it is asked for: spawned workers do without."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
