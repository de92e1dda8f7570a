"""The road networks and the LightningModule that trains them."""

from vbp_lightning.models.checkpoint import CheckpointError, read_checkpoint
from vbp_lightning.models.classifier import RoadClassifier
from vbp_lightning.models.networks import Normalize, RoadNetwork

__all__ = ["CheckpointError", "Normalize", "RoadClassifier", "RoadNetwork", "read_checkpoint"]
