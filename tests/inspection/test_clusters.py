import numpy as np
import torch

from vbp_lightning.inspection.clusters import mask_summaries, peak_features, spectral_clusters


def test_peak_features_are_those_of_the_brightest_cells():
    masks = torch.zeros(2, 1, 8, 8)
    masks[0, 0, 1, 6], masks[0, 0, 7, 0], masks[1, 0, 3, 3] = 1, 0.5, 0.1
    maps = torch.zeros(2, 3, 4, 4)
    maps[0, :, 0, 3] = torch.tensor([4.0, 0, -16])  # the cell of row 1, column 6
    maps[0, :, 3, 0] = torch.tensor([4.0, 0, 0])
    found = peak_features(masks, maps, peaks=2)
    expected = np.array([2, 0, -np.sqrt(8)])  # square roots of the means 4, 0 and -8
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected))
    assert found[1].tolist() == [0, 0, 0]
    single = peak_features(masks, maps, peaks=1)[0]
    np.testing.assert_allclose(single, np.array([2, 0, -4]) / np.sqrt(20))
    assert peak_features(masks, maps, peaks=99).shape == (2, 3)


def test_mask_summaries_are_means_of_length_one():
    masks = torch.zeros(1, 1, 4, 4)
    masks[0, 0, :2, :2], masks[0, 0, 3, 3] = 0.3, 1.6
    np.testing.assert_allclose(mask_summaries(masks, 2), [[0.6, 0, 0, 0.8]], atol=1e-7)


def test_separate_groups_are_separate_clusters():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], [40, 25, 15])
    points = 10 * np.eye(12)[groups] + 0.1 * rng.standard_normal((80, 12))
    order = rng.permutation(80)
    clusters, distances = spectral_clusters(points[order], 3)
    assert {(clusters[groups[order] == g]).max() for g in range(3)} == {0, 1, 2}
    assert all(np.ptp(clusters[groups[order] == g]) == 0 for g in range(3))
    own = points[order][groups[order] == 0]
    exact = np.linalg.norm(own - own.mean(axis=0), axis=1)
    # of ten components, so at most the distance itself
    assert (distances[groups[order] == 0] <= exact + 1e-9).all()
    again, _ = spectral_clusters(points[order], 3)
    assert np.array_equal(clusters, again)


def test_few_tiles_are_few_clusters():
    points = np.random.default_rng(0).random((25, 4))
    assert len(np.unique(spectral_clusters(points, 6)[0])) == 2
    for few in (points[:1], points[:9], np.ones((30, 4))):
        clusters, distances = spectral_clusters(few, 6)
        assert len(clusters) == len(distances) == len(few)
        assert clusters.min() == 0
        assert np.isfinite(distances).all()
