"""Difficulty of the procedural scenes: test AUROC by colour only, and of the two CNNs.

    python benchmarks/synthetic_difficulty.py --seeds 0 1 2 --networks strided maxpool

The splits are those of the scenes. Tiles are cut at a stride of 96; road means a road share of at
least 5 %, non-road a share of zero, and other tiles are left out. Colour alone is a standardised
logistic regression on the 8×8×8 RGB histogram of a tile, with C chosen by cross-validation over
scenes. The CNNs are trained by a plain PyTorch loop (AdamW, one-cycle, balanced classes, flips,
rotations by 90°, brightness and contrast; training tiles overlap by half).
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from vbp_lightning.data.datasets.scene import Scene
from vbp_lightning.data.synthetic.generator import SyntheticScenes
from vbp_lightning.models.networks import TILE_SIZE, RoadNetwork

ROAD_SHARE = 0.05
BATCH = 64

Tiles = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]


def cut(scenes: list[Scene], splits: set[str], stride: int) -> Tiles:
    """Labelled tiles ``(N, 3, 96, 96)`` of some splits, their labels and scene indices."""
    tiles, labels, groups = [], [], []
    for number, scene in enumerate(scenes):
        if scene.split not in splits:
            continue
        with rasterio.open(scene.image) as image, rasterio.open(scene.labels) as mask:
            pixels, roads = image.read(), mask.read(1) > 0
        for row in range(0, roads.shape[0] - TILE_SIZE + 1, stride):
            for col in range(0, roads.shape[1] - TILE_SIZE + 1, stride):
                box = (slice(row, row + TILE_SIZE), slice(col, col + TILE_SIZE))
                share = roads[box].mean()
                if 0 < share < ROAD_SHARE:
                    continue
                tiles.append(pixels[:, box[0], box[1]])
                labels.append(int(share > 0))
                groups.append(number)
    return np.stack(tiles), np.array(labels), np.array(groups)


def histograms(tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Shares of the 8×8×8 RGB bins, ``(N, 512)``."""
    bins = (tiles // 32).astype(np.int64)
    codes = (bins[:, 0] * 64 + bins[:, 1] * 8 + bins[:, 2]).reshape(len(tiles), -1)
    return np.stack([np.bincount(code, minlength=512) / codes.shape[1] for code in codes])


def colour_auroc(scenes: list[Scene]) -> float:
    """Test AUROC of the logistic regression on histograms."""
    tiles, labels, groups = cut(scenes, {"train", "val"}, TILE_SIZE)
    folds = list(GroupKFold(5).split(tiles, labels, groups))
    regression = LogisticRegressionCV(
        Cs=np.logspace(-5, 1, 7), cv=folds, scoring="roc_auc", max_iter=2000
    )
    with warnings.catch_warnings():
        # scikit-learn 1.8 announces other defaults, whose settings 1.4 does not know yet.
        warnings.simplefilter("ignore", FutureWarning)
        model = make_pipeline(StandardScaler(), regression).fit(histograms(tiles), labels)
    tiles, labels, _ = cut(scenes, {"test"}, TILE_SIZE)
    return float(roc_auc_score(labels, model.decision_function(histograms(tiles))))


def augmented(tiles: torch.Tensor) -> torch.Tensor:
    """Flips, rotations by 90°, brightness and contrast; one rotation and flip per batch."""
    tiles = torch.rot90(tiles, int(torch.randint(4, ())), (2, 3))
    if torch.rand(()) < 0.5:
        tiles = tiles.flip(3)
    contrast = torch.empty(len(tiles), 1, 1, 1).uniform_(0.8, 1.25)
    brightness = torch.empty(len(tiles), 1, 1, 1).uniform_(-25, 25)
    return (tiles - 110) * contrast + 110 + brightness


def cnn_auroc(scenes: list[Scene], architecture: str, steps: int, seed: int) -> float:
    """Test AUROC of a network trained for ``steps`` batches of 64."""
    torch.manual_seed(seed)
    tiles, labels, _ = cut(scenes, {"train"}, TILE_SIZE // 2)
    mean = tiles.mean(axis=(0, 2, 3)).tolist()
    std = tiles.std(axis=(0, 2, 3)).tolist()
    network = RoadNetwork(architecture, "hidden", mean, std)  # type: ignore[arg-type]
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    data = torch.from_numpy(tiles)
    members = [torch.from_numpy(np.flatnonzero(labels == label)) for label in (0, 1)]
    targets = torch.arange(BATCH).remainder(2).float()
    for _ in range(steps):
        chosen = torch.stack(
            [member[torch.randint(len(member), (BATCH // 2,))] for member in members], dim=1
        ).flatten()
        batch = augmented(data[chosen].float()).contiguous(memory_format=torch.channels_last)
        loss = functional.binary_cross_entropy_with_logits(network(batch)[:, 0], targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.eval()
    tiles, labels, _ = cut(scenes, {"test"}, TILE_SIZE)
    with torch.no_grad():
        logits = torch.cat([network(part.float()) for part in torch.from_numpy(tiles).split(256)])
    return float(roc_auc_score(labels, logits[:, 0]))


def main() -> None:
    """Prints one line for each generator seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, default=Path("outputs/data/synthetic"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", nargs="*", default=[], choices=["strided", "maxpool"])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for seed in arguments.seeds:
        scenes = SyntheticScenes(arguments.root, seed=seed)()
        _, labels, _ = cut(scenes, {"test"}, TILE_SIZE)
        line = f"seed {seed}: {len(labels)} test tiles, {labels.mean():.0%} road"
        print(f"{line}; colour {colour_auroc(scenes):.3f}", end="", flush=True)
        for architecture in arguments.networks:
            start = time.perf_counter()
            auroc = cnn_auroc(scenes, architecture, arguments.steps, seed)
            took = time.perf_counter() - start
            print(f"; {architecture} {auroc:.3f} ({took:.0f} s)", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
