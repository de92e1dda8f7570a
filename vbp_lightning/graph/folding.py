"""Batch norms folded into the preceding convolutions."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights

Tensors = Sequence[Tensor | None]


class Folding:
    """The weights of convolutions with the batch norms behind them folded in.

    The folded weights are cached and recomputed when a value of the network differs. Version
    counters do not suffice: changes through ``weight.data`` and NumPy views do not increment them.

    Args:
        pairs: For each convolution its weight and bias and, if a batch norm is folded in, weight,
            bias, mean and variance of that one, and what it adds to the variance.
    """

    def __init__(self, pairs: Sequence[tuple[Tensors, float | None]]) -> None:
        self._pairs = pairs
        self._kept: tuple[list[bytes | None], list[Tensor | None]] = [], []

    def folded(self) -> list[Tensor | None]:
        """Folded weight and bias of each convolution in turn, for the network's present values."""
        # Bytes are the fastest to compare.
        values = [
            None if value is None else value.detach().numpy().tobytes()
            for tensors, _ in self._pairs
            for value in tensors
        ]
        known, folded = self._kept
        if values != known:
            folded = [each for pair in self._pairs for each in _fold(*pair)]
            self._kept = values, folded
        return folded


def _fold(tensors: Tensors, eps: float | None) -> tuple[Tensor, Tensor | None]:
    weight, bias, scale, shift, mean, var = (
        None if each is None else each.detach() for each in (*tensors, *[None] * 6)[:6]
    )
    if eps is not None:
        fused = fuse_conv_bn_weights(weight, bias, mean, var, eps, scale, shift)  # type: ignore[arg-type]
        weight, bias = (each.detach() for each in fused)
    assert weight is not None
    # A pointwise convolution runs in the layout of its input, which is not always channels last.
    pointwise = weight.shape[2:] == (1, 1)
    layout = torch.contiguous_format if pointwise else torch.channels_last
    return weight.clone(memory_format=layout), None if bias is None else bias.clone()
