"""The metrics against scikit-learn and the threshold against trying every cut."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from vbp_lightning.models.metrics import best_threshold, binary_metrics

scored_tiles = st.lists(
    st.tuples(st.integers(0, 10).map(lambda tenth: tenth / 10), st.booleans()),
    min_size=2,
    max_size=40,
).filter(lambda tiles: len({label for _, label in tiles}) == 2)


@given(scored_tiles, st.integers(0, 10).map(lambda tenth: tenth / 10))
def test_metrics_equal_scikit_learns(tiles, threshold):
    probabilities = np.array([p for p, _ in tiles])
    labels = np.array([int(label) for _, label in tiles])
    called = probabilities >= threshold
    found = binary_metrics(torch.tensor(probabilities), torch.tensor(labels), threshold)
    assert found["auroc"] == pytest.approx(reference.roc_auc_score(labels, probabilities), abs=1e-6)
    assert found["average_precision"] == pytest.approx(
        reference.average_precision_score(labels, probabilities), abs=1e-6
    )
    assert found["f1"] == pytest.approx(
        reference.f1_score(labels, called, zero_division=0), abs=1e-6
    )
    assert found["balanced_accuracy"] == pytest.approx(
        reference.balanced_accuracy_score(labels, called), abs=1e-6
    )


@given(scored_tiles)
def test_no_cut_between_two_probabilities_beats_the_threshold(tiles):
    probabilities = torch.tensor([p for p, _ in tiles], dtype=torch.float64)
    labels = torch.tensor([int(label) for _, label in tiles])
    values = sorted(set(probabilities.tolist()))
    cuts = [(a + b) / 2 for a, b in pairwise(values)] or [0.5]

    def accuracy(cut):
        return binary_metrics(probabilities, labels, cut)["balanced_accuracy"]

    threshold = best_threshold(probabilities, labels)
    assert threshold in cuts
    assert accuracy(threshold) == pytest.approx(max(map(accuracy, cuts)), abs=1e-6)


def test_threshold_by_hand():
    probabilities = torch.tensor([0.1, 0.2, 0.6, 0.8, 0.9])
    assert best_threshold(probabilities, torch.tensor([0, 0, 0, 1, 1])) == pytest.approx(0.7)
    assert best_threshold(torch.full((4,), 0.3), torch.tensor([0, 1, 0, 1])) == 0.5
