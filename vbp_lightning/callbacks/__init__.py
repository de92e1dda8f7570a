"""Lightning callbacks: panels, explanation scores, gradients, run summary, checkpoints."""

from vbp_lightning.callbacks.averaging import PolynomialAveraging as PolynomialAveraging
from vbp_lightning.callbacks.checkpoints import AtomicCheckpointIO as AtomicCheckpointIO
from vbp_lightning.callbacks.checkpoints import ResumableEarlyStopping as ResumableEarlyStopping
from vbp_lightning.callbacks.checkpoints import RunCheckpoint as RunCheckpoint
from vbp_lightning.callbacks.explanation_scores import ExplanationScores as ExplanationScores
from vbp_lightning.callbacks.gradient_monitor import GradientFlow as GradientFlow
from vbp_lightning.callbacks.mask_panels import MaskPanels as MaskPanels
from vbp_lightning.callbacks.run_summary import RunSummary as RunSummary
