"""What an explanation must beat: maps that know nothing of the network.

Each is an attribution method like any other: ``attribute(inputs, target)`` gives ``(N, 1, H, W)``,
each sample for itself. The model is taken and left alone, so that all methods are built alike.
"""

import zlib
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from scipy.ndimage import gaussian_gradient_magnitude
from torch import Tensor, nn

from vbp_lightning.attribution.scores import Target


class Attribution(Protocol):
    """Anything that says how relevant each pixel is."""

    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """``(N, C, H, W)`` to relevance ``(N, 1, H, W)``."""


class Uniform:
    """The same relevance everywhere.

    Args:
        model: Not looked at.
    """

    def __init__(self, model: nn.Module) -> None:
        del model

    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """``(N, C, H, W)`` to ones ``(N, 1, H, W)``."""
        return inputs.new_ones(len(inputs), 1, *inputs.shape[2:])


class RandomNoise:
    """Uniform noise in [0, 1), drawn anew for each sample.

    Args:
        model: Not looked at.
        seed: Of the noise, together with the sample's own values: the same tile always gets the
            same map, whatever its batch mates.
    """

    def __init__(self, model: nn.Module, seed: int = 0) -> None:
        del model
        self.seed = seed

    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """``(N, C, H, W)`` to ``(N, 1, H, W)``."""
        maps = inputs.new_empty(len(inputs), 1, *inputs.shape[2:])
        for sample, plane in zip(inputs.detach().cpu().float().contiguous(), maps, strict=True):
            key = [self.seed, zlib.crc32(sample.numpy().tobytes())]
            noise = np.random.default_rng(key).random(plane.shape)
            plane.copy_(torch.from_numpy(noise))
        return maps


class Brightness:
    """Mean of the bands, less the darkest pixel's.

    Args:
        model: Not looked at.
    """

    def __init__(self, model: nn.Module) -> None:
        del model

    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """``(N, C, H, W)`` to ``(N, 1, H, W)`` in raw units, at least 0."""
        bright = inputs.detach().mean(dim=1, keepdim=True)
        return bright - bright.amin(dim=(2, 3), keepdim=True)


class Edges:
    """Gradient magnitude of the brightness, smoothed by a Gaussian.

    Args:
        model: Not looked at.
        sigma: Standard deviation of the Gaussian in pixels.
    """

    def __init__(self, model: nn.Module, sigma: float = 1.0) -> None:
        del model
        self.sigma = sigma

    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """``(N, C, H, W)`` to ``(N, 1, H, W)`` in raw units per pixel, at least 0."""
        bright = inputs.detach().mean(dim=1).cpu().double().numpy()
        slopes = np.zeros_like(bright)
        for plane, slope in zip(bright, slopes, strict=True):
            gaussian_gradient_magnitude(plane, self.sigma, output=slope)
        return torch.from_numpy(slopes).to(inputs).unsqueeze(1)


class CentreGaussian:
    """A Gaussian about the middle of the image: what a photographer's habit would explain.

    Args:
        model: Not looked at.
        width: Its standard deviation as a part of each side.
    """

    def __init__(self, model: nn.Module, width: float = 0.25) -> None:
        del model
        self.width = width

    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """``(N, C, H, W)`` to ``(N, 1, H, W)`` in (0, 1]."""
        rows, columns = (
            torch.exp(-(((torch.arange(side) + 0.5) / side - 0.5) ** 2) / (2 * self.width**2))
            for side in inputs.shape[2:]
        )
        plane = (rows[:, None] * columns).to(inputs)
        return plane.expand(len(inputs), 1, -1, -1).clone()


BASELINES: dict[str, Callable[[nn.Module], Attribution]] = {
    "uniform": Uniform,
    "random": RandomNoise,
    "brightness": Brightness,
    "edges": Edges,
    "centre_gaussian": CentreGaussian,
}
"""The baselines by name."""
