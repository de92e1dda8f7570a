"""Features projected to two dimensions, and an arrangement of the points on a grid."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PrincipalComponents:
    """Features along their first principal components.

    Args:
        points: ``(N, d)`` float32.
        explained: ``(d,)`` share of the variance that each component explains.
    """

    points: Floats
    explained: npt.NDArray[np.float64]


def principal_components(features: Floats, count: int = 2) -> PrincipalComponents:
    """Principal component analysis.

    Args:
        features: ``(N, F)``, N at least 2.
        count: Number of components; fewer if there are fewer tiles or features.
    """
    pca = PCA(min(count, *features.shape), random_state=0)
    with np.errstate(invalid="ignore"):  # constant features have no variance
        points = pca.fit_transform(np.asarray(features))
    return PrincipalComponents(
        points.astype(np.float32), np.nan_to_num(pca.explained_variance_ratio_)
    )


def tsne(features: Floats, perplexity: float = 30.0, seed: int = 0) -> Floats:
    """t-SNE (van der Maaten and Hinton 2008) of the first 50 principal components.

    Args:
        features: ``(N, F)``, N at least 4.
        perplexity: Approximate number of neighbours to consider; reduced if there are few tiles.
        seed: Seed of the initialisation.

    Returns:
        ``(N, 2)`` float32.
    """
    reduced = principal_components(features, 50).points
    fitting = min(perplexity, (len(features) - 1) / 3)
    points: Floats = TSNE(2, perplexity=fitting, init="pca", random_state=seed).fit_transform(
        reduced
    )
    return points.astype(np.float32)


def on_grid(points: npt.NDArray[np.floating], columns: int) -> npt.NDArray[np.int64]:
    """Assigns each point to a cell of a grid, so that neighbours stay near each other.

    Points and cells are scaled to the same square. The sum of squared distances is the smallest
    possible (algorithm of Jonker and Volgenant, cubic in N: a second for about 1500 points).

    Args:
        points: ``(N, 2)``.
        columns: Number of columns; the number of rows follows from the number of points.

    Returns:
        ``(N, 2)`` rows and columns, no cell twice. The second coordinate grows upwards, as in a
        scatter plot.
    """
    count = len(points)
    rows = -(-count // columns)
    cells = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1)
    low, spread = points.min(axis=0), np.ptp(points, axis=0)
    unit = (points - low) / np.where(spread > 0, spread, 1)
    places = np.stack([1 - unit[:, 1], unit[:, 0]], axis=1)
    centres = cells / np.maximum([rows - 1, columns - 1], 1)
    _, chosen = linear_sum_assignment(cdist(places, centres, "sqeuclidean"))
    found: npt.NDArray[np.int64] = cells[chosen].astype(np.int64)
    return found
