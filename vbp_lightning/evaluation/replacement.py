"""Replacement of an area of a tile by the pixels of other tiles, and of an equal area elsewhere."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vbp_lightning.data.tiles.evidence import feathered
from vbp_lightning.models.symmetries import SYMMETRIES, symmetric_view

Area = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.float32]


def softened(area: Area, margin: int = 3, feather: float = 1.0) -> Weights:
    """The weight of the replacing pixels: 1 on the area, falling to 0 over a soft edge.

    Args:
        area: ``(H, W)`` the pixels to replace.
        margin: Pixels that are replaced around them, so that no rim of them is left.
        feather: Standard deviation in pixels of the Gaussian that softens the edge; 0 for none.

    Returns:
        ``(H, W)`` in [0, 1].
    """
    return np.where(area, np.float32(1), feathered(area, margin, feather).clip(0, 1))


def elsewhere(
    area: Area, weights: Weights, count: int, seed: int = 0, avoided: Area | None = None
) -> tuple[Area, Weights]:
    """Areas of the same size and shape that overlap a given one as little as possible.

    Each is one of the symmetric views of the area, moved cyclically over the tile: drawn at random
    among all moves of a random view whose overlap is the smallest. Its weights are moved with it.

    Args:
        area: ``(H, W)``, square.
        weights: ``(H, W)`` of the replacing pixels, see :func:`softened`.
        count: Number of areas.
        seed: Seed of the draws.
        avoided: ``(H, W)`` what the areas overlap as little as possible; the area by default.

    Returns:
        The areas and their weights, ``(count, H, W)`` each. An area that is larger than what is not
        avoided overlaps it in part.
    """
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2((area if avoided is None else avoided).astype(np.float64))
    areas = np.empty((count, *area.shape), dtype=bool)
    moved = np.empty((count, *area.shape), dtype=np.float32)
    for rank in range(count):
        symmetry = SYMMETRIES[rng.integers(len(SYMMETRIES))]
        views = [
            symmetric_view(torch.from_numpy(each), symmetry).numpy() for each in (area, weights)
        ]
        # cross-correlation: the overlap by every cyclic move at once
        overlaps = np.fft.irfft2(spectrum * np.fft.rfft2(views[0]).conj(), area.shape).round()
        moves = np.argwhere(overlaps == overlaps.min())
        move = moves[rng.integers(len(moves))]
        areas[rank], moved[rank] = (np.roll(view, move, (0, 1)) for view in views)
    return areas, moved


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


class FlipTest(NamedTuple):
    """The result of :func:`flip_test`, ``(G,)`` each.

    Args:
        means: Mean drop of each group.
        p_values: At least 1 / (draws + 1).
        lowest: About the lowest p-value that a group of this size can have beside the others: that
            of equal drops.
    """

    means: npt.NDArray[np.float64]
    p_values: npt.NDArray[np.float64]
    lowest: npt.NDArray[np.float64]


def flip_test(
    drops: npt.NDArray[np.float64], groups: npt.NDArray[np.int64], draws: int = 999, seed: int = 0
) -> FlipTest:
    """Whether the mean drop of any group is above chance, by permutation of labels.

    A drop is P with an equal area elsewhere replaced minus P with the area replaced. If the area
    matters no more than others, both labels may be exchanged in each tile, which flips the sign of
    its drop. The statistic of a group is the sum of its drops over the root of their sum of
    squares, which no exchange changes: so groups of all sizes compare. Its p-value is the share of
    random exchanges whose largest statistic of any group reaches its own, and so holds for all
    groups together (Westfall and Young 1993).

    Args:
        drops: ``(N,)``.
        groups: ``(N,)`` the group of each, every number from 0 to the largest.
        draws: Number of random exchanges.
        seed: Seed of the exchanges.
    """
    sizes = np.bincount(groups)
    norms = np.sqrt(np.bincount(groups, drops**2))
    members = (groups[:, None] == np.arange(len(sizes))) / np.where(norms > 0, norms, 1)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, len(drops)))
    largest = (signs * drops @ members).max(axis=1)[:, None]
    p_values, lowest = (
        (1 + (largest >= each - 1e-9).sum(axis=0)) / (draws + 1)
        for each in (drops @ members, np.sqrt(sizes))
    )
    means = np.bincount(groups, drops) / sizes
    return FlipTest(means, p_values, np.maximum(lowest, 0.5**sizes))
