"""Whether an explanation depends on what it claims to explain: the network's weights."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from torch import nn

Maps = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CascadeStage:
    """One step of the cascading randomisation.

    Args:
        layer: The module that was randomised last; all behind it were before.
        part: ``head`` for what works on flat vectors, ``convolutional`` for the rest.
        model: The network as it is by then; a copy.
    """

    layer: str
    part: str
    model: nn.Module


def rank_correlation(first: Maps, second: Maps) -> Floats:
    """Spearman's rank correlation of two maps of each tile, ties at their mean rank.

    Args:
        first: ``(N, H, W)``.
        second: ``(N, H, W)``.

    Returns:
        ``(N,)`` in [-1, 1]; 0 where one of them is constant, and so orders nothing.
    """
    ranks = [
        rankdata(np.reshape(maps, (len(maps), -1)), axis=1).astype(np.float64)
        for maps in (first, second)
    ]
    centred = [each - each.mean(axis=1, keepdims=True) for each in ranks]
    product = (centred[0] * centred[1]).sum(axis=1)
    norms = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    correlations: Floats = np.zeros(len(product))
    np.divide(product, norms, out=correlations, where=norms > 0)
    return correlations


def cascade(model: nn.Module, seed: int = 0) -> list[CascadeStage]:
    """Networks randomised from the output down (Adebayo et al. 2018, section 3.1).

    Layer by layer, the one nearest to the output first and in the order in which they are
    registered, weights and biases are drawn anew as at the start of training, and a batch norm
    behind a layer, with its statistics, starts anew with it.

    Args:
        model: Found as it was left, and so is the random state.
        seed: Of the weights.

    Returns:
        One network a convolution or linear layer, each with one more randomised.

    Raises:
        ValueError: The network has neither.
    """
    drawn = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    named = [
        (name, module)
        for name, module in model.named_modules()
        if callable(getattr(module, "reset_parameters", None))
    ]
    if not any(isinstance(module, drawn) for _, module in named):
        raise ValueError("the network has no convolution and no linear layer to randomise")
    groups: list[list[str]] = []
    for name, module in named:
        if isinstance(module, drawn) or not groups:
            groups.append([])
        groups[-1].append(name)
    kinds = dict(named)
    stages: list[CascadeStage] = []
    current = model
    state = torch.get_rng_state()
    try:
        torch.manual_seed(seed)
        for group in reversed(groups):
            current = copy.deepcopy(current)
            modules = dict(current.named_modules())
            for name in group:
                modules[name].reset_parameters()
            flat = isinstance(kinds[group[0]], nn.Linear)
            stages.append(CascadeStage(group[0], "head" if flat else "convolutional", current))
    finally:
        torch.set_rng_state(state)
    return stages


def cascade_similarity(
    explain: Callable[[nn.Module], Maps], model: nn.Module, stages: Sequence[CascadeStage]
) -> Floats:
    """How much the maps of randomised networks resemble those of the trained one.

    Args:
        explain: A network's maps ``(N, H, W)``, always of the same tiles.
        model: The trained network.
        stages: Of :func:`cascade`.

    Returns:
        ``(2, stages, N)`` rank correlations, of the maps as they are and of their absolute values:
        where signs come out at random, only those can tell of places that stay (Adebayo et al. give
        both). One that stays at 1 does not depend on what was randomised.
    """
    trained = explain(model)
    found = []
    for stage in stages:
        maps = explain(stage.model)
        of_sizes = rank_correlation(np.abs(maps), np.abs(trained))
        found.append([rank_correlation(maps, trained), of_sizes])
    return np.stack(found, axis=1)
