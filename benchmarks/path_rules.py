"""Whether the sum over all paths finds roads better than the main path alone, in branched networks.

    python benchmarks/path_rules.py --massachusetts DIR

Trains a residual, a dense and a U-Net-like network on the procedural scenes and, with
``--massachusetts``, on the Massachusetts Roads dataset, and scores both rules against the road
pixels of the test split. The trained weights are kept in ``--folder``, and a second call only
scores. The *main path* is a chain: from the deepest activation down, at each addition or
concatenation along the branch with the most activations; the other branches are left out.
"""

import argparse
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from vbp_lightning import RoadClassifier, RoadTileDataModule, VisualBackProp
from vbp_lightning.attribution.scores import Target
from vbp_lightning.attribution.upsampling import UPSAMPLINGS
from vbp_lightning.callbacks import PolynomialAveraging
from vbp_lightning.data.datasets.pattern_scenes import PatternScenes
from vbp_lightning.data.datasets.scene import Split
from vbp_lightning.data.settings import SceneSource
from vbp_lightning.data.synthetic.generator import SyntheticScenes
from vbp_lightning.data.tiles.tile import Label
from vbp_lightning.evaluation.bootstrap import mean_interval
from vbp_lightning.evaluation.cross_fitting import choose_setting, localisation_scores
from vbp_lightning.explaining.compared_methods import EvaluationTiles, maps_of, road_tiles
from vbp_lightning.graph.geometry import Layer
from vbp_lightning.graph.network_graph import graph_of
from vbp_lightning.graph.running import forward
from vbp_lightning.models.networks import Normalize
from vbp_lightning.training.preparation import keep_freed_memory

ROOT = "outputs/data/synthetic"
BATCH = 64
SCORES = {
    "average_precision": "AP: all paths, main path, lead",
    "relevance_mass": "mass",
    "sharpened_mass": "mass, best power",
    "pointing_game_2px": "pointing, 2 px",
}


def conv(below: int, above: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size up to its stride."""
    return nn.Conv2d(below, above, kernel, stride, kernel // 2, bias=False)


def block(below: int, above: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(conv(below, above, 3, stride), nn.BatchNorm2d(above), nn.ReLU())


class Residual(nn.Module):
    """A basic block of a ResNet (He et al. 2016): the ReLU follows the addition."""

    def __init__(self, below: int, above: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            block(below, above, stride), conv(above, above), nn.BatchNorm2d(above)
        )
        self.shortcut = nn.Sequential()
        if below != above:
            self.shortcut = nn.Sequential(conv(below, above, 1, stride), nn.BatchNorm2d(above))

    def forward(self, maps: Tensor) -> Tensor:
        """Adds the branch and the shortcut."""
        return torch.relu(self.branch(maps) + self.shortcut(maps))


class Dense(nn.Module):
    """A layer of a DenseNet (Huang et al. 2017): its maps are appended to those below."""

    def __init__(self, below: int, growth: int) -> None:
        super().__init__()
        self.added = nn.Sequential(nn.BatchNorm2d(below), nn.ReLU(), conv(below, growth))

    def forward(self, maps: Tensor) -> Tensor:
        """Concatenates."""
        return torch.cat([maps, self.added(maps)], 1)


class UNet(nn.Module):
    """An encoder of three levels, and a decoder with skip connections (Ronneberger et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 24, 48, 96)
        pairs = list(zip((3, *widths), widths, strict=False))
        self.down = nn.ModuleList(block(below, above) for below, above in pairs)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(above, below, 2, 2) for below, above in pairs[:0:-1]
        )
        self.merge = nn.ModuleList(block(2 * below, below) for below, _ in pairs[:0:-1])

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the input's size."""
        skipped = []
        for level, each in enumerate(self.down):
            maps = each(nn.functional.max_pool2d(maps, 2) if level else maps)
            skipped.append(maps)
        for up, merge, skip in zip(self.up, self.merge, skipped[-2::-1], strict=True):
            maps = merge(torch.cat([skip, up(maps)], 1))
        return maps


def residual() -> nn.Sequential:
    """A ResNet of three stages with two blocks each, 64 channels at a stride of 8."""
    stages = ((16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))
    blocks = (Residual(*each) for each in stages)
    return nn.Sequential(block(3, 16, 2), *blocks)


