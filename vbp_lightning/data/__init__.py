"""Scenes, imagery, tiles and the LightningDataModule.

The names below are public: Hydra configs and checkpoints name them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vbp_lightning.data.datamodule import RoadTileDataModule as RoadTileDataModule
    from vbp_lightning.data.datasets.labelled_images import LabelledImages as LabelledImages
    from vbp_lightning.data.datasets.pattern_scenes import PatternScenes as PatternScenes
    from vbp_lightning.data.datasets.scene import RoadWidths as RoadWidths
    from vbp_lightning.data.synthetic.generator import SyntheticScenes as SyntheticScenes
    from vbp_lightning.data.tiles.augmentation import Augmentation as Augmentation

_MODULES = {
    "Augmentation": "tiles.augmentation",
    "LabelledImages": "datasets.labelled_images",
    "PatternScenes": "datasets.pattern_scenes",
    "RoadTileDataModule": "datamodule",
    "RoadWidths": "datasets.scene",
    "SyntheticScenes": "synthetic.generator",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is used: DataLoader workers need no Lightning."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
