"""Procedural aerial scenes with exact road masks: something to train on before any download."""

from vbp_lightning.data.synthetic.scenes import SyntheticScenes

__all__ = ["SyntheticScenes"]
