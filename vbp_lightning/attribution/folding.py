"""Batch norms folded into the convolutions before them."""

import torch
from torch import Tensor, nn


class Folds:
    """Convolutions with their batch norms folded in, kept from one pass to the next.

    Kept values are compared with the weights themselves in each pass: a version counter does not
    tell, since ``weight.data`` and NumPy views change weights unseen.
    """

    def __init__(self) -> None:
        self._kept: dict[nn.Conv2d, tuple[float, list[Tensor | None], Tensor, Tensor | None]] = {}

    def folded(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
        """Weight (channels last) and bias of the convolution followed by the batch norm."""
        eps = 0.0 if norm is None else norm.eps
        now = [conv.weight, conv.bias]
        if norm is not None:
            now += [norm.weight, norm.bias, norm.running_mean, norm.running_var]
        if conv in self._kept:
            kept_eps, before, weight, bias = self._kept[conv]
            if kept_eps == eps and len(before) == len(now) and all(map(_same, before, now)):
                return weight, bias
        weight, bias = (conv.weight, conv.bias) if norm is None else _fold(conv, norm)
        weight = weight.detach().clone(memory_format=torch.channels_last)
        bias = None if bias is None else bias.detach().clone()
        before = [None if each is None else each.detach().clone() for each in now]
        self._kept[conv] = eps, before, weight, bias
        return weight, bias


def _same(before: Tensor | None, now: Tensor | None) -> bool:
    if before is None or now is None:
        return before is now
    return torch.equal(before, now)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    factor = (var + norm.eps).rsqrt_()
    if norm.weight is not None:
        factor = factor * norm.weight
    if conv.bias is not None:
        mean = mean - conv.bias
    shift = torch.zeros_like(mean) if norm.bias is None else norm.bias
    return conv.weight * factor.view(-1, 1, 1, 1), torch.addcmul(shift, mean, factor, value=-1)
