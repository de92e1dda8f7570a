"""Suspicious labels against a slow implementation of confident learning."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vbp_lightning.evaluation.label_errors import flagged, suspicion

tiles = st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), max_size=30)


def arrays(pairs):
    labels = np.array([label for label, _ in pairs], dtype=np.int64)
    return labels, np.array([p for _, p in pairs], dtype=np.float64)


@given(tiles)
def test_flags_and_suspicion_one_by_one(pairs):
    def belief(p, label):
        return p if label == 1 else 1 - p

    threshold = {}
    for label in (0, 1):
        own = [belief(p, label) for given, p in pairs if given == label]
        threshold[label] = np.mean(own) if own else np.inf
    expected = [
        belief(p, 1 - label) > 0.5 and belief(p, 1 - label) >= threshold[1 - label]
        for label, p in pairs
    ]
    assert flagged(*arrays(pairs)).tolist() == expected
    unbelief = [1 - belief(p, label) for label, p in pairs]
    np.testing.assert_allclose(suspicion(*arrays(pairs)), unbelief, atol=1e-15)


def test_each_class_has_its_own_threshold():
    # the network is timid about road: P(road) of road tiles is 0.6 on average, of others 0.1
    labels = np.array([1, 1, 0, 0, 0, 1])
    p = np.array([0.7, 0.65, 0.1, 0.0, 0.62, 0.45])
    assert flagged(labels, p).tolist() == [False, False, False, False, True, False]
    p[5] = 0.2
    assert flagged(labels, p).tolist() == [False, False, False, False, True, True]
