"""Datasets' layouts: each finds the scenes of a folder and their labels."""

from vbp_lightning.data.layouts.folder import FolderScenes
from vbp_lightning.data.layouts.labelled_images import LabelledImages
from vbp_lightning.data.layouts.spacenet import SpaceNetScenes
from vbp_lightning.data.layouts.vector import VectorScenes

__all__ = ["FolderScenes", "LabelledImages", "SpaceNetScenes", "VectorScenes"]
