"""Lightning callbacks: panels, explanation scores, gradients, run summary, checkpoints."""

from vbp_lightning.callbacks.checkpoints import (
    AtomicCheckpointIO,
    ResumableEarlyStopping,
    RunCheckpoint,
)
from vbp_lightning.callbacks.explanation_scores import ExplanationScores
from vbp_lightning.callbacks.gradient_monitor import GradientFlow
from vbp_lightning.callbacks.mask_panels import MaskPanels
from vbp_lightning.callbacks.run_summary import RunSummary

__all__ = [
    "AtomicCheckpointIO",
    "ExplanationScores",
    "GradientFlow",
    "MaskPanels",
    "ResumableEarlyStopping",
    "RunCheckpoint",
    "RunSummary",
]
