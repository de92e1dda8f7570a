"""Metrics of road probabilities and the choice of the decision threshold."""

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_f1_score,
    binary_recall,
    binary_specificity,
)

from vbp_lightning.errors import UserError

METRICS = ("auroc", "average_precision", "balanced_accuracy", "f1")
"""The names of the metrics, in the order of tables."""


def numbers(scores: Tensor) -> Tensor:
    """Returns scores or probabilities of tiles unchanged.

    Raises:
        UserError: One of them is infinite or not a number.
    """
    lost = int((~scores.isfinite()).sum())
    if lost:
        raise UserError(
            f"{lost} of {scores.numel()} scores of the network are infinite or not a number:"
            " its weights are lost (ckpt, network.weights, init_from), or the imagery holds values"
            " that it cannot take (input, data.root)"
        )
    return scores


def binary_metrics(probabilities: Tensor, labels: Tensor, threshold: float) -> dict[str, float]:
    """Metrics of a road / non-road classification.

    Args:
        probabilities: ``(N,)`` float, P(road) in [0, 1].
        labels: ``(N,)`` integer, 1 for road and 0 for non-road; both classes must occur.
        threshold: A tile is classified as road if its probability is at least this.

    Returns:
        ``auroc``, ``average_precision``, ``f1`` (of road) and ``balanced_accuracy`` (the mean of
        both classes' recalls), each in [0, 1]. The first two do not depend on the threshold.
    """
    called_road = (probabilities >= threshold).long()
    return {
        "auroc": float(binary_auroc(probabilities, labels)),
        "average_precision": float(binary_average_precision(probabilities, labels)),
        "f1": float(binary_f1_score(called_road, labels)),
        "balanced_accuracy": float(
            (binary_recall(called_road, labels) + binary_specificity(called_road, labels)) / 2
        ),
    }


def best_threshold(probabilities: Tensor, labels: Tensor) -> float:
    """The decision threshold with the highest balanced accuracy.

    Only cuts between distinct probabilities differ, so each is tried once, at the midpoint of two
    neighbouring probabilities; of equally good cuts the nearest to one half is taken.

    Args:
        probabilities: ``(N,)`` float, P(road) in [0, 1].
        labels: ``(N,)`` integer, 1 for road and 0 for non-road; both classes must occur.

    Returns:
        The threshold, in (0, 1]; one half if all probabilities are equal.
    """
    ordered, order = probabilities.double().sort()
    is_road = labels[order].bool()
    recall = is_road.flip(0).cumsum(0).flip(0)[1:] / is_road.sum()
    specificity = (~is_road).cumsum(0)[:-1] / (~is_road).sum()
    is_cut = ordered[1:] > ordered[:-1]
    if not is_cut.any():
        return 0.5
    cuts = ((ordered[1:] + ordered[:-1]) / 2)[is_cut]
    accuracies = ((recall + specificity) / 2)[is_cut]
    best = cuts[torch.isclose(accuracies, accuracies.max())]
    return float(best[(best - 0.5).abs().argmin()])
