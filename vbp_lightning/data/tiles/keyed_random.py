"""Random numbers that depend on a key alone, without any state."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def keyed_uniforms(key: Sequence[int | NDArray[np.int64]], draws: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) for each of many keys, vectorised.

    Each part of the key goes through SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable
    pseudorandom number generators"), as does the number of the draw. No state is kept, so the
    numbers do not depend on the process or the order of the calls.

    Args:
        key: Parts of the key, such as (seed, epoch, index): integers, or (N,) arrays of them.
        draws: Number of values for each key.

    Returns:
        (N, draws).
    """
    parts = np.broadcast_arrays(*(np.atleast_1d(np.asarray(part, np.int64)) for part in key))
    state = np.zeros(parts[0].shape, dtype=np.uint64)
    for part in parts:
        state = _mix((state ^ part.astype(np.uint64)) + _GAMMA)
    steps = np.arange(1, draws + 1, dtype=np.uint64) * _GAMMA
    bits = _mix(state[:, None] + steps[None, :])
    uniforms: NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniforms
