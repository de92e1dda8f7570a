"""Trains road classifiers on satellite imagery and shows which pixels their decisions use."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vbp_lightning.attribution import VisualBackProp as VisualBackProp
    from vbp_lightning.data.datamodule import RoadTileDataModule as RoadTileDataModule
    from vbp_lightning.models import RoadClassifier as RoadClassifier

__version__ = "0.2.0"

_ROOMS = {"RoadClassifier": "models", "RoadTileDataModule": "data", "VisualBackProp": "attribution"}


def __getattr__(name: str) -> object:
    """Imports a public name when it is used: Lightning alone takes seconds to import."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
