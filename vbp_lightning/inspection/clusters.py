"""Clusters of tiles by what a network looks at (SpRAy, Lapuschkin et al. 2019, figure 3)."""

import warnings

import numpy as np
import numpy.typing as npt
import torch
from sklearn.cluster import SpectralClustering
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_COMPONENTS = 10
"""Principal components of the descriptors that are compared."""

_NEIGHBORS = 10
"""Neighbours of a tile in the graph that is cut into clusters."""

_LEAST = 10
"""Mean number of tiles of a cluster below which fewer clusters are made."""


def peak_features(masks: Tensor, maps: Tensor, peaks: int = 5) -> Floats:
    """What the network sees where it looks: mean features at the brightest cells of a mask.

    Args:
        masks: ``(N, 1, H, W)`` saliency maps, not negative.
        maps: ``(N, K, h, w)`` feature maps of the same tiles.
        peaks: Number of cells, those whose largest saliency is highest.

    Returns:
        ``(N, K)`` square roots of the means, with their sign, each row of length 1 or 0.
    """
    brightness = adaptive_max_pool2d(masks, maps.shape[2:]).flatten(1)
    cells = brightness.topk(min(peaks, brightness.shape[1])).indices[:, None]
    means = maps.flatten(2).take_along_dim(cells, 2).mean(2)
    return _unit(means.sign() * means.abs().sqrt())


def mask_summaries(masks: Tensor, side: int = 12) -> Floats:
    """Where the network looks: means of a mask over the cells of a grid.

    Args:
        masks: ``(N, 1, H, W)`` saliency maps.
        side: Number of cells along either axis.

    Returns:
        ``(N, side · side)``, each row of length 1 or 0.
    """
    return _unit(adaptive_avg_pool2d(masks, side).flatten(1))


def _unit(values: Tensor) -> Floats:
    rows = torch.nn.functional.normalize(values.double(), dim=1).cpu().numpy()
    return np.asarray(rows, dtype=np.float64)


def spectral_clusters(descriptors: Floats, count: int, seed: int = 0) -> tuple[Ints, Floats]:
    """Cuts the graph of nearest neighbours into clusters (Ng, Jordan and Weiss 2001).

    Args:
        descriptors: ``(N, D)``, N at least 1.
        count: Number of clusters; fewer if they would have less than 10 tiles on average.
        seed: Seed of the clustering.

    Returns:
        ``(N,)`` the cluster of each tile, from 0, and ``(N,)`` the distance to its mean, by which
        typical tiles come first.
    """
    total = len(descriptors)
    used = max(1, min(count, total // _LEAST))
    centred = descriptors - descriptors.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    points = (left * sizes)[:, :_COMPONENTS]  # principal components
    clusters = np.zeros(total, dtype=np.int64)
    if used > 1:
        method = SpectralClustering(
            used,
            affinity="nearest_neighbors",
            n_neighbors=min(_NEIGHBORS, total),
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Graph is not fully connected")
            clusters = np.unique(method.fit_predict(points), return_inverse=True)[1]
    distances = np.zeros(total)
    for cluster in np.unique(clusters):
        own = clusters == cluster
        distances[own] = np.linalg.norm(points[own] - points[own].mean(axis=0), axis=1)
    return clusters, distances
