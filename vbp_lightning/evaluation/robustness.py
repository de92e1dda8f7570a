"""Robustness: whether a saliency map stays while the image changes imperceptibly."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vbp_lightning.evaluation.sanity import rank_correlation

Maps = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]

NOISE = 0.02
"""Standard deviation of the noise, as a share of that of each band: about one of 255 levels."""

BRIGHTNESS = 0.1
"""How much brighter and darker tiles are made, in standard deviations of each band."""

EQUAL = 0.02
"""Largest change of P(road) of a tile that counts as equal."""


def changed_tiles(tiles: Tensor, draws: int = 3, seed: int = 0) -> dict[str, list[Tensor]]:
    """Copies of tiles that a person hardly tells apart: with noise, and brighter or darker.

    Args:
        tiles: ``(N, C, H, W)``, raw.
        draws: Number of noisy copies.
        seed: Seed of the noise.

    Returns:
        ``noise`` and ``brightness``, copies of all tiles each.
    """
    spread = tiles.double().std((0, 2, 3), keepdim=True).to(tiles)
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(tiles.shape, generator=generator).to(tiles) for _ in range(draws)]
    return {
        "noise": [tiles + NOISE * spread * each for each in noise],
        "brightness": [tiles + sign * BRIGHTNESS * spread for sign in (-1, 1)],
    }


def robustness(
    explain: Callable[[Tensor], Maps],
    probability: Callable[[Tensor], Floats],
    tiles: Tensor,
    changed: list[Tensor],
) -> Floats:
    """The rank correlation of the map of each tile with those of its copies, at equal P(road).

    Args:
        explain: Tiles ``(N, C, H, W)`` to maps ``(N, H, W)``.
        probability: Tiles to P(road), ``(N,)``.
        tiles: ``(N, C, H, W)``.
        changed: Copies of all tiles, see :func:`changed_tiles`.

    Returns:
        ``(N,)`` means over the copies whose P(road) differs from that of the tile by at most 0.02;
        not a number if there is none. 1 is a map that does not change; a constant map has 0.
    """
    maps, before = explain(tiles), probability(tiles)
    total, count = np.zeros(len(tiles)), np.zeros(len(tiles))
    for copies in changed:
        equal = np.abs(probability(copies) - before) <= EQUAL
        total += equal * rank_correlation(maps, explain(copies))
        count += equal
    means: Floats = np.full(len(tiles), np.nan)
    np.divide(total, count, out=means, where=count > 0)
    return means
