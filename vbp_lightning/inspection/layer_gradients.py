"""The gradient of a score at the outputs of all layers, and layers with unusual gradients."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vbp_lightning.attribution.scores import Target, class_scores
from vbp_lightning.graph.meaning import State
from vbp_lightning.graph.network_graph import graph_of
from vbp_lightning.graph.running import evaluated
from vbp_lightning.inspection.layers import channels_first, is_leaf

EXPLODING = 100.0
"""A gradient explodes if its norm is over this many times that of the median layer, or not finite;
it vanishes if its norm is this many times smaller."""

RULE = (
    "dead: zero in every unit; exploding: norm over 100 times the median layer's, or not finite; "
    "vanishing: under a hundredth of it"
)

_LEAST, _MOST, _BINS_A_DECADE = -20, 20, 20
BIN_EDGES = np.linspace(_LEAST, _MOST, (_MOST - _LEAST) * _BINS_A_DECADE + 1)
"""Edges of the bins of ``LayerGradient.histogram``, log10 of the absolute value."""


@dataclass(frozen=True)
class LayerGradient:
    """The gradient of the scores at one layer's output.

    Args:
        norms: ``(N,)`` Euclidean norm for each image, score per unit of activation.
        histogram: Number of values by absolute size in ``BIN_EDGES``; smaller and larger ones
            count in the first and the last bin, zeros in no bin.
        zeros: Number of values that are exactly zero.
        dead_channels: Channels whose gradient is zero everywhere, in every image.
        channels: Number of channels, or of units of a flat layer.
    """

    norms: npt.NDArray[np.float64]
    histogram: npt.NDArray[np.int64]
    zeros: int
    dead_channels: int
    channels: int

    @property
    def zero_share(self) -> float:
        """Share of values that are exactly zero."""
        total = int(self.histogram.sum()) + self.zeros
        return self.zeros / total if total else 0.0

    def quantile(self, share: float) -> float:
        """The absolute value under which a share of the values other than zero lies.

        Args:
            share: In [0, 1].

        Returns:
            The value, exact to a twentieth of a decade; NaN if all values are zero.
        """
        total = self.histogram.sum()
        if total == 0:
            return float("nan")
        place = int(np.searchsorted(np.cumsum(self.histogram), share * total))
        return float(10 ** BIN_EDGES[min(place, len(self.histogram) - 1)])


def layer_gradients(
    model: nn.Module, batches: Iterable[Tensor], target: Target = None
) -> dict[str, LayerGradient]:
    """The gradient of each image's score at the output of every layer.

    The score is unnormalised: the gradient at the logit does not depend on the confidence.

    Args:
        model: Any classifier; left unchanged.
        batches: Images ``(N, C, H, W)``, floating point; one batch at a time is in memory.
        target: See :func:`~vbp_lightning.attribution.scores.class_scores`.

    Returns:
        Gradients by layer name in order of execution; layers without a path to
        the score are left out.
    """
    parts: dict[str, list[tuple[Tensor, npt.NDArray[np.int64], int, Tensor]]] = {}
    for batch in batches:
        for name, gradient in _gradients(model, batch, target).items():
            norms = gradient.flatten(1).double().norm(dim=1)
            histogram, zeros = _histogram(gradient)
            alive = (gradient != 0).transpose(0, 1).flatten(1).any(dim=1)
            parts.setdefault(name, []).append((norms, histogram, zeros, alive))
    return {
        name: LayerGradient(
            torch.cat([part[0] for part in found]).numpy(),
            np.sum([part[1] for part in found], axis=0),
            sum(part[2] for part in found),
            int((~torch.stack([part[3] for part in found]).any(dim=0)).sum()),
            len(found[0][3]),
        )
        for name, found in parts.items()
    }


def _gradients(model: nn.Module, inputs: Tensor, target: Target) -> dict[str, Tensor]:
    graph = graph_of(model, inputs)
    layers = {
        name: node
        for name, node in graph.outputs.items()
        if is_leaf(model, name)
        and graph.meanings[node].state is not State.CONSTANT
        and graph.values[node].is_floating_point()
        and graph.values[node].ndim > 1
    }
    nodes = list(dict.fromkeys(layers.values()))
    with torch.inference_mode(mode=False):
        images = inputs.detach().clone().requires_grad_()
        output, results = evaluated(graph, images, nodes)
        score = class_scores(output, target).sum()
        found = torch.autograd.grad(score, results, allow_unused=True) if results else ()
    gradients = {node: each for node, each in zip(nodes, found, strict=True) if each is not None}
    return {
        name: channels_first(graph, node, gradients[node]).cpu()
        for name, node in layers.items()
        if node in gradients
    }


def _histogram(gradient: Tensor) -> tuple[npt.NDArray[np.int64], int]:
    sizes = gradient.abs().flatten().cpu().double().numpy()
    zeros = int(np.count_nonzero(sizes == 0))
    finite = sizes[(sizes > 0) & np.isfinite(sizes)]
    decades = np.clip(np.log10(finite), _LEAST, _MOST)
    return np.histogram(decades, BIN_EDGES)[0].astype(np.int64), zeros


def diagnoses(norms: Mapping[str, float]) -> dict[str, str]:
    """The layers with an unusually large or small gradient.

    Args:
        norms: Mean norm of the gradient by layer.

    Returns:
        ``dead``, ``exploding`` or ``vanishing`` by layer, by the ``RULE``; others are left out.
    """
    usual = [norm for norm in norms.values() if np.isfinite(norm) and norm > 0]
    median = float(np.median(usual)) if usual else 0.0
    found = {}
    for name, norm in norms.items():
        if norm == 0:
            found[name] = "dead"
        elif not np.isfinite(norm) or norm > EXPLODING * median:
            found[name] = "exploding"
        elif norm * EXPLODING < median:
            found[name] = "vanishing"
    return found
