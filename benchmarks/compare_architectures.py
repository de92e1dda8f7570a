"""Whether the max-pool network is more accurate than the strided one: a paired comparison of runs.

Takes runs of both networks with the same seeds, as written by a sweep:

    python train.py -m model=strided,maxpool seed=1,2,3,4,5
    python benchmarks/compare_architectures.py outputs/multirun/<date>_<time>

(or any number of folders with runs). Prints parameters and multiply-adds, test AUROC and balanced
accuracy of each seed, the paired differences with a t interval over seeds and the p values of the
paired t test and of Wilcoxon's signed-rank test, a bootstrap interval over test scenes of the mean
gain in AUROC, and, if the data is available, how much the score changes when a tile is shifted by a
few pixels.
"""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch.utils.flop_counter import FlopCounterMode

from vbp_lightning import RoadClassifier
from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.tiles.tile import Tile
from vbp_lightning.explaining.tile_sources import own_data
from vbp_lightning.models.networks import RoadNetwork

ARCHITECTURES = ("maxpool", "strided")
DRAWS = 2000
BATCH = 64
SHIFTED = 128
"""Approximate number of tiles that are shifted."""

Runs = dict[str, dict[int, Path]]


def runs_in(folders: list[str]) -> Runs:
    """Run folders by architecture and seed."""
    found: Runs = {name: {} for name in ARCHITECTURES}
    for folder in folders:
        for predictions in sorted(Path(folder).rglob("predictions.csv")):
            config = OmegaConf.load(predictions.parent / ".hydra" / "config.yaml")
            found[config.model.architecture][config.seed] = predictions.parent
    return found


def sizes() -> None:
    """Prints parameters and multiply-adds of a forward pass of one tile."""
    for name in ARCHITECTURES:
        net = RoadNetwork(name, "hidden", [0.0] * 3, [1.0] * 3).eval()
        count = sum(parameter.numel() for parameter in net.parameters())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.zeros(1, 3, 96, 96))
        millions = counter.get_total_flops() / 2e6
        print(f"{name:8} {count:7} parameters, {millions:6.1f} million multiply-adds per tile")


def compared(values: dict[str, list[float]], what: str) -> None:
    """Prints means and the paired tests over seeds."""
    more, less = (np.array(values[name]) for name in ARCHITECTURES)
    gain = more - less
    interval = stats.t.interval(0.95, len(gain) - 1, gain.mean(), stats.sem(gain))
    print(
        f"{what}: maxpool {more.mean():.4f} ± {more.std(ddof=1):.4f}, "
        f"strided {less.mean():.4f} ± {less.std(ddof=1):.4f}; "
        f"gain {gain.mean():+.4f}, 95 % over seeds [{interval[0]:+.4f}, {interval[1]:+.4f}], "
        f"paired t p = {stats.ttest_rel(more, less).pvalue:.4f}, "
        f"Wilcoxon p = {stats.wilcoxon(more, less).pvalue:.4f}"
    )


def test_predictions(run: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scene, label and P(road) of the labelled test tiles."""
    with (run / "predictions.csv").open(newline="") as file:
        rows = [
            (row["scene"], row["label"] == "road", float(row["probability"]))
            for row in csv.DictReader(file)
            if row["split"] == "test" and row["label"] != "ignored"
        ]
    scenes, labels, probabilities = (np.array(each) for each in zip(*rows, strict=True))
    return scenes, labels, probabilities


def over_scenes(runs: Runs, seeds: list[int]) -> None:
    """Prints the bootstrap interval over test scenes of the mean gain in AUROC."""
    predictions = {
        name: [test_predictions(runs[name][seed]) for seed in seeds] for name in ARCHITECTURES
    }
    scenes, labels, _ = predictions["maxpool"][0]
    names = np.unique(scenes)
    members = [np.flatnonzero(scenes == name) for name in names]
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(DRAWS):
        drawn = np.concatenate([members[k] for k in rng.integers(len(names), size=len(names))])
        if labels[drawn].all() or not labels[drawn].any():
            continue
        more, less = (
            np.mean([roc_auc_score(labels[drawn], each[2][drawn]) for each in predictions[name]])
            for name in ARCHITECTURES
        )
        gains.append(more - less)
    low, high = np.quantile(gains, [0.025, 0.975])
    print(f"test AUROC: gain, bootstrap over {len(names)} scenes, 95 % [{low:+.4f}, {high:+.4f}]")


@torch.no_grad()
def shift_sensitivity(run: Path) -> float:
    """Standard deviation of the logit over shifts of a tile, divided by that over tiles.

    Evenly spread test tiles are read at 3 × 3 positions one pixel apart.
    """
    model = RoadClassifier.load_from_checkpoint(run / "checkpoints/best.ckpt", map_location="cpu")
    model.eval()
    data = own_data(model, {})
    tiles = list(data.tiles_of("test"))
    tiles = tiles[:: max(1, len(tiles) // SHIFTED)]
    logits = []
    for down in range(3):
        for across in range(3):
            shifted = [
                replace(each, tile=Tile(each.tile.scene, abs(each.tile.row - down),
                                        abs(each.tile.col - across)))
                for each in tiles
            ]  # fmt: skip
            pixels = data.read_tiles(shifted)
            logits.append(torch.cat([model(part)[:, 0] for part in torch.split(pixels, BATCH)]))
    values = torch.stack(logits)
    return float(values.std(0).mean() / values.mean(0).std())


def main(folders: list[str]) -> None:
    """Prints all figures."""
    runs = runs_in(folders)
    seeds = sorted(set(runs["maxpool"]) & set(runs["strided"]))
    sizes()
    if len(seeds) < 2:
        sys.exit("give runs of both networks with at least two seeds in common")
    for key, what in (("test/auroc", "test AUROC"), ("test/balanced_accuracy", "test bal. acc.")):
        values = {
            name: [
                json.loads((runs[name][seed] / "metrics.json").read_text())[key] for seed in seeds
            ]
            for name in ARCHITECTURES
        }
        for name in ARCHITECTURES:
            each = ", ".join(f"{value:.4f}" for value in values[name])
            print(f"{what}, {name}, seeds {seeds}: {each}")
        compared(values, what)
    over_scenes(runs, seeds)
    try:
        for name in ARCHITECTURES:
            shifts = [shift_sensitivity(runs[name][seed]) for seed in seeds]
            each = ", ".join(f"{value:.3f}" for value in shifts)
            print(
                f"{name}: deviation over shifts {np.mean(shifts):.3f} of that over tiles ({each})"
            )
    except DataError as error:
        print(f"the sensitivity to shifts is left out: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
