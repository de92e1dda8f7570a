"""Batch norms folded into the preceding convolutions."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Slot = tuple[Mapping[str, Tensor | None], str]


class Folding:
    """The weights of convolutions with the batch norms behind them folded in.

    The folded weights are cached and recomputed when a value of the model differs. Version counters
    do not suffice: changes through ``weight.data`` and NumPy views do not increment them.

    Args:
        pairs: Each convolution with the batch norm behind it, or None.
    """

    def __init__(self, pairs: Sequence[tuple[nn.Conv2d, nn.BatchNorm2d | None]]) -> None:
        self._pairs = pairs
        self._slots: list[Slot] = []
        for conv, norm in pairs:
            self._slots += [(conv._parameters, name) for name in ("weight", "bias")]
            if norm is not None:
                self._slots += [(norm._parameters, name) for name in ("weight", "bias")]
                self._slots += [(norm._buffers, f"running_{name}") for name in ("mean", "var")]
        self._kept: list[bytes | None] = []
        self._folded: list[tuple[Tensor, Tensor | None]] = []

    def folded(self) -> list[tuple[Tensor, Tensor | None]]:
        """Folded weight and bias of each convolution, for the model's present values."""
        # Bytes are the fastest to compare.
        values = [
            None if (value := owner[name]) is None else value.detach().numpy().tobytes()
            for owner, name in self._slots
        ]
        if values != self._kept:
            self._folded = [_fold(conv, norm) for conv, norm in self._pairs]
            self._kept = values
        return self._folded


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
    # A pointwise convolution runs in the layout of its input, which is not always channels last.
    pointwise = conv.kernel_size == (1, 1)
    layout = torch.contiguous_format if pointwise else torch.channels_last
    return weight.clone(memory_format=layout), bias
