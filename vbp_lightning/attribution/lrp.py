"""Layer-wise relevance propagation.

Captum's ``LRP`` refuses the road networks: it has no rule for ``AdaptiveMaxPool2d``.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from vbp_lightning.attribution.gradients import Form, over_channels
from vbp_lightning.attribution.relevance import RelevancePass
from vbp_lightning.attribution.scores import (
    CHUNK,
    Progress,
    Target,
    class_scores,
    in_chunks,
)
from vbp_lightning.graph.network_graph import Graphs
from vbp_lightning.records import PositiveCount, Size, checked

TOLERANCE = 1e-4
"""Largest missing relevance, as a share of the total absolute relevance."""


@dataclass(frozen=True, eq=False)
class Relevance:
    """The relevance of pixels, biases and stabilisers, which adds up to the score.

    Args:
        pixels: ``(N, C, H, W)``, relevance of each pixel and band.
        biases: ``(N,)``, relevance of the biases, including those of batch norms.
        absorbed: ``(N,)``, relevance absorbed by the stabilisers.
        score: ``(N,)``, the explained score.
    """

    pixels: Tensor
    biases: Tensor
    absorbed: Tensor
    score: Tensor


class Lrp:
    r"""Layer-wise relevance propagation (Bach et al. 2015; rules of Montavon et al. 2019).

    The score is propagated backwards layer by layer. Each input of a sum receives relevance in
    proportion to its contribution:

    .. math:: R_i = \sum_k \frac{a_i w_{ik}}{z_k + \varepsilon\,\mathrm{sign}(z_k)} R_k,
              \quad z_k = \sum_i a_i w_{ik} + b_k.

    With ``gamma``, contributions to a convolution that have the sign of :math:`z_k` are weighted
    :math:`1 + \gamma` times as much as others; ``inf`` keeps only these (the z⁺ rule if all
    activations are non-negative). Batch norms are part of the preceding layer. With a negligible
    ``epsilon`` and ``gamma=0`` the result is the gradient times the standardised pixel (Ancona et
    al. 2018).

    Relevance is conserved: that of pixels, biases and stabilisers adds up to the score. Each call
    checks this, and an operation without a rule raises an error that names it. Residual additions
    distribute relevance in proportion to their summands.

    Args:
        model: Any classifier; it is not changed.
        epsilon: Stabiliser in the units of the sums, at least 0. A larger one suppresses small
            contributions and absorbs more relevance.
        gamma: Additional weight of contributions to a convolution that have the sign of its output,
            from 0 to ``inf``.
        form: How channels are reduced to one value; ``signed`` keeps the sum.
        chunk: Samples per chunk.

    Raises:
        ValueError: ``epsilon`` or ``gamma`` is negative.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
        >>> Lrp(model).attribute(torch.rand(2, 3, 8, 8), target=1).shape
        torch.Size([2, 1, 8, 8])
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        epsilon: Size = 1e-6,
        gamma: Annotated[float, Field(ge=0)] = 0.0,
        form: Form = "signed",
        chunk: PositiveCount = CHUNK,
    ) -> None:
        self._graphs = Graphs(model)
        self.epsilon = epsilon
        self.gamma = gamma
        self.form = form
        self.chunk = chunk

    def attribute(
        self, inputs: Tensor, target: Target = None, *, progress: Progress | None = None
    ) -> Tensor:
        """The relevance of each pixel.

        Args:
            inputs: ``(N, C, H, W)`` floating point, raw as the model takes them.
            target: See :func:`~vbp_lightning.attribution.scores.class_scores`.
            progress: Called with the number of samples done after each chunk.

        Returns:
            ``(N, 1, H, W)``, in units of the score.

        Raises:
            UnsupportedNetworkError: An operation of the network has no rule, or relevance is lost.
        """
        return in_chunks(
            lambda part, wanted: over_channels(self.relevance(part, wanted).pixels, self.form),
            inputs,
            target,
            self.chunk,
            progress,
        )

    def relevance(self, inputs: Tensor, target: Target = None) -> Relevance:
        """The relevance of pixels and bands, biases and stabilisers, of all samples at once.

        Args:
            inputs: As for :meth:`attribute`.
            target: As for :meth:`attribute`.

        Returns:
            The relevance of each sample; its parts add up to the score.

        Raises:
            UnsupportedNetworkError: As for :meth:`attribute`.
        """
        graph = self._graphs.of(inputs)
        with torch.inference_mode(mode=False), torch.enable_grad():
            images = inputs.detach().clone()
            sent = RelevancePass(graph, images, self.epsilon, self.gamma)
            output = sent.run(images)
            if not (isinstance(output, Tensor) and output.requires_grad and sent.pixels):
                raise sent.refusal("its output cannot be traced back to its input")
            scores = class_scores(output, target)
            ends = [sent.bias_unit, sent.epsilon_unit, *sent.pixels]
            arrived = torch.autograd.grad(
                scores.sum(), ends, allow_unused=True, materialize_grads=True
            )
        parts = [(end * gradient).detach() for end, gradient in zip(ends, arrived, strict=True)]
        result = Relevance(
            pixels=torch.stack(parts[2:]).sum(0),
            biases=parts[0],
            absorbed=parts[1],
            score=scores.detach(),
        )
        _check_conserved(result, sent)
        return result


def _check_conserved(found: Relevance, sent: RelevancePass) -> None:
    """Raises an error if relevance is lost or created."""
    pixels = found.pixels.double().flatten(1)
    others = torch.stack([found.biases, found.absorbed]).double()
    missing = found.score.double() - pixels.sum(1) - others.sum(0)
    scale = torch.maximum(pixels.abs().sum(1) + others.abs().sum(0), found.score.double().abs())
    lost = missing.abs() > TOLERANCE * scale
    if lost.any() or not missing.isfinite().all():
        which = int((lost | ~missing.isfinite()).nonzero()[0])
        raise sent.refusal(
            f"relevance is not conserved: of a score of {float(found.score[which]):.4g}, "
            f"{float(missing[which]):.4g} is missing"
        )
