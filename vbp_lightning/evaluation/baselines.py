"""Baselines: maps computed from the image alone. A useful explanation scores higher.

All functions take images ``(N, C, H, W)`` and return non-negative maps ``(N, 1, H, W)``;
each map is independent of the rest of the batch. ``BASELINES`` holds them as attribution methods,
which are built like any other method and ignore the network.
"""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
import torch
from scipy.ndimage import gaussian_gradient_magnitude
from torch import Tensor, nn

from vbp_lightning.attribution.scores import Target


class Attribution(Protocol):
    """An attribution method."""

    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """``(N, C, H, W)`` to relevance ``(N, 1, H, W)``."""


class Baseline:
    """A function of the image as an attribution method.

    Args:
        maps: Computes the maps.
        model: Ignored.
    """

    def __init__(self, maps: Callable[[Tensor], Tensor], model: nn.Module) -> None:
        self.maps = maps

    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """``(N, C, H, W)`` to ``(N, 1, H, W)``; the target is ignored."""
        return self.maps(inputs.detach())


def uniform(images: Tensor) -> Tensor:
    """Ones everywhere."""
    return images.new_ones(len(images), 1, *images.shape[2:])


def random_noise(images: Tensor, seed: int = 0) -> Tensor:
    """Uniform noise in [0, 1).

    Args:
        images: ``(N, C, H, W)``.
        seed: Seed of the noise, combined with the pixels: equal images get equal maps.
    """
    maps = images.new_empty(len(images), 1, *images.shape[2:])
    for image, plane in zip(images.cpu().float().contiguous(), maps, strict=True):
        noise = np.random.default_rng([seed, zlib.crc32(image.numpy().tobytes())])
        plane.copy_(torch.from_numpy(noise.random(plane.shape)))
    return maps


def brightness(images: Tensor) -> Tensor:
    """Mean of the bands in raw units, minus that of the darkest pixel."""
    bright = images.mean(dim=1, keepdim=True)
    return bright - bright.amin(dim=(2, 3), keepdim=True)


def edges(images: Tensor, sigma: float = 1.0) -> Tensor:
    """Gradient magnitude of the mean of the bands, in raw units per pixel.

    Args:
        images: ``(N, C, H, W)``.
        sigma: Standard deviation in pixels of the Gaussian that smooths the gradient.
    """
    bright = images.mean(dim=1).cpu().double().numpy()
    slopes = np.stack([gaussian_gradient_magnitude(plane, sigma) for plane in bright])
    return torch.from_numpy(slopes).to(images).unsqueeze(1)


def centre_gaussian(images: Tensor, width: float = 0.25) -> Tensor:
    """A Gaussian at the centre of the image, in (0, 1].

    Args:
        images: ``(N, C, H, W)``.
        width: Its standard deviation as a share of each side.
    """
    rows, columns = (
        torch.exp(-(((torch.arange(side) + 0.5) / side - 0.5) ** 2) / (2 * width**2))
        for side in images.shape[2:]
    )
    plane = (rows[:, None] * columns).to(images)
    return plane.expand(len(images), 1, -1, -1).clone()


BASELINES: dict[str, Callable[[nn.Module], Attribution]] = {
    "uniform": partial(Baseline, uniform),
    "random": partial(Baseline, random_noise),
    "brightness": partial(Baseline, brightness),
    "edges": partial(Baseline, edges),
    "centre_gaussian": partial(Baseline, centre_gaussian),
}
"""The baselines by name; each is built from a network."""
