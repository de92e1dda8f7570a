"""Activations averaged with weights for a class instead of the plain channel average."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from vbp_lightning.attribution.gradients import score_gradients
from vbp_lightning.attribution.scores import Target
from vbp_lightning.graph.network_graph import NetworkGraph, Step
from vbp_lightning.graph.running import average

Weighting = Literal["gradient", "channels"]


def averages_for_class(
    graph: NetworkGraph,
    inputs: Tensor,
    target: Target,
    weighting: Weighting,
    activations: Sequence[Step],
) -> dict[Step, Tensor]:
    r"""Averages of the evidence for a class, in place of the channel averages of activations.

    With :math:`A_c` the channels of the map and :math:`y` the score, ``gradient`` is

    .. math:: \bar f_l = \frac{1}{C} \sum_{c=1}^{C} \mathrm{ReLU}\Big(A_c \odot
              \frac{\partial y}{\partial A_c}\Big).

    The ReLU is applied inside the sum. Outside of it, channels with evidence against the class
    would set pixels to zero, and the product over the layers would set most of the mask to zero.
    ``channels`` keeps whole channels instead, including pixels whose gradient a max pool blocks:

    .. math:: \bar f_l = \frac{1}{C} \sum_{c=1}^{C} A_c \,
              \Big[\sum_{ij} \frac{\partial y}{\partial A_{c,ij}} > 0\Big].

    Args:
        graph: The graph of the network.
        inputs: ``(N, C, H, W)``.
        target: The class; see :func:`~vbp_lightning.attribution.scores.class_scores`.
        weighting: ``gradient`` or ``channels``.
        activations: Activations of the graph.

    Returns:
        ``(N, 1, h, w)`` for each activation.

    Raises:
        UnsupportedNetworkError: The score has no gradient at an activation.
    """
    nodes = [step.node for step in activations]
    values, gradients = score_gradients(graph, inputs, target, nodes)
    averages = {}
    for step, value, gradient in zip(activations, values, gradients, strict=True):
        if weighting == "gradient":
            evidence = value * gradient
        else:
            places = [axis for axis in range(1, value.ndim) if axis not in step.channels]
            evidence = value * (gradient.sum(places, keepdim=True) > 0)
        averages[step] = average(
            evidence, step.channels, step.order, positive=False, size=step.size
        )
    return averages
