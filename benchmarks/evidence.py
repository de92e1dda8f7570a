"""Trains with and without the evidence of the road masks, and measures what it cures and costs.

Every cell, a training with its evaluation, is one JSON file of FOLDER; cells that exist, or that
another process works at, are skipped: the command may be stopped and repeated, and several may run
beside each other. One thread each. A folder belongs to one version of the code and of the data.

    python benchmarks/evidence.py FOLDER screen    short trainings of many methods, one seed
    python benchmarks/evidence.py FOLDER final     the chosen ones, whole trainings of several seeds
    python benchmarks/evidence.py FOLDER table     the tables of what exists

``DATA`` (default outputs/data/synthetic) and ``MASSACHUSETTS`` in the environment name the folders
of the data sets, without the latter only procedural scenes are measured; ``TRAINER`` is ``cpu``,
the default, or ``gpu``.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vbp_lightning import RoadClassifier, RoadTileDataModule, VisualBackProp
from vbp_lightning.attribution import SymmetricVisualBackProp
from vbp_lightning.callbacks import PolynomialAveraging
from vbp_lightning.data.synthetic.stamps import stamp_beside_roads
from vbp_lightning.data.tiles.augmentation import oriented
from vbp_lightning.data.tiles.dataset import Batch, TrainingTiles, road_masks
from vbp_lightning.data.tiles.evidence import Evidence, feathered
from vbp_lightning.data.tiles.selection import spread_road_tiles
from vbp_lightning.data.tiles.tile import Label
from vbp_lightning.evaluation.localisation import average_precision, positive_part
from vbp_lightning.files import replacing
from vbp_lightning.models.metrics import best_threshold, binary_metrics
from vbp_lightning.training.model import build_model
from vbp_lightning.training.preparation import keep_freed_memory, resolve_auto_settings

CONF = Path(__file__).parents[1] / "conf"
DATA = os.environ.get("DATA", "outputs/data/synthetic")
MASSACHUSETTS = os.environ.get("MASSACHUSETTS")
TRAINER = os.environ.get("TRAINER", "cpu")
MARK = 24
EXPLAINED = 200
"""Road tiles whose saliency maps are scored."""
SCREEN_EPOCHS, FINAL_EPOCHS = 10, 20

DATASETS = {
    "clever_hans": ["experiment=clever_hans", f"data.root={DATA}"],
    "colour_cast": ["experiment=colour_cast", f"data.root={DATA}"],
    "synthetic": [f"data.root={DATA}"],
    "massachusetts": ["experiment=massachusetts", f"data.root={MASSACHUSETTS}"],
}


@dataclass(frozen=True)
class Method:
    """A way to train.

    Args:
        evidence: Settings of ``evidence=composites``; None for none.
        soft: Label of composites without their road.
        trusted: Whether these count only where the present network calls them non-road.
        energy: Weight of the energy loss.
        dense: Weight of the loss of every cell.
        head: Whether a plainly trained network gets a new head alone, trained on composites.
    """

    evidence: dict[str, Any] | None = None
    soft: float = 0.0
    trusted: bool = False
    energy: float = 0.0
    dense: float = 0.0
    head: bool = False


EQUAL = {"share": 0.25, "kinds": ["pasted", "seam", "removed"], "until": 1.0}
"""A quarter of the pairs, all types equally, to the end of the training."""
THRICE = ["pasted", "seam", "removed", "removed", "removed"]
METHODS = {
    "plain": Method(),
    "composites": Method({}),
    "shuffled": Method({"shuffled": True}),
    "share 0.25": Method({"share": 0.25}),
    "until 0.33": Method({"until": 0.33}),
    "to the end": Method({"until": 1.0}),
    "to the end, soft 0.2": Method({"until": 1.0}, soft=0.2),
    "to the end, share 0.25": Method({"until": 1.0, "share": 0.25}),
    "equal": Method(EQUAL),
    "equal, shuffled": Method(EQUAL | {"shuffled": True}),
    "equal, share 0.5": Method(EQUAL | {"share": 0.5}),
    "equal, share 1": Method(EQUAL | {"share": 1.0}),
    "equal, early": Method(EQUAL | {"until": 0.67}),
    "pasted, seam": Method(EQUAL | {"kinds": ["pasted", "seam"]}),
    "removed": Method(EQUAL | {"kinds": ["removed"]}),
    "removed, share 0.5": Method(EQUAL | {"kinds": ["removed"], "share": 0.5}),
    "dilation 0": Method(EQUAL | {"dilation": 0.0}),
    "dilation 2": Method(EQUAL | {"dilation": 2.0}),
    "soft 0.2": Method(EQUAL, soft=0.2),
    "trusted": Method(EQUAL, trusted=True),
    "energy 0.03": Method(energy=0.03),
    "energy 0.1": Method(energy=0.1),
    "energy 0.3": Method(energy=0.3),
    "composites, energy 0.1": Method({}, energy=0.1),
    "dense": Method(dense=0.25),
    "composites, dense": Method({}, dense=0.25),
    "head alone": Method({"until": 1.0}, head=True),
}
CHOSEN = ("plain", "composites", "shuffled")


@dataclass(frozen=True)
class Cell:
    """A training and its evaluation.

    Args:
        dataset: A key of ``DATASETS``.
        network: ``strided`` or ``maxpool``.
        method: A key of ``METHODS``.
        seed: Of the training.
        epochs: Its length.
        tiles: Training tiles of an epoch; None for those of the config.
    """

    dataset: str
    network: str
    method: str
    seed: int
    epochs: int
    tiles: int | None = None

    @property
    def file(self) -> str:
        """The name of its file."""
        method = self.method.replace(", ", "_").replace(" ", "")
        return f"{self.dataset}-{self.network}-{method}-{self.seed}-{self.epochs}.json"


def screen() -> Iterator[Cell]:
    """Short trainings."""
    for method in METHODS:
        for dataset in ("clever_hans", "massachusetts"):
            yield Cell(dataset, "strided", method, 1, SCREEN_EPOCHS, 3072)


def final() -> Iterator[Cell]:
    """Whole trainings, the fast network first; a first seed of each data set before the next."""
    seeds = {"clever_hans": 5, "massachusetts": 3, "synthetic": 3, "colour_cast": 3}
    for network in ("strided", "maxpool"):
        for seed in range(1, 6):
            for dataset in (name for name, count in seeds.items() if seed <= count):
                for method in CHOSEN:
                    yield Cell(dataset, network, method, seed, FINAL_EPOCHS)


class TilesWithRoads(TrainingTiles):
    """Training tiles with their road and its dilation, ``(N, 2, H, W)``, as a third part."""

    def __getitems__(self, keys: npt.NDArray[np.int64]) -> Any:
        """The tiles, labels and roads of a batch."""
        own = keys if keys.ndim == 2 else keys[0]
        positions, symmetries, _ = self._drawn(own)
        masks = road_masks(self.tiles.store, positions, self.tiles.tile_size, self.tiles.context)
        roads = [
            np.stack([road, feathered(road, self.reach[scene], 0) > 0])
            for mask, symmetry, scene in zip(
                masks, symmetries.tolist(), positions[:, 0].tolist(), strict=True
            )
            for road in oriented(mask[None], *symmetry)
        ]
        return *super().__getitems__(keys), torch.from_numpy(np.stack(roads))


class EvidenceData(RoadTileDataModule):
    """The data module, whose batches may hold roads."""

    with_roads = False

    def train_dataloader(self) -> DataLoader[Batch]:
        """Balanced batches."""
        loader = super().train_dataloader()
        if not self.with_roads:
            return loader
        fields = vars(loader.dataset)
        reach = fields["reach"] or [1.0 / 0.65] * len(self._store.bands)
        dataset = TilesWithRoads(**(fields | {"reach": reach}))
        return DataLoader(
            dataset,
            batch_sampler=loader.batch_sampler,
            collate_fn=loader.collate_fn,
        )


class EvidenceClassifier(RoadClassifier):
    """The classifier with the losses of the methods."""

    method = Method()
    is_head_alone = False

    def parts(self) -> tuple[nn.Sequential, nn.Sequential]:
        """The layers between normalisation and global pooling, and those from there on."""
        names = [name for name, _ in self.network.named_children()]
        layers, pooling = list(self.network), names.index("global_pool")
        return nn.Sequential(*layers[1:pooling]), nn.Sequential(*layers[pooling:])

    def cell_logits(self, features: Tensor) -> Tensor:
        """The logit ``(N, h, w)`` of the head at every cell, by the running statistics."""
        linear, norm, _ = self.network.hidden
        values = features.permute(0, 2, 3, 1) @ linear.weight.T
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        hidden = ((values - norm.running_mean) * scale + norm.bias).relu()
        return self.network.prob(hidden)[..., 0]

    def on_train_epoch_start(self) -> None:
        """Keeps the statistics of a trunk that is not trained."""
        if self.is_head_alone:
            self.parts()[0].eval()

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """The loss of a batch."""
        method = self.method
        if method == Method() or (not method.soft and not method.trusted and len(batch) == 2):
            return super().training_step(batch, batch_index)
        tiles, labels = batch[0], batch[1]
        normalized = self.network[0](tiles.contiguous(memory_format=torch.channels_last))
        if method.energy:
            normalized.requires_grad_()
        trunk, head = self.parts()
        features = trunk(normalized)
        logits = head(features).squeeze(1).float()
        targets, weights = labels.float(), torch.ones_like(logits)
        if method.evidence is not None:
            index = batch_index * len(labels) + np.arange(len(labels))
            evidence = Evidence(**method.evidence)
            places = evidence.places(index).get("removed", np.zeros(0, int))
            if self.current_epoch >= evidence.until * self.trainer.max_epochs:
                places = places[:0]
            targets[places] = method.soft
            if method.trusted:
                weights[places] = (logits[places].detach() < 0).float()
        each = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        loss = (each * weights).sum() / weights.sum()
        self.train_loss.update(loss.detach())
        self.first_failure.update(torch.tensor(torch.inf, device=self.device))
        if len(batch) == 2:
            return loss
        roads = batch[2].float()
        with torch.autocast(self.device.type, enabled=False):
            cells = self.cell_logits(features.float())
            if method.dense:
                loss = loss + method.dense * dense_loss(cells, roads, labels)
            if method.energy:
                score = cells.flatten(1).logsumexp(1).sum()
                (gradient,) = torch.autograd.grad(score, normalized, create_graph=True)
                positive = nn.functional.avg_pool2d(
                    (gradient * normalized).sum(1, keepdim=True), 5, 1, 2
                )[:, 0].relu()
                inside = (positive * roads[:, 1]).sum((1, 2)) / (positive.sum((1, 2)) + 1e-9)
                loss = loss + method.energy * (1 - inside[labels == 1]).mean()
        return loss


def dense_loss(cells: Tensor, roads: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the cells that are road or far from it."""
    size = roads.shape[-1] // cells.shape[-1]
    share, near = nn.functional.avg_pool2d(roads, size).unbind(1)
    is_road, is_other = share >= 0.3, near == 0
    each = nn.functional.binary_cross_entropy_with_logits(cells, is_road.float(), reduction="none")
    parts = [each[where].mean() for where in (is_road, is_other) if where.any()]
    return torch.stack(parts).mean()


