"""Which labels are likely to be wrong, by the answers of models that did not train on the tiles."""

import numpy as np
from numpy.typing import NDArray


def suspicion(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """How little a model believes in each label: 1 - P(given label).

    Args:
        labels: ``(N,)`` 1 road, 0 non-road.
        probabilities: ``(N,)`` P(road) in [0, 1] by models that did not train on the tile.

    Returns:
        ``(N,)`` in [0, 1].
    """
    return np.where(labels == 1, 1 - probabilities, probabilities)


def flagged(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The labels that confident learning finds wrong (Northcutt et al. 2021, section 3.1).

    A label is flagged if the answer is the other class, and P(other class) is at least its mean
    over the tiles that are labelled as the other class. Each class so has a threshold of its own.

    Args:
        labels: ``(N,)`` 1 road, 0 non-road.
        probabilities: ``(N,)`` P(road) in [0, 1] by models that did not train on the tile.

    Returns:
        ``(N,)``; false for all if there is one class only.
    """
    found = np.zeros(len(labels), dtype=bool)
    for other in (0, 1):
        of_other = probabilities if other == 1 else 1 - probabilities
        given = labels == other
        if given.any():
            found |= ~given & (of_other > 0.5) & (of_other >= of_other[given].mean())
    return found
