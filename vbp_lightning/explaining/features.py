"""The features that a network computes for tiles."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vbp_lightning.explaining.options import option_as_user_error
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.explaining.tile_sources import TileSource, in_batches
from vbp_lightning.inspection.layers import features_and_outputs, last_linear

Floats = npt.NDArray[np.float32]


def features_of(
    subject: Subject, source: TileSource, numbers: Sequence[int]
) -> tuple[Floats, Floats]:
    """The inputs of the last linear layer and the outputs of the network for some tiles.

    Args:
        subject: The network.
        source: Source of the tiles.
        numbers: Numbers of the tiles, at least one; all features are held in memory.

    Returns:
        ``(N, F)`` features and ``(N, K)`` logits or scores, in the order of ``numbers``.

    Raises:
        UserError: The network has no linear layer, or a tile cannot be read.
    """
    layer = None
    parts = []
    for batch in in_batches(source, numbers, "Computing features"):
        inputs = batch.to(subject.device)
        with option_as_user_error():
            layer = layer or last_linear(subject.model, inputs)
        parts.append(features_and_outputs(subject.model, layer, inputs))
    features, outputs = (np.concatenate(each) for each in zip(*parts, strict=True))
    return features, outputs
