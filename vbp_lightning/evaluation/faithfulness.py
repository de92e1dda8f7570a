"""Faithfulness: whether the decision depends on the pixels with the highest relevance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vbp_lightning.attribution import class_scores
from vbp_lightning.evaluation.imputation import linear_imputation
from vbp_lightning.graph.exporting import shared_copy
from vbp_lightning.graph.running import random_state_kept

Maps = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.bool_]
Replacement = Callable[[Tensor, Pixels], Tensor]
"""Takes a tile ``(C, H, W)`` and pixels ``(H, W)``; returns the tile with these pixels removed."""

ROAD_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
"""Shares of the pixels that ROAD removes (Rong et al. 2022, section 5)."""

_BATCH = 64


@dataclass(frozen=True)
class ShiftResponse:
    """How much the score changes when pixels move (Bojarski et al. 2016, section V).

    Args:
        salient: ``(N,)`` mean absolute change if the most relevant pixels move and the rest stays.
        rest: The same if the rest moves and the most relevant pixels stay.
        whole: The same if all pixels move.
        control: The same if other pixels in the same pattern move: those at the places of the most
            relevant ones, rolled by half the tile down and to the right.
    """

    salient: Floats
    rest: Floats
    whole: Floats
    control: Floats


def pixel_ranks(relevance: Maps, seed: int = 0) -> npt.NDArray[np.int64]:
    """The rank of each pixel, 0 for the most relevant.

    Args:
        relevance: ``(N, H, W)``, any sign: evidence against the class has the last ranks.
        seed: Seed of the random order of tied pixels, which is the same for all maps.

    Returns:
        The same shape, from 0 to H·W − 1 in each map.
    """
    flat = np.asarray(relevance, dtype=np.float64).reshape(len(relevance), -1)
    chance = np.random.default_rng(seed).random(flat.shape[1])
    ranks = np.empty(flat.shape, dtype=np.int64)
    for row, places in zip(flat, ranks, strict=True):
        places[np.lexsort((chance, -row))] = np.arange(len(row))
    return ranks.reshape(np.shape(relevance))


def mean_colour(tile: Tensor, removed: Pixels) -> Tensor:
    """Replaces pixels by the mean of each band over the whole tile."""
    where = torch.from_numpy(removed).to(tile.device)
    return torch.where(where, tile.mean(dim=(1, 2), keepdim=True), tile)


def removal_curves(
    model: nn.Module,
    tiles: Tensor,
    relevance: Maps,
    shares: Sequence[float],
    replace: Replacement,
    target: int | None = None,
    least_first: bool = False,
) -> Floats:
    """The probability of the class as more and more pixels are removed.

    Args:
        model: Raw tiles to scores; left unchanged.
        tiles: ``(N, C, H, W)``, raw.
        relevance: ``(N, H, W)``.
        shares: ``(S,)`` of the pixels, in [0, 1].
        replace: Removes pixels.
        target: See :func:`~vbp_lightning.attribution.scores.class_scores`; of several classes,
            None is the likeliest one of the original tile.
        least_first: Whether the least relevant pixels are removed first.

    Returns:
        ``(N, S)`` in [0, 1].
    """
    ranks = pixel_ranks(relevance)
    pixels = ranks[0].size
    if least_first:
        ranks = pixels - 1 - ranks
    curves = np.zeros((len(tiles), len(shares)))
    for tile, places, curve in zip(tiles, ranks, curves, strict=True):
        images = [replace(tile, places < round(share * pixels)) for share in shares]
        curve[:] = _probabilities(model, torch.stack([tile, *images]), target)[1:]
    return curves


def deletion(
    model: nn.Module, tiles: Tensor, relevance: Maps, target: int | None = None, steps: int = 16
) -> Floats:
    """Area under the probability as the most relevant pixels are removed (Petsiuk et al. 2018).

    They are replaced by the mean colour of the tile. Small is good: the decision depends on few
    pixels.

    Args:
        model: Raw tiles to scores.
        tiles: ``(N, C, H, W)``, raw.
        relevance: ``(N, H, W)``.
        target: The class.
        steps: Equal parts in which they are removed.

    Returns:
        ``(N,)`` in [0, 1].
    """
    shares = np.linspace(0, 1, steps + 1).tolist()
    return _area(removal_curves(model, tiles, relevance, shares, mean_colour, target))


def insertion(
    model: nn.Module, tiles: Tensor, relevance: Maps, target: int | None = None, steps: int = 16
) -> Floats:
    """Area under the probability as the most relevant pixels are inserted into the mean colour.

    If a share of the most relevant pixels is present, the other, least relevant pixels are removed:
    it is the area under their :func:`removal_curves`. Large is good.

    Args:
        model: As for :func:`deletion`.
        tiles: As for :func:`deletion`.
        relevance: As for :func:`deletion`.
        target: As for :func:`deletion`.
        steps: As for :func:`deletion`.

    Returns:
        ``(N,)`` in [0, 1].
    """
    shares = np.linspace(0, 1, steps + 1).tolist()
    return _area(removal_curves(model, tiles, relevance, shares, mean_colour, target, True))


def road(
    model: nn.Module,
    tiles: Tensor,
    relevance: Maps,
    target: int | None = None,
    shares: Sequence[float] = ROAD_SHARES,
) -> Floats:
    """ROAD (Rong et al. 2022): pixels are removed by noisy linear imputation.

    Half the mean difference between the probability after removing the least relevant share and
    after removing the most relevant share. Large is good; the mean for a random order is 0.

    Args:
        model: Raw tiles to scores.
        tiles: ``(N, C, H, W)``, raw.
        relevance: ``(N, H, W)``.
        target: The class.
        shares: Shares of the pixels that are removed.

    Returns:
        ``(N,)`` in [-½, ½].
    """
    least, most = (
        removal_curves(model, tiles, relevance, shares, linear_imputation, target, first)
        for first in (True, False)
    )
    return np.asarray((least - most).mean(axis=1) / 2)


def shift_response(
    model: nn.Module,
    tiles: Tensor,
    relevance: Maps,
    target: int | None = None,
    area: float = 0.1,
    distances: Sequence[int] = (4, 8, 12),
) -> ShiftResponse:
    """The shift test of Bojarski et al. 2016, for the score of a class instead of steering angles.

    The most relevant pixels move to the right and to the left over a fixed background, and the
    pixels that they leave are imputed linearly; then all others move; then all pixels. If the
    decision depends on the most relevant pixels, moving them changes the score as much as moving
    all, and moving the others changes it little. The area is the same for every method.

    Args:
        model: Raw tiles to scores.
        tiles: ``(N, C, H, W)``, raw.
        relevance: ``(N, H, W)``.
        target: The class.
        area: Share of the most relevant pixels.
        distances: Lengths of the moves in pixels, each in both directions; the border column is
            repeated where a shift leaves pixels empty.

    Returns:
        Changes in units of the score.
    """
    salient = pixel_ranks(relevance) < round(area * relevance.shape[1] * relevance.shape[2])
    moves = [move for distance in distances for move in (distance, -distance)]
    totals = np.zeros((4, len(tiles)))
    for index, (tile, chosen) in enumerate(zip(tiles, salient, strict=True)):
        rolled = np.roll(chosen, (chosen.shape[0] // 2, chosen.shape[1] // 2), (0, 1))
        without, elsewhere = (linear_imputation(tile, each, noise=0) for each in (chosen, rolled))
        images = [tile]
        for move in moves:
            whole = _moved(tile, move)
            images += [
                _merged(_moved_pixels(chosen, move), whole, without),
                _merged(chosen, tile, _moved(without, move)),
                whole,
                _merged(_moved_pixels(rolled, move), whole, elsewhere),
            ]
        scores = _scores(model, torch.stack(images), target)
        changes = np.abs(scores[1:] - scores[0]).reshape(len(moves), 4)
        totals[:, index] = changes.mean(axis=0)
    return ShiftResponse(*totals)


def _moved(tile: Tensor, move: int) -> Tensor:
    """A tile shifted to the right (``move`` > 0) or left, the column at the border repeated."""
    width = tile.shape[2]
    return tile[:, :, (torch.arange(width, device=tile.device) - move).clamp(0, width - 1)]


def _moved_pixels(chosen: Pixels, move: int) -> Pixels:
    width = chosen.shape[1]
    return chosen[:, (np.arange(width) - move).clip(0, width - 1)]


def _merged(chosen: Pixels, tile: Tensor, background: Tensor) -> Tensor:
    return torch.where(torch.from_numpy(chosen).to(tile.device), tile, background)


def _area(curves: Floats) -> Floats:
    return np.asarray((curves[:, 1:] + curves[:, :-1]).mean(axis=1) / 2)


def _outputs(model: nn.Module, images: Tensor) -> Tensor:
    model = shared_copy(model)
    with torch.no_grad(), random_state_kept(images.device):
        return torch.cat([model(part).cpu() for part in torch.split(images, _BATCH)])


def _scores(model: nn.Module, images: Tensor, target: int | None) -> Floats:
    """``(N,)`` scores of the class; of several and None, the first image's."""
    output = _outputs(model, images)
    if target is None and output.ndim == 2 and output.shape[1] > 1:
        target = int(output[0].argmax())
    return np.asarray(class_scores(output, target).double().numpy())


def _probabilities(model: nn.Module, images: Tensor, target: int | None) -> Floats:
    output = _outputs(model, images)
    if output.ndim == 1 or output.shape[1] == 1:
        return np.asarray(class_scores(output, target).double().sigmoid().numpy())
    wanted = int(output[0].argmax()) if target is None else target
    return np.asarray(output.double().softmax(dim=1)[:, wanted].numpy())
