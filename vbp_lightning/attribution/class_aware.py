"""Feature maps weighted by what they do for a class, in place of their plain average."""

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
    r"""Each map's channel average replaced by the average of what speaks for a class.

    With :math:`A_c` the channels of the map and :math:`y` the score, ``gradient`` is

    .. math:: \bar f_l = \frac{1}{C} \sum_{c=1}^{C} \mathrm{ReLU}\Big(A_c \odot
              \frac{\partial y}{\partial A_c}\Big).

    The ReLU stands inside of the sum: outside, channels that speak against the class would blot out
    pixels, and soon, as one layer multiplies the other, the whole mask. ``channels`` keeps whole
    channels instead, also where a max pooling lets no gradient through:

    .. math:: \bar f_l = \frac{1}{C} \sum_{c=1}^{C} A_c \,
              \Big[\sum_{ij} \frac{\partial y}{\partial A_{c,ij}} > 0\Big].

    Args:
        maps: Of a recording of the same inputs.
        model: The network.
        inputs: ``(N, C, H, W)``.
        target: The class; see :func:`~vbp_lightning.attribution.scores.class_scores`.
        weighting: ``gradient`` or ``channels``.
        skip: How many maps to leave as they are, from the side of the input: no gradient has to
            come as far as them.

    Returns:
        The maps with new averages.

    Raises:
        UnsupportedNetworkError: The network cuts its maps off from gradients.
    """
    part = {"gradient": _part, "channels": _channels}[weighting]
    outputs: dict[nn.Module, list[Tensor]] = {each.module: [] for each in maps}
    uses = _uses(maps)[skip:]

    def note(module: nn.Module, _: object, output: Tensor) -> Tensor:
        if (module, len(outputs[module])) in uses and not output.requires_grad:
            output = output.detach().requires_grad_()
        outputs[module].append(output)
        return output.clone()  # what follows may change it in place

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
    """The module of each map, and how often it ran before: uses behind all maps come last."""
    counts: Counter[nn.Module] = Counter()
    uses = []
    for each in maps:
        uses.append((each.module, counts[each.module]))
        counts[each.module] += 1
    return uses


def _part(features: Tensor, gradient: Tensor) -> Tensor:
    """``(N, C, h, w)`` twice to ``(N, 1, h, w)``."""
    return (features * gradient).clamp_(min=0).mean(1, keepdim=True)


def _channels(features: Tensor, gradient: Tensor) -> Tensor:
    """As ``_part``, of the channels whose gradient has a positive sum."""
    kept = gradient.sum((2, 3), keepdim=True) > 0
    return (features * kept).mean(1, keepdim=True)
