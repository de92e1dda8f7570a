"""Test-time augmentation: averages over the eight symmetric views of an image."""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

Symmetry = tuple[bool, bool, bool]
"""Whether rows are reversed, whether columns are, and whether both axes are exchanged then."""

SYMMETRIES: tuple[Symmetry, ...] = tuple(product((False, True), (False, True), (False, True)))
"""The symmetries of the square; the first one is the identity."""


def symmetric_view(images: Tensor, symmetry: Symmetry) -> Tensor:
    """``(…, h, w)`` under a symmetry: ``(…, h, w)``, or ``(…, w, h)`` if the axes are exchanged."""
    view = images.flip(_reversed_axes(symmetry))
    return view.transpose(-2, -1) if symmetry[2] else view


def undo_symmetry(maps: Tensor, symmetry: Symmetry) -> Tensor:
    """Maps of a symmetric view in the orientation of the image: inverts :func:`symmetric_view`."""
    maps = maps.transpose(-2, -1) if symmetry[2] else maps
    return maps.flip(_reversed_axes(symmetry))


def mean_over_views(probability: Callable[[Tensor], Tensor], tiles: Tensor) -> Tensor:
    """The mean of a probability over the eight symmetric views of each tile.

    Args:
        probability: Tiles ``(N, C, H, W)`` to P(road), ``(N,)``.
        tiles: ``(N, C, H, W)``, square.

    Returns:
        ``(N,)``, in [0, 1].
    """
    views = (symmetric_view(tiles, symmetry) for symmetry in SYMMETRIES)
    return torch.stack([probability(view) for view in views]).mean(dim=0)


def _reversed_axes(symmetry: Symmetry) -> tuple[int, ...]:
    return tuple(axis for axis, is_reversed in zip((-2, -1), symmetry, strict=False) if is_reversed)
