"""Replacement of an area of a tile by the pixels of other tiles, and of an equal area elsewhere."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vbp_lightning.data.tiles import evidence
from vbp_lightning.models.symmetries import SYMMETRIES, symmetric_view

Area = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.float32]


def feathered(area: Area, margin: int = 3, feather: float = 1.0) -> Weights:
    """The weight of the replacing pixels: 1 on the area, falling to 0 over a soft edge.

    Args:
        area: ``(H, W)`` the pixels to replace.
        margin: Pixels that are replaced around them, so that no rim of them is left.
        feather: Standard deviation in pixels of the Gaussian that softens the edge; 0 for none.

    Returns:
        ``(H, W)`` in [0, 1].
    """
    return np.where(area, np.float32(1), evidence.feathered(area, margin, feather).clip(0, 1))


def elsewhere(area: Area, count: int, seed: int = 0) -> Area:
    """Areas of the same size and shape that overlap a given one as little as possible.

    Each is one of the symmetric views of the area, moved cyclically over the tile: drawn at random
    among all moves of a random view whose overlap is the smallest.

    Args:
        area: ``(H, W)``, square.
        count: Number of areas.
        seed: Seed of the draws.

    Returns:
        ``(count, H, W)``. An area of more than half of the tile cannot be avoided altogether.
    """
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(area.astype(np.float64))
    found = np.empty((count, *area.shape), dtype=bool)
    for place in found:
        symmetry = SYMMETRIES[rng.integers(len(SYMMETRIES))]
        view = symmetric_view(torch.from_numpy(area), symmetry).numpy()
        # cross-correlation: the overlap by every cyclic move at once
        overlaps = np.fft.irfft2(spectrum * np.fft.rfft2(view).conj(), area.shape).round()
        moves = np.argwhere(overlaps == overlaps.min())
        place[:] = np.roll(view, moves[rng.integers(len(moves))], (0, 1))
    return found


def replaced(tile: Tensor, others: Tensor, weights: Weights | Tensor) -> Tensor:
    """A tile with part of it replaced by the same part of other tiles.

    Args:
        tile: ``(C, H, W)``.
        others: ``(R, C, H, W)``.
        weights: ``(H, W)``, or ``(R, H, W)`` of each, of the other tiles, in [0, 1].

    Returns:
        ``(R, C, H, W)``.
    """
    share = torch.as_tensor(weights).to(tile)
    share = share[:, None] if share.ndim == 3 else share
    return torch.lerp(tile.expand_as(others), others, share.expand_as(others))


def brightest(saliency: npt.NDArray[np.floating], allowed: Area, share: float) -> Area:
    """The pixels with the highest saliency outside the road.

    Args:
        saliency: ``(H, W)``, not negative.
        allowed: ``(H, W)`` pixels that may be chosen.
        share: Share of all pixels of the tile that is chosen, if so many are allowed and above 0.

    Returns:
        ``(H, W)``. Of pixels with equal saliency the first ones are chosen.
    """
    values = np.where(allowed, saliency, 0).ravel()
    order = np.argsort(-values, kind="stable")[: round(share * values.size)]
    found = np.zeros(values.size, dtype=bool)
    found[order[values[order] > 0]] = True
    return found.reshape(allowed.shape)


def flip_test(
    drops: npt.NDArray[np.float64], groups: npt.NDArray[np.int64], draws: int = 999, seed: int = 0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Whether the mean drop of any group is above chance, by permutation of labels.

    A drop is P with an equal area elsewhere replaced minus P with the area replaced. If the area
    matters no more than others, both labels may be exchanged in each tile, which flips the sign of
    its drop. The p-value of a group is the share of random exchanges whose largest mean of any
    group reaches its mean, and so holds for all groups together (Westfall and Young 1993).

    Args:
        drops: ``(N,)``.
        groups: ``(N,)`` the group of each, every number from 0 to the largest.
        draws: Number of random exchanges.
        seed: Seed of the exchanges.

    Returns:
        ``(G,)`` mean drops and ``(G,)`` p-values, at least 1 / (draws + 1).
    """
    sizes = np.bincount(groups)
    means = np.bincount(groups, drops) / sizes
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, len(drops)))
    members = (groups[:, None] == np.arange(len(sizes))) / sizes
    largest = (signs * drops @ members).max(axis=1)
    above = (largest[:, None] >= means - 1e-12).sum(axis=0)
    return means, (1 + above) / (draws + 1)
