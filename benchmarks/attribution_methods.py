"""The cost of each attribution method per tile, as a multiple of one forward pass.

Times an eager float32 forward pass of each road network (eval mode, no gradients) and every method
with its settings in ``conf/method``, interleaved in one process, and compares medians. The forward
passes of the methods are included.

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
    EigenCam,
    GradCam,
    GuidedBackprop,
    GuidedGradCam,
    HiResCam,
    IntegratedGradients,
    LayerCam,
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
    "hires_cam": HiResCam,
    "layer_cam": LayerCam,
    "eigen_cam": EigenCam,
    "guided_grad_cam": GuidedGradCam,
    "lrp": Lrp,
    "lrp gamma=0.25": partial(Lrp, gamma=0.25),
    "integrated_gradients": IntegratedGradients,
    "smoothgrad": SmoothGrad,
    "occlusion": Occlusion,
}
MANY_PASSES = ("integrated_gradients", "smoothgrad", "occlusion")
FEW = 4
"""Number of tiles for methods that need many passes per tile."""


def network(architecture: Architecture, head: Head) -> RoadNetwork:
    """A network whose batch norms are no identity, like those of a trained one."""
    net = RoadNetwork(architecture, head, mean=[110.0, 115.0, 105.0], std=[45.0, 42.0, 40.0])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return net.eval()


def ratios(architecture: Architecture, count: int, repeats: int) -> tuple[float, dict[str, float]]:
    """Median milliseconds of a forward pass per tile, and each method's median as a multiple."""
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
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            if name in MANY_PASSES and repeat > max(1, repeats // 10):
                continue
            start = time.perf_counter()
            call()
            if repeat > 0:  # the first call is a warm-up
                times[name].append((time.perf_counter() - start) / sizes[name])
    medians = {name: statistics.median(each) for name, each in times.items()}
    plain = medians.pop("forward")
    return 1e3 * plain, {name: each / plain for name, each in medians.items()}


def main(repeats: int) -> None:
    """Prints a table with a row for each method and a column for each network and tile count."""
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {repeats} repeats")
    columns = {}
    for architecture in ("strided", "maxpool"):
        for count in (1, 64):
            times = repeats if count > 1 else 10 * repeats
            columns[f"{architecture}, {count}"] = ratios(architecture, count, times)
    print("| method | " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    plain = " | ".join(f"{each:.2f} ms" for each, _ in columns.values())
    print(f"| forward pass, per tile | {plain} |")
    for name in METHODS:
        row = " | ".join(f"{each[name]:.3g}" for _, each in columns.values())
        print(f"| {name} | {row} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
