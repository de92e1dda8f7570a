"""Scenes, imagery, tiles and the LightningDataModule.

The names below are public: Hydra configs and checkpoints name them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vbp_lightning.data.datamodule import RoadTileDataModule
    from vbp_lightning.data.datasets.folder import FolderScenes
    from vbp_lightning.data.datasets.labelled_images import LabelledImages
    from vbp_lightning.data.datasets.scene import RoadWidths
    from vbp_lightning.data.datasets.spacenet import SpaceNetScenes
    from vbp_lightning.data.datasets.vector import VectorScenes
    from vbp_lightning.data.synthetic.generator import SyntheticScenes
    from vbp_lightning.data.tiles.augmentation import Augmentation

__all__ = [
    "Augmentation",
    "FolderScenes",
    "LabelledImages",
    "RoadTileDataModule",
    "RoadWidths",
    "SpaceNetScenes",
    "SyntheticScenes",
    "VectorScenes",
]

_MODULES = {
    "Augmentation": "tiles.augmentation",
    "FolderScenes": "datasets.folder",
    "LabelledImages": "datasets.labelled_images",
    "RoadTileDataModule": "datamodule",
    "RoadWidths": "datasets.scene",
    "SpaceNetScenes": "datasets.spacenet",
    "SyntheticScenes": "synthetic.generator",
    "VectorScenes": "datasets.vector",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is asked for: DataLoader workers need no Lightning."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
