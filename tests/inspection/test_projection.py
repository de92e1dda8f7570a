"""Projections: the variance of PCA, a reproducible t-SNE, neighbours on a grid."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vbp_lightning.inspection.projection import on_grid, principal_components, tsne


def blobs():
    generator = np.random.default_rng(0)
    centres = 20 * generator.normal(size=(3, 30))
    return (centres[np.arange(60) % 3] + generator.normal(size=(60, 30))).astype(np.float32)


def test_components_are_ordered_by_variance():
    found = principal_components(blobs(), 5)
    centred = blobs() - blobs().mean(axis=0)
    singular = np.linalg.svd(centred, compute_uv=False)
    assert np.allclose(found.explained, (singular**2 / (singular**2).sum())[:5], atol=1e-5)
    assert np.allclose(found.points.std(axis=0), singular[:5] / np.sqrt(60), rtol=1e-4)


def test_constant_features_and_few_tiles():
    same = principal_components(np.ones((5, 8), np.float32))
    assert not same.points.any()
    assert not same.explained.any()
    assert principal_components(blobs()[:2], 9).points.shape == (2, 2)


def test_groups_stay_together_and_a_seed_repeats():
    points = tsne(blobs(), seed=3)
    assert np.array_equal(points, tsne(blobs(), seed=3))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(axis=1) % 3 == np.arange(60) % 3).all()
    assert tsne(blobs()[:5]).shape == (5, 2)


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 100))
def test_no_cell_is_taken_twice(count, columns, seed):
    points = np.random.default_rng(seed).normal(size=(count, 2))
    cells = on_grid(points, columns)
    assert len({tuple(cell) for cell in cells.tolist()}) == count
    assert cells[:, 1].max() < columns
    assert cells[:, 0].max() < -(-count // columns)


def test_points_that_form_a_grid_get_their_own_cells():
    rows, columns = np.divmod(np.arange(12), 4)
    points = np.stack([columns, -rows], axis=1).astype(float)
    order = np.random.default_rng(0).permutation(12)
    cells = on_grid(points[order], 4)
    assert np.array_equal(cells, np.stack([rows, columns], axis=1)[order])
