"""Feature maps averaged with weights for a class instead of the plain channel average."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from vbp_lightning.attribution.recording import FeatureMap, UnsupportedNetworkError
from vbp_lightning.attribution.scores import Target, class_scores, differentiable
from vbp_lightning.errors import one_line

Weighting = Literal["gradient", "channels"]


def weighted_for_class(
    maps: Sequence[FeatureMap],
    model: nn.Module,
    inputs: Tensor,
    target: Target,
    weighting: Weighting,
    skip: int = 0,
) -> tuple[FeatureMap, ...]:
    r"""Replaces the channel average of each map by an average of the evidence for a class.

    With :math:`A_c` the channels of the map and :math:`y` the score, ``gradient`` is

    .. math:: \bar f_l = \frac{1}{C} \sum_{c=1}^{C} \mathrm{ReLU}\Big(A_c \odot
              \frac{\partial y}{\partial A_c}\Big).

    The ReLU is applied inside the sum. Outside of it, channels with evidence against the class
    would set pixels to zero, and the product over the layers would set most of the mask to zero.
    ``channels`` keeps whole channels instead, including pixels whose gradient a max pooling blocks:

    .. math:: \bar f_l = \frac{1}{C} \sum_{c=1}^{C} A_c \,
              \Big[\sum_{ij} \frac{\partial y}{\partial A_{c,ij}} > 0\Big].

    Args:
        maps: The feature maps recorded for the same inputs.
        model: The network.
        inputs: ``(N, C, H, W)``.
        target: The class; see :func:`~vbp_lightning.attribution.scores.class_scores`.
        weighting: ``gradient`` or ``channels``.
        skip: Number of maps, counted from the input, that are returned unchanged; no gradient is
            computed for them.

    Returns:
        The maps with new averages.

    Raises:
        UnsupportedNetworkError: No gradient reaches the maps.
    """
    part = {"gradient": _part, "channels": _channels}[weighting]
    outputs: dict[nn.Module, list[Tensor]] = {each.module: [] for each in maps}
    uses = _uses(maps)[skip:]

    def note(module: nn.Module, _: object, output: Tensor) -> Tensor:
        if (module, len(outputs[module])) in uses and not output.requires_grad:
            output = output.detach().requires_grad_()
        outputs[module].append(output)
        return output.clone()  # the following module may change it in place

    hooks = [module.register_forward_hook(note) for module in outputs]
    try:
        with differentiable(model, inputs.device):
            scores = class_scores(model(inputs.detach().clone()), target)
            features = [outputs[module][use] for module, use in uses]
            gradients = torch.autograd.grad(
                scores.sum(), features, allow_unused=True, materialize_grads=True
            )
    except RuntimeError as error:
        raise UnsupportedNetworkError(
            f"{type(model).__name__}: no gradient at its feature maps ({one_line(error)})"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    weighted = [
        replace(each, average=part(values.detach(), gradient).to(each.average.dtype))
        for each, values, gradient in zip(maps[skip:], features, gradients, strict=True)
    ]
    return (*maps[:skip], *weighted)


def _uses(maps: Sequence[FeatureMap]) -> list[tuple[nn.Module, int]]:
    """The module of each map and the number of its earlier uses among the maps."""
    counts: Counter[nn.Module] = Counter()
    uses = []
    for each in maps:
        uses.append((each.module, counts[each.module]))
        counts[each.module] += 1
    return uses


def _part(features: Tensor, gradient: Tensor) -> Tensor:
    """Mean over channels of the positive part of features times gradient, ``(N, 1, h, w)``."""
    return (features * gradient).clamp_(min=0).mean(1, keepdim=True)


def _channels(features: Tensor, gradient: Tensor) -> Tensor:
    """Mean over channels, those without a positive sum of gradients set to zero."""
    kept = gradient.sum((2, 3), keepdim=True) > 0
    return (features * kept).mean(1, keepdim=True)
