"""Whether a network uses the road or a mark that is correlated with it.

Takes the labelled validation tiles of the procedural scenes twice: with a mark beside every road,
as in ``experiment=clever_hans``, and without. Prints the balanced accuracy of each network on both,
and how VisualBackProp and its symmetric variant distribute relevance on the road tiles.

    python benchmarks/clever_hans.py CHECKPOINT [CHECKPOINT ...]
"""

import sys
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vbp_lightning import RoadClassifier, RoadTileDataModule, VisualBackProp
from vbp_lightning.attribution import SymmetricVisualBackProp
from vbp_lightning.data.synthetic.generator import SyntheticScenes
from vbp_lightning.data.tiles.tile import Label
from vbp_lightning.evaluation.localisation import average_precision, positive_part, relevance_mass

ROOT = "outputs/data/synthetic"
MARK = 24
BATCH = 64

Pixels = npt.NDArray[np.bool_]


@cache
def tiles_of(mark: int) -> tuple[Tensor, npt.NDArray[np.bool_], Pixels]:
    """Labelled validation tiles ``(N, 3, 96, 96)``, whether each is road, and road pixels."""
    data = RoadTileDataModule(SyntheticScenes(ROOT, mark=mark))
    data.prepare_data()
    data.setup()
    chosen = [tile for tile in data.tiles_of("val") if tile.label != Label.IGNORED]
    is_road = np.array([tile.label == Label.ROAD for tile in chosen])
    return data.read_tiles(chosen), is_road, data.read_road_masks(chosen).numpy()


@torch.no_grad()
def balanced_accuracy(model: RoadClassifier, tiles: Tensor, is_road: npt.NDArray[np.bool_]) -> str:
    """Balanced accuracy at the network's threshold, with the accuracy of each class."""
    logits = torch.cat([model(part) for part in torch.split(tiles, BATCH)])
    predicted = logits[:, 0].sigmoid().numpy() >= float(model.threshold)
    right = [(predicted == is_road)[is_road == label].mean() for label in (True, False)]
    return f"{np.mean(right):.3f}  (road {right[0]:.3f}, non-road {right[1]:.3f})"


def report(checkpoint: str) -> None:
    """Prints the figures of one network."""
    model = RoadClassifier.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    marked, is_road, roads = tiles_of(MARK)
    plain, _, _ = tiles_of(0)
    marks = (marked != plain).any(dim=1).numpy()
    print(f"\n{checkpoint}")
    print(f"balanced accuracy, with the mark     {balanced_accuracy(model, marked, is_road)}")
    print(f"balanced accuracy, without the mark  {balanced_accuracy(model, plain, is_road)}")
    chosen = is_road & marks.any(axis=(1, 2)) & ~roads.all(axis=(1, 2))
    methods: dict[str, VisualBackProp | SymmetricVisualBackProp] = {
        "VisualBackProp": VisualBackProp(model, "resize_conv"),
        "symmetric VisualBackProp": SymmetricVisualBackProp(model),
    }
    for name, method in methods.items():
        for variant, tiles in (("with", marked), ("without", plain)):
            maps = positive_part(method.attribute(tiles[chosen], 1)[:, 0].numpy())
            for what, where in (("marks", marks[chosen]), ("roads", roads[chosen])):
                mass = relevance_mass(maps, where).mean()
                precision = average_precision(maps, where).mean()
                print(
                    f"{name}, {variant} the mark: {what} ({where.mean():.3f} of the pixels) hold "
                    f"{mass:.3f} of the relevance, average precision {precision:.3f}"
                )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("give the checkpoint of a run of experiment=clever_hans, or several")
    for each in sys.argv[1:]:
        report(each)
