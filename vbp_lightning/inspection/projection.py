"""Features of many dimensions on a plane, and pictures on a grid by their places there."""

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
        count: Components; fewer where there are fewer tiles or features.
    """
    pca = PCA(min(count, *features.shape), random_state=0)
    with np.errstate(invalid="ignore"):  # constant features have no variance to share out
        points = pca.fit_transform(np.asarray(features))
    return PrincipalComponents(
        points.astype(np.float32), np.nan_to_num(pca.explained_variance_ratio_)
    )


def tsne(features: Floats, perplexity: float = 30.0, seed: int = 0) -> Floats:
    """t-SNE (van der Maaten and Hinton 2008) of the first 50 principal components.

    Args:
        features: ``(N, F)``, N at least 4.
        perplexity: About how many neighbours a tile has; lowered where there are few tiles.
        seed: Of the draw.

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
    """Gives each point a cell of a grid, so that neighbours stay near each other.

    The assignment of least total squared distance, once points and cells fill the same square
    (Jonker and Volgenant's algorithm, cubic in N: a second for some 1 500 points).

    Args:
        points: ``(N, 2)``.
        columns: Cells side by side; there are as many rows as the points need.

    Returns:
        ``(N, 2)`` row and column, no cell twice. The second coordinate grows upwards, as in a
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
