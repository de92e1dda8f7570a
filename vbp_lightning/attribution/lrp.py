"""Layer-wise relevance propagation.

Captum's ``LRP`` refuses the road networks: it has no rule for ``AdaptiveMaxPool2d``.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from vbp_lightning.attribution.gradients import Form, over_channels
from vbp_lightning.attribution.method import Method
from vbp_lightning.attribution.relevance import RelevancePass
from vbp_lightning.attribution.scores import Target, class_scores, images_of
from vbp_lightning.records import Size

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


@dataclass(eq=False)
class Lrp(Method):
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
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
        >>> Lrp(model).attribute(torch.rand(2, 3, 8, 8), target=1).shape
        torch.Size([2, 1, 8, 8])
    """

    epsilon: Size = 1e-6
    gamma: Annotated[float, Field(ge=0)] = 0.0
    form: Form = "signed"

    def maps(self, inputs: Tensor, target: Target) -> Tensor:
        """The relevance of each pixel, in units of the score."""
        return over_channels(self.relevance(inputs, target).pixels, self.form)

    def relevance(self, inputs: Tensor, target: Target = None) -> Relevance:
        """The relevance of pixels and bands, biases and stabilisers, of all samples at once.

        Args:
            inputs: As for ``attribute``.
            target: As for ``attribute``.

        Returns:
            The relevance of each sample; its parts add up to the score.

        Raises:
            UnsupportedNetworkError: As for ``attribute``.
        """
        inputs = images_of(inputs, self.model)
        graph = self.graph(inputs)
        # Sums in half precision would lose relevance.
        images = inputs.detach().to(torch.promote_types(inputs.dtype, torch.float32))
        with (
            torch.inference_mode(mode=False),
            torch.enable_grad(),
            torch.autocast(inputs.device.type, enabled=False),
        ):
            sent = RelevancePass(graph, images, self.epsilon, self.gamma)
            output = sent.run(images)
            scores = class_scores(output, target)
            if not scores.requires_grad:
                raise sent.refusal("its output cannot be traced back to its input")
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
    pixels = found.pixels.flatten(1)
    others = torch.stack([found.biases, found.absorbed])
    missing = found.score - pixels.sum(1) - others.sum(0)
    scale = torch.maximum(pixels.abs().sum(1) + others.abs().sum(0), found.score.abs())
    lost = missing.abs() > TOLERANCE * scale
    if lost.any() or not missing.isfinite().all():
        which = int((lost | ~missing.isfinite()).nonzero()[0])
        raise sent.refusal(
            f"relevance is not conserved: of a score of {float(found.score[which]):.4g}, "
            f"{float(missing[which]):.4g} is missing"
        )
