"""Which scenes train, which choose the model and which judge it."""

from collections.abc import Mapping, Sequence

import numpy as np

from vbp_lightning.data.grid import coordinates
from vbp_lightning.data.reading import LoadedScene
from vbp_lightning.data.scenes import Scene, Split


def draw_splits(
    scenes: Sequence[Scene], val_fraction: float, test_fraction: float, seed: int
) -> dict[str, Split]:
    """The split of each scene: its own where it has one, drawn otherwise.

    A drawn split of a positive fraction gets at least one scene, as long as one is left to train.
    The result does not depend on the order of the scenes.

    Args:
        scenes: Scenes of different names.
        val_fraction: Part of the undecided scenes that validates, in [0, 1).
        test_fraction: Part of the undecided scenes that tests, in [0, 1).
        seed: Of the draw.

    Returns:
        Split by scene name, in the order of ``scenes``.
    """
    undecided = sorted(scene.name for scene in scenes if scene.split is None)
    order = [undecided[i] for i in np.random.default_rng(seed).permutation(len(undecided))]
    drawn: dict[str, Split] = {}
    fractions: tuple[tuple[Split, float], ...] = (("test", test_fraction), ("val", val_fraction))
    for split, fraction in fractions:
        if fraction > 0:
            count = min(max(1, round(fraction * len(undecided))), len(order) - 1)
            for _ in range(count):
                drawn[order.pop()] = split
    return {
        scene.name: scene.split if scene.split is not None else drawn.get(scene.name, "train")
        for scene in scenes
    }


def shared_ground(
    loaded: Sequence[LoadedScene], splits: Mapping[str, Split]
) -> list[tuple[str, str]]:
    """Pairs of scenes of different splits that overlap on the map.

    Args:
        loaded: Scenes; those without a CRS, or of different ones, are not compared.
        splits: Split by scene name.

    Returns:
        Names of scenes whose upright extents overlap by more than a pixel each way.
    """
    by_crs: dict[str, list[LoadedScene]] = {}
    for item in loaded:
        if item.crs is not None:
            by_crs.setdefault(item.crs.to_wkt(), []).append(item)
    pairs: list[tuple[str, str]] = []
    for members in by_crs.values():
        names = [item.scene.name for item in members]
        split = np.array([splits[name] for name in names])
        pixel = [max(map(abs, item.transform[:2])) for item in members]
        extents = np.array([_extent(item) for item in members])
        low, high = extents[:, 0], extents[:, 1]
        for first in range(len(members)):
            overlap = np.minimum(high, high[first]) - np.maximum(low, low[first])
            shared = (overlap > pixel[first]).all(axis=1) & (split != split[first])
            pairs += [(names[first], names[i]) for i in np.flatnonzero(shared) if i > first]
    return pairs


def _extent(item: LoadedScene) -> tuple[tuple[float, float], tuple[float, float]]:
    """Smallest and largest x and y of a scene."""
    height, width = item.valid.shape
    corners = [coordinates(item.transform, x, y) for x in (0, width) for y in (0, height)]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    return (min(xs), min(ys)), (max(xs), max(ys))
