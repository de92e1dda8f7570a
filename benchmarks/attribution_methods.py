"""What each attribution method costs a tile, as a multiple of one forward pass.

Times a plain eager float32 forward pass of each road network (eval mode, no gradients) and every
method with its settings of ``conf/methods``, in turn in one process, and compares medians. The
probability comes with a mask for nothing; the other methods' own forward passes are counted in.

    python benchmarks/attribution_methods.py [repeats]
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from vbp_lightning.attribution import (
    UPSAMPLINGS,
    Cam,
    DeconvNet,
    GradCam,
    GuidedBackprop,
    GuidedGradCam,
    IntegratedGradients,
    Lrp,
    Occlusion,
    Saliency,
    SmoothGrad,
    SymmetricVisualBackProp,
    VisualBackProp,
)
from vbp_lightning.models.networks import Architecture, Head, RoadNetwork

METHODS: dict[str, Callable[[nn.Module], Any]] = {
    **{f"visual_backprop {name}": partial(VisualBackProp, upsampling=name) for name in UPSAMPLINGS},
    "visual_backprop gradient": partial(VisualBackProp, weighting="gradient"),
    "symmetric_visual_backprop": SymmetricVisualBackProp,
    "saliency": Saliency,
    "guided_backprop": GuidedBackprop,
    "deconvnet": DeconvNet,
    "cam": Cam,
    "grad_cam": GradCam,
    "guided_grad_cam": GuidedGradCam,
    "lrp": Lrp,
    "lrp gamma=0.25": partial(Lrp, gamma=0.25),
    "integrated_gradients": IntegratedGradients,
    "smoothgrad": SmoothGrad,
    "occlusion": Occlusion,
}
MANY_PASSES = ("integrated_gradients", "smoothgrad", "occlusion")
FEW = 4
"""Of the tiles are enough for methods that take many passes for each, whatever its mates."""


def network(architecture: Architecture, head: Head) -> RoadNetwork:
    """A network with the statistics of a trained one: no batch norm is the identity."""
    net = RoadNetwork(architecture, head, mean=[110.0, 115.0, 105.0], std=[45.0, 42.0, 40.0])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return net.eval()


def ratios(architecture: Architecture, count: int, repeats: int) -> tuple[float, dict[str, float]]:
    """Median milliseconds a tile of a forward pass, and each method's median as a multiple."""
    tiles = 255 * torch.rand(count, 3, 96, 96)
    nets = {head: network(architecture, head) for head in ("hidden", "gap")}

    def forward() -> object:
        with torch.no_grad():
            return nets["hidden"](tiles)

    calls: dict[str, Callable[[], object]] = {"forward": forward}
    sizes = {"forward": count}
    for name, method in METHODS.items():
        made = method(nets["gap" if name == "cam" else "hidden"])
        sizes[name] = min(FEW, count) if name in MANY_PASSES else count
        calls[name] = partial(made.attribute, tiles[: sizes[name]], 1)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            if name in MANY_PASSES and turn > max(1, repeats // 10):
                continue
            start = time.perf_counter()
            call()
            if turn > 0:  # the first is for warming up
                times[name].append((time.perf_counter() - start) / sizes[name])
    medians = {name: statistics.median(each) for name, each in times.items()}
    plain = medians.pop("forward")
    return 1e3 * plain, {name: each / plain for name, each in medians.items()}


def main(repeats: int) -> None:
    """Prints one table: a row a method, a column for each network and number of tiles."""
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {repeats} repeats")
    columns = {}
    for architecture in ("strided", "maxpool"):
        for count in (1, 64):
            rotations = repeats if count > 1 else 10 * repeats
            columns[f"{architecture}, {count}"] = ratios(architecture, count, rotations)
    print("| method | " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    plain = " | ".join(f"{each:.2f} ms" for each, _ in columns.values())
    print(f"| forward pass, a tile | {plain} |")
    for name in METHODS:
        row = " | ".join(f"{each[name]:.3g}" for _, each in columns.values())
        print(f"| {name} | {row} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
