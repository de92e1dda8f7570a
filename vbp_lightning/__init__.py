"""Trains road classifiers on satellite imagery and shows which pixels their decisions use."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vbp_lightning.attribution import VisualBackProp
    from vbp_lightning.data.datamodule import RoadTileDataModule
    from vbp_lightning.models import RoadClassifier

__version__ = "0.2.0"

__all__ = ["RoadClassifier", "RoadTileDataModule", "VisualBackProp", "__version__"]

_HOMES = {
    "RoadClassifier": "vbp_lightning.models",
    "RoadTileDataModule": "vbp_lightning.data",
    "VisualBackProp": "vbp_lightning.attribution",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is asked for: Lightning alone takes seconds to import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
