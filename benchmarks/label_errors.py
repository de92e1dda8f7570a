"""Whether reviewing the suspects of ``task=suspects`` pays: ``python benchmarks/label_errors.py``.

5 % of the labels of procedural training tiles are flipped: of any tiles, and of tiles near road
borders (the quarter of the road tiles with the least road share, and of the non-road tiles nearest
to a road). Tiles are then ordered by four scores, and reviewed from the top: how many of as many
tiles as were flipped are so, and what is the AUROC on test scenes after training again with the
labels that the review corrects. Every training is stored in the folder, so that a command that was
stopped goes on.

Tiles of 48 px, so that one core takes an hour, lie side by side and are not shifted, so that each
label is of one tile.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import roc_auc_score

from vbp_lightning.data import RoadTileDataModule
from vbp_lightning.data.tiles.corrections import Correction, Corrections
from vbp_lightning.data.tiles.splits import KnownSplits
from vbp_lightning.evaluation.label_errors import flagged, suspicion
from vbp_lightning.explaining.folds import fold_splits, probabilities_of, trained
from vbp_lightning.files import replacing

SIDE, SHARE, NEAREST, FOLDS = 48, 0.05, 0.25, 5
SCORES = {
    "suspects": "1 - P(label) of 5 folds",
    "loss": "loss of the run itself",
    "mean": "mean loss of two seeds",
    "disagreement": "disagreement of two seeds",
}
Labels = NDArray[np.int64]


class Seed:
    """The trainings of one seed: scenes, flips, weights.

    Args:
        seed: Of everything.
        folder: Where scenes and results are stored.
        scenes: Number of training scenes, and of test scenes.
        epochs: Length of each training.
        device: Where to train.
    """

    def __init__(self, seed: int, folder: Path, scenes: int, epochs: int, device: str) -> None:
        self.seed, self.folder, self.epochs = seed, folder, epochs
        self.settings = f"{scenes}scenes_{epochs}epochs_{device}_{seed}"
        self.device = torch.device(device)
        self.source = {
            "_target_": "vbp_lightning.data.SyntheticScenes",
            "seed": 1000 + seed,
            "scenes": 2 * scenes,
        }
        every = self._datamodule({}, 0)
        names = sorted(scene.name for scene in every.source())
        order = np.random.default_rng(seed).permutation(len(names)).tolist()
        self.parts = {
            names[place]: [(0, 0, 480, 480, "train" if rank < scenes else "test")]
            for rank, place in enumerate(order)
        }
        self.clean = self.opened(self.parts)
        tiles = self.clean.tiles_of("train")
        self.tiles = [tiles[n] for n in np.flatnonzero(tiles.labels >= 0)]
        self.labels = np.array([int(tile.label) for tile in self.tiles])
        self.digests = self.clean.tile_digests(self.tiles)

    def _datamodule(self, parts: Mapping[str, Any], seed: int) -> RoadTileDataModule:
        made = RoadTileDataModule(
            self.source,
            root=self.folder / f"scenes_{self.seed}",
            tile_size=SIDE,
            train_stride=SIDE,
            augment={"jitter": 0},
            val_fraction=0.0,
            seed=10 * self.seed + seed,
        )
        made.known_splits = KnownSplits.of_checkpoint(parts, {}) if parts else None
        return made

    def opened(
        self, parts: Mapping[str, Any], labels: Labels | None = None, seed: int = 0
    ) -> RoadTileDataModule:
        """The tiles with given labels, which replace those of their masks."""
        made = self._datamodule(parts, seed)
        rows = (
            zip(self.tiles, self.labels, labels, self.digests, strict=True)
            if labels is not None
            else ()
        )
        answers = {
            item.tile: Correction(("non_road", "road")[label], "", digest)
            for item, own, label, digest in rows
            if own != label
        }
        made.known_corrections = Corrections(by_tile=answers)
        made.scan()  # a fold needs no test split, to which setup would object
        return made

    def piece(self, name: str, compute: Callable[[], Any]) -> Any:
        """The stored result of a piece of work, or a new one."""
        path = self.folder / f"{self.settings}_{name}.json"
        if not path.is_file():
            result = compute()
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(result))
        return json.loads(path.read_text())

    def flips(self, kind: str) -> Labels:
        """The labels, 5 % of each class of which are flipped."""
        rng = np.random.default_rng((self.seed, 7))
        distance = np.array([self._distance(tile) for tile in self.tiles])
        flipped = self.labels.copy()
        for label in (0, 1):
            own = np.flatnonzero(self.labels == label)
            count = round(SHARE * len(own))
            if kind == "border":
                own = own[np.argsort(distance[own], kind="stable")][: round(NEAREST * len(own))]
            flipped[rng.choice(own, count, replace=False)] = 1 - label
        return flipped

    @cache  # noqa: B019
    def _roads(self, name: str) -> NDArray[np.float64]:
        (scene,) = [scene for scene in self.clean.source() if scene.name == name]
        with rasterio.open(scene.labels) as mask:
            return distance_transform_edt(mask.read(1) <= 127)

    def _distance(self, tile: Any) -> float:
        """How far a tile is from the other class: road share, or px to the next road."""
        if tile.share:
            return tile.share
        row, col = tile.tile.row, tile.tile.col
        return float(self._roads(tile.tile.scene)[row : row + SIDE, col : col + SIDE].min())

    def run(self, name: str, labels: Labels, seed: int = 0) -> tuple[NDArray[np.float64], float]:
        """P(road) of the training tiles by a training on them, and its AUROC on the test tiles."""

        def compute() -> dict[str, Any]:
            data = self.opened(self.parts, labels, seed)
            model = trained(data, {}, self.epochs, 10 * self.seed + seed, self.device)
            model.hparams["tta"] = False  # as in a run by default
            by_tile = dict(
                zip(
                    [t.tile for t in data.tiles_of("train")],
                    probabilities_of(model, data, "train"),
                    strict=True,
                )
            )
            test = data.tiles_of("test")
            known = test.labels >= 0
            auroc = roc_auc_score(test.labels[known], probabilities_of(model, data, "test")[known])
            return {"p": [by_tile[t.tile] for t in self.tiles], "auroc": auroc}

        found = self.piece(name, compute)
        return np.array(found["p"]), found["auroc"]

    def folds(self, name: str, labels: Labels) -> NDArray[np.float64]:
        """P(road) of each training tile by a model that did not train on its scene."""
        found: dict[str, float] = {}
        for number, parts in enumerate(fold_splits(self.parts, FOLDS)):

            def compute(parts: Any = parts, number: int = number) -> dict[str, float]:
                data = self.opened(parts, labels)
                model = trained(data, {}, self.epochs, 10 * self.seed + number, self.device)
                tiles, values = data.tiles_of("val"), probabilities_of(model, data, "val")
                return {str(t.tile): p for t, p in zip(tiles, values, strict=True)}

            found |= self.piece(f"{name}_{number}", compute)
        return np.array([found[str(tile.tile)] for tile in self.tiles])

    def measure(self, kinds: Sequence[str]) -> dict[str, float]:
        """All results of the seed."""
        found = {"clean/auroc": self.run("clean", self.labels)[1]}
        for kind in kinds:
            labels = self.flips(kind)
            is_wrong = labels != self.labels
            count = int(is_wrong.sum())
            p, found[f"{kind}/flipped/auroc"] = self.run(f"{kind}_flipped", labels)
            second, _ = self.run(f"{kind}_second", labels, seed=5)
            by_folds = self.folds(f"{kind}_fold", labels)
            scores = {
                "suspects": suspicion(labels, by_folds),
                "loss": suspicion(labels, p),
                "mean": suspicion(labels, (p + second) / 2),
                "disagreement": abs(p - second),
            }
            for name, score in scores.items():
                order = np.argsort(-score, kind="stable")
                found[f"{kind}/{name}/precision"] = is_wrong[order[:count]].mean()
                found[f"{kind}/{name}/recall2"] = is_wrong[order[: 2 * count]].sum() / count
                for label, word in ((1, "road"), (0, "non_road")):
                    own = order[labels[order] == label]
                    wrong = int(is_wrong[labels == label].sum())
                    found[f"{kind}/{name}/{word}"] = is_wrong[own[:wrong]].mean()
                if name in ("suspects", "loss"):
                    corrected = labels.copy()
                    corrected[order[:count]] = self.labels[order[:count]]
                    auroc = self.run(f"{kind}_corrected_{name}", corrected)[1]
                    found[f"{kind}/{name}/auroc"] = auroc
            flags = flagged(labels, by_folds)
            found[f"{kind}/flags/share"] = flags.mean()
            found[f"{kind}/flags/precision"] = is_wrong[flags].mean()
            found[f"{kind}/flags/recall"] = flags[is_wrong].mean()
        return found


def main() -> None:
    """Prints the mean and the standard deviation over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/label_errors"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scenes", type=int, default=24, help="of training, and of test")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--kinds", nargs="+", default=["any", "border"])
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in range(given.seeds):
        made = Seed(seed, given.folder, given.scenes, given.epochs, given.device)
        results.append(made.measure(given.kinds))
        print(f"seeds: {len(results)}", flush=True)
        for key in results[0]:
            values = [result[key] for result in results]
            print(f"{key:32} {np.mean(values):.4f} ± {np.std(values, ddof=len(values) > 1):.4f}")


if __name__ == "__main__":
    main()