def trained(cell: Cell, folder: Path) -> tuple[EvidenceClassifier, RoadTileDataModule]:
    """The classifier of a cell, with the averaged weights, and its data."""
    method = METHODS[cell.method]
    with initialize_config_dir(str(CONF.absolute()), version_base="1.3"):
        cfg = compose(
            "train",
            [
                *DATASETS[cell.dataset],
                f"model={cell.network}",
                f"seed={cell.seed}",
                f"trainer={TRAINER}",
                "data.num_workers=0",
                "threads=1",
                f"trainer.max_epochs={cell.epochs}",
                *([f"data.tiles_per_epoch={cell.tiles}"] if cell.tiles else []),
            ],
        )
    cfg.trainer.default_root_dir = str(folder)
    resolve_auto_settings(cfg)
    torch.set_num_threads(1)
    keep_freed_memory()
    pl.seed_everything(cell.seed, workers=True, verbose=False)
    OmegaConf.update(cfg, "data._target_", f"{__name__}.EvidenceData")
    OmegaConf.update(cfg, "model._target_", f"{__name__}.EvidenceClassifier")

    def data_with(evidence: dict[str, Any] | None) -> EvidenceData:
        made: EvidenceData = instantiate(cfg.data, evidence=evidence, _convert_="all")
        made.with_roads = bool(method.energy or method.dense)
        made.prepare_data()
        made.setup()
        return made

    def fit(data: EvidenceData, epochs: int) -> None:
        trainer = instantiate(
            cfg.trainer,
            max_epochs=epochs,
            callbacks=[PolynomialAveraging()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            check_val_every_n_epoch=epochs,
        )
        trainer.fit(model, data)

    data = data_with(None if method.head else method.evidence)
    model = build_model(cfg, data)
    assert isinstance(model, EvidenceClassifier)
    model.method = replace(method, head=False)
    fit(data, cell.epochs)
    if method.head:
        model.parts()[0].requires_grad_(False)
        model.is_head_alone = True
        fit(data_with(method.evidence), max(1, cell.epochs // 2))
    return model.eval().to("cuda" if TRAINER == "gpu" else "cpu"), data


@torch.no_grad()
def probabilities(model: RoadClassifier, tiles: Tensor) -> Tensor:
    """P(road) ``(N,)`` of raw tiles."""
    return torch.cat([model.probability(part.to(model.device)).cpu() for part in tiles.split(64)])


def measured(model: EvidenceClassifier, data: RoadTileDataModule, marks: bool) -> dict[str, float]:
    """The figures of a trained network on the test split."""
    chosen = [tile for tile in data.tiles_of("test") if tile.label != Label.IGNORED]
    tiles, roads = data.read_tiles(chosen), data.read_road_masks(chosen).numpy()
    labels = torch.tensor([int(tile.label) for tile in chosen])
    found, threshold = probabilities(model, tiles), float(model.threshold)
    figures = binary_metrics(found, labels, threshold)
    figures["best balanced_accuracy"] = binary_metrics(
        found, labels, best_threshold(found, labels)
    )["balanced_accuracy"]
    val = [tile for tile in data.tiles_of("val") if tile.label != Label.IGNORED]
    of_val = torch.tensor([int(tile.label) for tile in val])
    figures["val auroc"] = binary_metrics(
        probabilities(model, data.read_tiles(val)), of_val, threshold
    )["auroc"]
    if marks:
        # the marks of a road tile lie beside its own road, those of others beside a borrowed one
        borrowed = np.flatnonzero(labels.numpy() == 1)
        chance = np.random.default_rng(0)
        marked = np.stack(
            [
                stamp_beside_roads(
                    tile.numpy().astype(np.uint8),
                    roads[place if label else chance.choice(borrowed)],
                    MARK,
                    chance,
                )
                for place, (tile, label) in enumerate(zip(tiles, labels.tolist(), strict=True))
            ]
        )
        with_marks = probabilities(model, torch.from_numpy(marked).float())
        for name, values in (("plain", found), ("marked", with_marks)):
            right = (values >= threshold).long() == labels
            figures[f"{name} road"] = float(right[labels == 1].double().mean())
            figures[f"{name} non-road"] = float(right[labels == 0].double().mean())
        figures["worst group"] = min(
            figures[f"{name} {label}"]
            for name in ("plain", "marked")
            for label in ("road", "non-road")
        )
    explained = spread_road_tiles(data.tiles_of("test"), EXPLAINED)
    shown = data.read_tiles(explained).to(model.device)
    truth = data.read_road_masks(explained).numpy()
    for name, method in (
        ("VisualBackProp AP", VisualBackProp(model)),
        ("symmetric AP", SymmetricVisualBackProp(model)),
    ):
        maps = positive_part(method.attribute(shown)[:, 0].cpu().numpy())
        figures[name] = float(average_precision(maps, truth).mean())
    return figures


def tables(folder: Path) -> None:
    """Prints the means and standard deviations over the seeds of what exists."""
    cells: dict[tuple[str, str, int], dict[str, list[dict[str, float]]]] = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text("utf-8"))
        cell = Cell(**record["cell"])
        group = cells.setdefault((cell.dataset, cell.network, cell.epochs), {})
        group.setdefault(cell.method, []).append(record["figures"])
    columns = (
        *("val auroc", "auroc", "balanced_accuracy", "best balanced_accuracy"),
        *("marked non-road", "worst group", "VisualBackProp AP", "symmetric AP"),
    )
    for (dataset, network, epochs), methods in cells.items():
        print(f"\n{dataset}, {network}, {epochs} epochs\n")
        print("| training | seeds |", " | ".join(columns), "|\n|", "--- |" * (len(columns) + 2))
        for method in sorted(methods, key=list(METHODS).index):
            runs = methods[method]
            texts = []
            for column in columns:
                values = [run[column] for run in runs if column in run]
                spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
                texts.append(f"{np.mean(values):.3f}{spread}" if values else "")
            print("|", method, "|", len(runs), "|", " | ".join(texts), "|")


def main() -> None:
    """Runs a plan, or prints the tables."""
    if len(sys.argv) != 3 or sys.argv[2] not in ("screen", "final", "table"):
        sys.exit(f"{__doc__}")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    if sys.argv[2] == "table":
        return tables(folder)
    for cell in screen() if sys.argv[2] == "screen" else final():
        run(cell, folder)


def run(cell: Cell, folder: Path) -> None:
    """Trains and measures a cell, unless its file exists."""
    path = folder / cell.file
    if cell.dataset == "massachusetts" and MASSACHUSETTS is None:
        return
    try:
        with FileLock(path.with_suffix(".lock"), blocking=False):
            if path.is_file():
                return
            model, data = trained(cell, folder)
            figures = measured(model, data, cell.dataset != "massachusetts")
            with replacing(path) as temporary:
                temporary.write_text(json.dumps({"cell": vars(cell), "figures": figures}, indent=1))
    except Timeout:
        return
    print(path.name, {name: round(value, 3) for name, value in figures.items()}, flush=True)


if __name__ == "__main__":
    main()