def dense() -> nn.Sequential:
    """A DenseNet of three blocks with four layers each."""
    layers: list[nn.Module] = [conv(3, 24, 3, 2)]
    width, growth = 24, 16
    for stage in range(3):
        for _ in range(4):
            layers.append(Dense(width, growth))
            width += growth
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        if stage < 2:
            layers += [conv(width, width // 2, 1), nn.AvgPool2d(2)]
            width //= 2
    return nn.Sequential(*layers)


NETWORKS = {"residual": (residual, 64), "dense": (dense, 118), "U-Net": (UNet, 8)}
"""Makes the part with maps, and the number of its channels."""


def classifier(name: str, data: RoadTileDataModule, seed: int) -> RoadClassifier:
    """A road classifier with one of the branched networks."""
    pl.seed_everything(seed, verbose=False)
    trunk, width = NETWORKS[name]
    model = RoadClassifier(mean=data.mean, std=data.std, learning_rate=5e-3)
    model.network = nn.Sequential(  # type: ignore[assignment]
        Normalize(data.mean, data.std),
        trunk(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 1),
    )
    return model


def trained(
    name: str, data: RoadTileDataModule, seed: int, epochs: int, file: Path
) -> RoadClassifier:
    """A trained network, read from a file if it was trained before."""
    model = classifier(name, data, seed)
    if not file.is_file():
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            limit_val_batches=0,
            callbacks=[PolynomialAveraging()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(model, data)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), file)
    model.load_state_dict(torch.load(file))
    return model.eval()


@torch.no_grad()
def auroc(model: RoadClassifier, data: RoadTileDataModule, split: Split) -> float:
    """Area under the ROC curve over the labelled tiles of a split."""
    tiles = [tile for tile in data.tiles_of(split) if tile.label != Label.IGNORED]
    logits = torch.cat([model(part)[:, 0] for part in torch.split(data.read_tiles(tiles), BATCH)])
    return float(roc_auc_score([tile.label == Label.ROAD for tile in tiles], logits))


class MainPath:
    """VisualBackProp along the main path.

    Args:
        model: The network.
        upsampling: As for VisualBackProp.
    """

    def __init__(self, model: nn.Module, upsampling: str) -> None:
        self.model = model
        self.upsample = UPSAMPLINGS[upsampling]

    @torch.no_grad()
    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """``(N, C, H, W)`` to ``(N, 1, H, W)`` in [0, 1]; the target is ignored."""
        graph = graph_of(self.model, inputs)
        averages = forward(graph, inputs).averages
        step = max(graph.activations, key=lambda each: each.depth)
        mask = averages[step]
        layers: list[Layer] = []
        while step.sources:
            if step.layer is not None:
                layers.insert(0, step.layer)
            step = max(step.sources, key=lambda each: each.depth)
            if step.activates:
                mask = self.upsample(mask, layers) * averages[step]
                mask = mask / mask.amax((1, 2, 3), keepdim=True).clamp(min=1e-30)
                layers = []
        mask = self.upsample(mask, layers)
        lowest, highest = mask.amin((1, 2, 3), True), mask.amax((1, 2, 3), True)
        return (mask - lowest) / (highest - lowest).clamp(min=1e-30)


def compare(model: RoadClassifier, tiles: EvaluationTiles, val: EvaluationTiles) -> None:
    """Prints a row for each upsampling: both rules, and the paired lead with its interval."""
    for upsampling in ("deconv", "deconv_normalized", "nearest", "bilinear", "resize_conv"):
        every, main = (
            localisation_scores(
                maps_of(method, tiles.tiles, None),
                tiles.truth,
                choose_setting(maps_of(method, val.tiles, None), val.truth),
            )
            for method in (VisualBackProp(model, upsampling), MainPath(model, upsampling))
        )
        cells = [upsampling]
        for name in SCORES:
            lead = mean_interval(every[name] - main[name], tiles.scenes)
            cells.append(
                f"{every[name].mean():.3f}, {main[name].mean():.3f}, "
                f"{lead.mean:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]"
            )
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Trains and prints one table for each data set, seed and network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--massachusetts", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("outputs/path_rules"))
    parser.add_argument("--networks", nargs="+", choices=[*NETWORKS], default=[*NETWORKS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    sources: dict[str, SceneSource] = {"procedural": SyntheticScenes(ROOT)}
    if arguments.massachusetts:
        sources["Massachusetts"] = PatternScenes(
            arguments.massachusetts, "{split}/sat/{name}.tif*", "{split}/map/{name}.tif*",
            white_area=256,
        )  # fmt: skip
    for seed in arguments.seeds:
        for place, source in sources.items():
            data = RoadTileDataModule(source, tiles_per_epoch=3072, num_workers=0, seed=seed)
            data.prepare_data()
            data.setup()
            tiles = road_tiles(data, "test", 10**6, 0, torch.device("cpu"))
            val = road_tiles(data, "val", 64, 0, torch.device("cpu"))
            share = tiles.truth.mean()
            for name in arguments.networks:
                start = time.perf_counter()
                file = arguments.folder / f"{place}_{name}_{seed}.pt"
                model = trained(name, data, seed, arguments.epochs, file)
                took = time.perf_counter() - start
                print(
                    f"\n{name}, {place}, seed {seed}: {sum(p.numel() for p in model.parameters())} "
                    f"parameters, AUROC val {auroc(model, data, 'val'):.4f}, test "
                    f"{auroc(model, data, 'test'):.4f} ({took:.0f} s); {len(tiles.tiles)} road "
                    f"tiles, road share {share:.3f}\n"
                )
                print(f"| upsampling | {' | '.join(SCORES.values())} |")
                print("| --- |" + " --- |" * len(SCORES), flush=True)
                compare(model, tiles, val)


if __name__ == "__main__":
    main()
