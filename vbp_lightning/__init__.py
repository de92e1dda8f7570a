"""Train road classifiers on satellite imagery and see whether they look at the road."""

from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.data import RoadTileDataModule
from vbp_lightning.models import RoadClassifier

__all__ = ["RoadClassifier", "RoadTileDataModule", "VisualBackProp"]
