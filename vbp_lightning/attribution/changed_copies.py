"""Attributions from the gradients at changed copies of each image."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from torch import Tensor

from vbp_lightning.attribution.gradients import Form, over_channels
from vbp_lightning.attribution.method import CopiesMethod
from vbp_lightning.attribution.scores import Target, class_scores
from vbp_lightning.records import PositiveCount, Seed, Size


@dataclass(eq=False)
class IntegratedGradients(CopiesMethod):
    r"""Integrated gradients (Sundararajan, Taly and Yan 2017, equation 1).

    .. math:: (x - x_0) \odot \int_0^1 \frac{\partial y}{\partial x}\big(x_0 + t\,(x - x_0)\big)\,dt

    with :math:`x_0` a baseline. The sum over pixels and channels is the difference of the two
    scores.

    Args:
        model: Any classifier; it is not changed.
        baseline: ``mean``, each image's own mean colour, or ``zero``.
        steps: Number of points on the line.
        form: How channels are reduced to one value; ``signed`` keeps the sum.
        chunk: Points per pass.
    """

    baseline: Literal["mean", "zero"] = "mean"
    steps: PositiveCount = 32
    form: Form = "signed"

    def map_of(self, network: Callable[[Tensor], object], image: Tensor, target: Target) -> Tensor:
        """Averages the gradient along the line."""
        mean = image.mean(dim=(2, 3), keepdim=True) if self.baseline == "mean" else 0
        captum = CaptumIntegratedGradients(lambda images: class_scores(network(images), target))
        relevance = captum.attribute(
            image.detach().clone(),
            baselines=torch.zeros_like(image) + mean,
            n_steps=self.steps,
            internal_batch_size=self.chunk,
        )
        return over_channels(relevance, self.form)


@dataclass(eq=False)
class SmoothGrad(CopiesMethod):
    r"""SmoothGrad (Smilkov et al. 2017): saliency averaged over noisy copies.

    .. math:: \frac1n \sum_{k=1}^n \frac{\partial y}{\partial x}(x + \sigma \epsilon_k),
              \quad \epsilon_k \sim \mathcal N(0, 1).

    Args:
        model: Any classifier; it is not changed.
        samples: Number of noisy copies of each image.
        noise: Standard deviation of the noise as a share of the range of each image's values.
        form: How channels are reduced to one value, see
            :func:`~vbp_lightning.attribution.gradients.over_channels`.
        seed: Seed of the noise, which is the same for all images.
        chunk: Noisy copies per pass.
    """

    samples: PositiveCount = 16
    noise: Size = 0.1
    form: Form = "absolute"
    seed: Seed = 0
    chunk: PositiveCount = field(default=64, kw_only=True)

    def map_of(self, network: Callable[[Tensor], object], image: Tensor, target: Target) -> Tensor:
        """Averages the gradient over the copies."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.samples, *image.shape[1:])
        noise = torch.randn(shape, generator=generator, dtype=torch.float32).to(image)
        copies = image + self.noise * (image.max() - image.min()) * noise
        total = torch.zeros_like(image, dtype=torch.promote_types(image.dtype, torch.float32))
        for part in torch.split(copies, self.chunk):
            with torch.enable_grad():
                score = class_scores(network(part.requires_grad_()), target).sum()
                (gradient,) = torch.autograd.grad(score, part)
            total += gradient.sum(0, keepdim=True, dtype=total.dtype)
        return over_channels(total / self.samples, self.form)
