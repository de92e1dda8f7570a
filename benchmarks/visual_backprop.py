"""The cost of VisualBackProp relative to a forward pass, and its numerical error.

Times an eager float32 forward pass of each network (eval mode, no gradients, default memory format)
and the probability together with the mask, interleaved in one process, and compares medians. The
error is the largest difference of a normalised mask from the mask computed in float64 without
fusing.

    python benchmarks/visual_backprop.py [repeats]
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vbp_lightning.attribution import UPSAMPLINGS, VisualBackProp
from vbp_lightning.models.networks import RoadNetwork

LIMITS = {("strided", 64): 0.60, ("maxpool", 64): 0.36, ("strided", 1): 1.3, ("maxpool", 1): 1.3}
"""Limits for the upsampling of the paper, in forward passes of the same tiles."""


def network(architecture: str) -> RoadNetwork:
    """A network whose batch norms are no identity, like those of a trained one."""
    net = RoadNetwork(architecture, "hidden", mean=[110.0, 115.0, 105.0], std=[45.0, 42.0, 40.0])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return net.eval()


def medians(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each call, the calls being interleaved."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(each) for name, each in times.items()}


def error(net: RoadNetwork, tiles: Tensor, upsampling: str) -> float:
    """Largest difference of a mask from the float64 reference."""
    reference = VisualBackProp(copy.deepcopy(net).double(), upsampling, fuse=False)
    mask = VisualBackProp(net, upsampling).attribute(tiles)
    return float((mask - reference.attribute(tiles.double())).abs().max())


def main(repeats: int) -> None:
    """Prints one row for each network, number of tiles and upsampling."""
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {repeats} repeats")
    print("network  tiles  what                     ms  ratio  limit    error")
    for architecture in ("strided", "maxpool"):
        net = network(architecture)
        for count in (64, 1):
            tiles = torch.rand(count, 3, 96, 96) * 255

            def forward(net: RoadNetwork = net, tiles: Tensor = tiles) -> Tensor:
                with torch.no_grad():
                    return net(tiles)

            calls: dict[str, Callable[[], object]] = {"forward pass": forward}
            for name in UPSAMPLINGS:
                method = VisualBackProp(net, name)
                calls[name] = lambda method=method, tiles=tiles: method.attribute_with_logits(tiles)
            times = medians(calls, repeats if count > 1 else 10 * repeats)
            for name, each in times.items():
                ratio = each / times["forward pass"]
                row = f"{architecture:8} {count:5}  {name:18} {each:8.2f} {ratio:6.2f}"
                if name in UPSAMPLINGS:
                    limit = LIMITS[architecture, count] if name == "deconv" else None
                    row += f" {limit or '':>6} {error(net, tiles, name):8.1e}"
                print(row, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
