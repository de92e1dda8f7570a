"""Complexity: over how many pixels a saliency map spreads its relevance."""

import numpy as np
import numpy.typing as npt

from vbp_lightning.evaluation.localisation import to_largest

Maps = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]


def entropy(relevance: Maps) -> Floats:
    """Entropy of the shares of the relevance (Bhatt, Weller and Moura 2020, section 3).

    Args:
        relevance: ``(N, H, W)``, not negative.

    Returns:
        ``(N,)`` in [0, 1]: 1 is the entropy of a constant map, also for a map of zeros; 0 is that
        of a single pixel.
    """
    shares = _shares(relevance)
    logarithms = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    found: Floats = -(shares * logarithms).sum(axis=1) / np.log(shares.shape[1])
    return found


def gini(relevance: Maps) -> Floats:
    """Gini index of the relevance (Chalasani et al. 2020, "Concise explanations", section 3).

    Args:
        relevance: ``(N, H, W)``, not negative.

    Returns:
        ``(N,)`` in [0, 1): 0 for a constant map and a map of zeros, near 1 for a single pixel.
    """
    shares = np.sort(_shares(relevance), axis=1)
    count = shares.shape[1]
    weights = (count - np.arange(1, count + 1) + 0.5) / count
    found: Floats = 1 - 2 * (shares * weights).sum(axis=1)
    return found.clip(0)


def _shares(relevance: Maps) -> Floats:
    values = to_largest(np.asarray(relevance, dtype=np.float64).reshape(len(relevance), -1))
    return np.asarray(values / values.sum(axis=1, keepdims=True))
