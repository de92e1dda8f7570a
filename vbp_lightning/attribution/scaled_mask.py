"""Masks with an exponent of their own: products and sums over many layers without overflow."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ScaledMask:
    """A mask that is stored as ``mask`` times ``factors`` times ``2**exponent``.

    Args:
        mask: ``(N, 1, h, w)``, not negative.
        factors: ``(N, 1, 1, 1)`` each.
        exponent: ``(N, 1, 1, 1)`` int32; None for zero.
    """

    mask: Tensor
    factors: tuple[Tensor, ...] = ()
    exponent: Tensor | None = None

    def times(self, average: Tensor) -> "ScaledMask":
        """The product with an average, each sample divided by its maximum."""
        mask = self.mask * average
        largest = mask.amax((1, 2, 3), keepdim=True).clamp_min_(torch.finfo(mask.dtype).tiny)
        return ScaledMask(mask / largest, (*self.factors, largest), self.exponent)

    def raw(self) -> Tensor:
        """The mask in its own type, in which it may become zero or infinite."""
        mantissa, exponent = self._scale()
        # In two steps, since the power itself may be out of range.
        most = 2 * _most(self.mask)
        exponent = exponent.clamp(-most, most)
        half = exponent.div(2, rounding_mode="floor")
        return torch.ldexp(torch.ldexp(self.mask * mantissa, half), exponent - half)

    def normalized(self) -> Tensor:
        """Each sample scaled to [0, 1], see :func:`min_max`."""
        return min_max(self.mask)

    def _scale(self) -> tuple[Tensor, Tensor]:
        """Mantissa and exponent of the product of the factors, ``(N, 1, 1, 1)`` each."""
        one = torch.ones_like(self.mask[:, :, :1, :1])
        mantissa, exponent = _frexp(torch.cat([one, *self.factors], 1))
        total = exponent.sum(1, keepdim=True, dtype=torch.int32)
        # A type holds the product of as many mantissas as its exponent has values.
        product, rest = _frexp(mantissa.prod(1, keepdim=True))
        total = total + rest if self.exponent is None else total + rest + self.exponent
        return product, total


def sum_of(masks: Sequence[ScaledMask]) -> ScaledMask:
    """The sum of masks of one size."""
    if len(masks) == 1:
        return masks[0]
    scales = [each._scale() for each in masks]
    highest = torch.stack([exponent for _, exponent in scales]).amax(0)
    total = torch.zeros_like(masks[0].mask)
    for each, (mantissa, exponent) in zip(masks, scales, strict=True):
        lower = (exponent - highest).clamp_(min=-_most(total))
        total.addcmul_(each.mask, torch.ldexp(mantissa, lower))
    return ScaledMask(total, (), highest)


def _frexp(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mantissa, about 1 to 2, and exponent of normal positive numbers.

    ``torch.frexp`` has no counterpart in ONNX.
    """
    exponent = values.log2().floor().int()
    return values / torch.ldexp(torch.ones_like(values), exponent), exponent


def _most(mask: Tensor) -> int:
    """The largest exponent of a type whose negative is one too."""
    return 126 if mask.dtype is torch.float32 else 1022


def min_max(masks: Tensor) -> Tensor:
    """Each sample of ``(N, 1, H, W)`` scaled to [0, 1]; a constant sample gives zeros.

    A sample that is constant up to rounding counts as constant; scaling would amplify its rounding
    errors.
    """
    values = masks.flatten(1)
    lowest, highest = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    extent = highest - lowest
    extent.masked_fill_(extent <= 32 * torch.finfo(masks.dtype).eps * highest, torch.inf)
    return (values - lowest).div_(extent).view_as(masks)
