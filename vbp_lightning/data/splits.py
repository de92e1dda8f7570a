"""Which scenes train, which choose the model and which judge it."""

from collections.abc import Sequence

import numpy as np

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
