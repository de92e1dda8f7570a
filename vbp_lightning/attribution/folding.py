"""Batch norms folded into the convolutions before them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Slot = tuple[Mapping[str, Tensor | None], str]


class Folding:
    """The weights of some convolutions, each with the batch norm behind it folded in.

    They are kept from one call to the next and compared with the model's own values in each: a
    version counter does not tell, since ``weight.data`` and NumPy views change weights unseen.

    Args:
        pairs: Each convolution with its batch norm, which is None where there is none to fold.
    """

    def __init__(self, pairs: Sequence[tuple[nn.Conv2d, nn.BatchNorm2d | None]]) -> None:
        self._pairs = pairs
        self._weights: list[Slot] = [(conv._parameters, "weight") for conv, _ in pairs]
        self._vectors: list[Slot] = []
        for conv, norm in pairs:
            self._vectors.append((conv._parameters, "bias"))
            if norm is not None:
                self._vectors += [(norm._parameters, name) for name in ("weight", "bias")]
                self._vectors += [(norm._buffers, f"running_{name}") for name in ("mean", "var")]
        self._kept: tuple[list[bool], list[Tensor]] | None = None
        self._folded: list[tuple[Tensor, Tensor | None]] = []

    def folded(self) -> list[tuple[Tensor, Tensor | None]]:
        """Weight and bias of each convolution as they are to be used now."""
        vectors = [each[name] for each, name in self._vectors]
        absent = [vector is None for vector in vectors]
        present = [vector for vector in vectors if vector is not None]
        # Joined, since one comparison is cheaper than four a layer.
        values = [torch.cat(present)] if present else []
        values += [weight for each, name in self._weights if (weight := each[name]) is not None]
        if self._kept is None or self._kept[0] != absent or not _equal(self._kept[1], values):
            self._folded = [_fold(conv, norm) for conv, norm in self._pairs]
            self._kept = absent, [value.detach().clone() for value in values]
        return self._folded


def _equal(before: list[Tensor], now: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(before, now, strict=True))


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    weight, bias = conv.weight.detach(), conv.bias
    if norm is not None:
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        factor = (var + norm.eps).rsqrt_()
        if norm.weight is not None:
            factor = factor * norm.weight
        if bias is not None:
            mean = mean - bias
        shift = torch.zeros_like(mean) if norm.bias is None else norm.bias
        weight = weight * factor.view(-1, 1, 1, 1)
        bias = torch.addcmul(shift, mean, factor, value=-1)
    bias = None if bias is None else bias.detach().clone()
    # A pointwise convolution takes on the layout of its input, which is not always channels last.
    pointwise = conv.kernel_size == (1, 1)
    layout = torch.contiguous_format if pointwise else torch.channels_last
    return weight.clone(memory_format=layout), bias
