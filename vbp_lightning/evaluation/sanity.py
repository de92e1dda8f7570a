"""Sanity checks: whether an explanation depends on the weights of the network."""

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
        layer: The module that was randomised last; all modules behind it are randomised too.
        part: ``head`` for linear layers, ``convolutional`` for the rest.
        model: The randomised network, a copy on the device of the trained one.
    """

    layer: str
    part: str
    model: nn.Module


def rank_correlation(first: Maps, second: Maps) -> Floats:
    """Spearman's rank correlation of two maps of each tile; ties have their mean rank.

    Args:
        first: ``(N, H, W)``.
        second: ``(N, H, W)``.

    Returns:
        ``(N,)`` in [-1, 1]; 0 if one of the maps is constant.
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

    Layer by layer, in reverse order of registration, weights and biases are initialised again; a
    batch norm behind a layer is initialised with it, statistics included. The weights are drawn on
    the CPU, so that they do not depend on the device.

    Args:
        model: Left unchanged, as is the random state.
        seed: Seed of the weights.

    Returns:
        One network for each convolution or linear layer, each with one more layer randomised.

    Raises:
        ValueError: The network has no such layer.
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
    stages: list[CascadeStage] = []
    device = next(model.parameters()).device
    current = copy.deepcopy(model).cpu()
    modules = dict(current.named_modules())
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)  # of the CPU only
        for group in reversed(groups):
            for name in group:
                modules[name].reset_parameters()
            part = "head" if isinstance(modules[group[0]], nn.Linear) else "convolutional"
            stages.append(CascadeStage(group[0], part, copy.deepcopy(current).to(device)))
    return stages


def cascade_similarity(
    explain: Callable[[nn.Module], Maps], model: nn.Module, stages: Sequence[CascadeStage]
) -> Floats:
    """The similarity of the maps of randomised networks to those of the trained one.

    Args:
        explain: Computes the maps ``(N, H, W)`` of a network, always for the same tiles.
        model: The trained network.
        stages: The result of :func:`cascade`.

    Returns:
        ``(2, stages, N)`` rank correlations, of the maps and of their absolute values. If signs
        become random, only the absolute values can show that the places stay the same (Adebayo et
        al. report both). A method whose correlation stays at 1 does not depend on the randomised
        weights.
    """
    trained = explain(model)
    found = []
    for stage in stages:
        maps = explain(stage.model)
        of_sizes = rank_correlation(np.abs(maps), np.abs(trained))
        found.append([rank_correlation(maps, trained), of_sizes])
    return np.stack(found, axis=1)
