"""Removal of pixels from a tile by imputation, which leaves no hole that is visible as such."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_matrix, csc_matrix, csr_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

_DIRECT, _DIAGONAL = 1 / 6, 1 / 12


def linear_imputation(
    tile: Tensor, removed: npt.NDArray[np.bool_], noise: float = 0.01, seed: int = 0
) -> Tensor:
    """Noisy linear imputation (Rong et al. 2022, "ROAD", section 4.2).

    Each removed pixel becomes the weighted mean of its eight neighbours, direct ones with 1/6 and
    diagonal ones with 1/12. Removed neighbours are unknowns of the same linear system. At the
    border the weights of the existing neighbours are scaled to the sum 1. Then noise is added, so
    that a network cannot recognise removed pixels by their smoothness.

    Args:
        tile: ``(C, H, W)``, raw.
        removed: ``(H, W)`` bool. If all are removed, each band becomes its mean.
        noise: Standard deviation of the noise, as a share of that of each band.
        seed: Seed of the noise.

    Returns:
        ``(C, H, W)`` of the same dtype; other pixels keep their values.
    """
    if not removed.any():
        return tile.clone()
    bands, height, width = tile.shape
    values = tile.detach().cpu().double().numpy().reshape(bands, -1)
    gone = removed.ravel()
    filled = values.copy()
    if gone.all():
        filled[:] = values.mean(axis=1, keepdims=True)
    else:
        weights = _weights(height, width)[gone]
        system = csc_matrix(-weights[:, gone])
        system.setdiag(1)
        known = weights[:, ~gone] @ values[:, ~gone].T
        filled[:, gone] = splu(system).solve(np.ascontiguousarray(known)).T
    rng = np.random.default_rng(seed)
    spread = noise * values.std(axis=1, keepdims=True)
    filled[:, gone] += spread * rng.standard_normal((bands, int(gone.sum())))
    return torch.from_numpy(filled.reshape(tile.shape)).to(tile)


@lru_cache(maxsize=8)
def _weights(height: int, width: int) -> csr_matrix:
    """``(H·W, H·W)``: the weight of each neighbour of each pixel; each row has the sum 1."""
    numbers = np.arange(height * width).reshape(height, width)
    rows, columns, weights = [], [], []
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            if down == right == 0:
                continue
            here = numbers[max(0, -down) : height - max(0, down)]
            here = here[:, max(0, -right) : width - max(0, right)].ravel()
            rows.append(here)
            columns.append(here + down * width + right)
            weight = _DIRECT if down == 0 or right == 0 else _DIAGONAL
            weights.append(np.full(len(here), weight))
    places = np.concatenate(rows), np.concatenate(columns)
    matrix = coo_matrix((np.concatenate(weights), places), shape=(numbers.size, numbers.size))
    matrix = matrix.tocsr()
    sums = np.asarray(matrix.sum(axis=1)).ravel()
    return matrix.multiply(1 / np.maximum(sums, 1e-12)[:, None]).tocsr()
