"""The cost of seamless maps: time relative to windows and to a forward pass, and peak memory.

    python benchmarks/scene_maps.py [repeats]        speed of both networks
    python benchmarks/scene_maps.py memory [sides]   peak memory of whole jobs, 4000 and 16000 px

Times are CPU seconds of one thread, medians of interleaved calls, which reduces the influence of
other processes. *windows* is the network on every 96 px window at stride 8, in batches of 64;
*probability* is the trunk and the sliding head over the same pixels, in the same process, float32,
channels last, with nothing fused on either side. *forward* is one eager float32 pass of the trunk
in the default memory format; *both maps* is the seamless probability and mask of the same pixels.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import rasterio
import torch
from rasterio.windows import Window

from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.models import RoadClassifier
from vbp_lightning.scene_maps.block_maps import block_maps
from vbp_lightning.scene_maps.mapping import SceneMapping
from vbp_lightning.scene_maps.output_grid import Block
from vbp_lightning.scene_maps.scene_job import MapSettings, scene_job
from vbp_lightning.scene_maps.seamless import SeamlessMapper
from vbp_lightning.scene_maps.split_network import split_network

SIDE = 1024
WINDOWED = 512
"""Side in pixels of the part whose windows are all computed, which takes 100 times as long."""

MIN_SPEEDUP, MAX_RATIO = 50, 1.5
MAX_MEMORY, MAX_GROWTH = 1.5, 1.1


def classifier(architecture: str) -> RoadClassifier:
    """An untrained network, whose computation costs as much as that of a trained one."""
    torch.manual_seed(0)
    return RoadClassifier(architecture, mean=[110.0] * 3, std=[45.0] * 3).eval()


def medians(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each call, the calls being interleaved."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(repeats + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if number:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(each) for name, each in times.items()}


@torch.no_grad()
def every_window(model: RoadClassifier, scene: np.ndarray) -> None:
    """P(road) of all windows of a scene at stride 8."""
    view = np.lib.stride_tricks.sliding_window_view(scene, (96, 96), axis=(1, 2))[:, ::8, ::8]
    tiles = torch.from_numpy(view.transpose(1, 2, 0, 3, 4).reshape(-1, len(scene), 96, 96))
    for batch in torch.split(tiles, 64):
        model(batch.contiguous(memory_format=torch.channels_last))


def speed(repeats: int) -> None:
    """Prints a row for each network."""
    torch.set_num_threads(1)
    print(f"1 thread, CPU seconds, torch {torch.__version__}, {repeats} repeats")
    print("network   windows  probability  speedup | forward  both maps  ratio |  Mpx/s")
    rng = np.random.default_rng(0)
    scene = rng.uniform(1, 255, (SIDE, SIDE, 3)).astype(np.float32).transpose(2, 0, 1)
    wide = np.pad(scene, ((0, 0), (64, 64), (64, 64)), mode="wrap")
    seen = np.ones(wide.shape[1:], bool)

    def read(row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        place = np.s_[row : row + height, col : col + width]
        bands = np.ascontiguousarray(wide[:, place[0], place[1]].transpose(1, 2, 0))
        return bands.transpose(2, 0, 1), seen[place]

    # A block in the middle of a larger scene, so that its halo is included.
    block, shape = Block(64, 64, SIDE, SIDE), (SIDE + 128, SIDE + 128)
    for architecture in ("strided", "maxpool"):
        model = classifier(architecture)
        network = model.network
        mapper = SeamlessMapper(network, len(scene), upsampling="deconv")
        pixels = torch.from_numpy(np.ascontiguousarray(scene))[None]
        split = split_network(network, pixels[:, :, :96, :96])
        part = pixels[:, :, :WINDOWED, :WINDOWED].contiguous(memory_format=torch.channels_last)

        @torch.no_grad()
        def forward(split=split, pixels=pixels) -> None:
            split.trunk(pixels)

        @torch.no_grad()
        def probability(split=split, part=part) -> None:
            split.window_probabilities(split.trunk(part))

        times = medians(
            {
                "windows": lambda m=model: every_window(m, scene[:, :WINDOWED, :WINDOWED]),
                "probability": probability,
                "forward": forward,
                "both maps": lambda m=mapper: block_maps(m, read, shape, block),
            },
            repeats,
        )
        speedup = times["windows"] / times["probability"]
        ratio = times["both maps"] / times["forward"]
        print(
            f"{architecture:8} {times['windows']:7.2f} s {times['probability']:8.3f} s"
            f" {speedup:7.0f} x | {times['forward']:6.2f} s {times['both maps']:7.2f} s"
            f" {ratio:7.2f} | {SIDE**2 / 1e6 / times['both maps']:6.2f}",
            flush=True,
        )
    print(f"required: speedup at least {MIN_SPEEDUP}, ratio at most {MAX_RATIO}")


def whole_job(side: int, architecture: str) -> None:
    """Maps one scene in this process, from a GeoTIFF to GeoTIFFs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        path = folder / "scene.tif"
        with rasterio.open(
            path, "w", driver="GTiff", width=side, height=side, count=3, dtype="uint8",
            tiled=True, blockxsize=512, blockysize=512,
        ) as raster:  # fmt: skip
            for row in range(0, side, 512):
                for col in range(0, side, 512):
                    size = min(512, side - row), min(512, side - col)
                    part = rng.integers(0, 255, (3, *size), dtype=np.uint8)
                    raster.write(part, window=Window(col, row, size[1], size[0]))
        model = classifier(architecture)
        mapper = SeamlessMapper(model.network, 3, upsampling="deconv")
        (folder / "maps").mkdir()
        settings = MapSettings(
            folder / "maps", Reading(), (110.0,) * 3, mapper.window, mapper.step, 1024,
            "percentile",
        )  # fmt: skip
        mapping = SceneMapping(mapper, model, [scene_job(path, settings)], shared_scale=False)
        trainer = pl.Trainer(
            accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        start = time.perf_counter()
        trainer.predict(mapping, return_predictions=False)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    print(
        f"{architecture:8} {side:6} px  peak {peak:.3f} GiB  {seconds:7.1f} s"
        f"  {side**2 / 1e6 / seconds:.2f} Mpx/s, of which computing {mapping.speed:.2f} Mpx/s",
        flush=True,
    )


def memory(sides: list[int]) -> None:
    """Prints the peak memory of whole jobs, each in its own process."""
    for architecture in ("strided", "maxpool"):
        for side in sides:
            subprocess.run([sys.executable, __file__, "job", str(side), architecture], check=True)
    print(f"required: at most {MAX_MEMORY} GiB, and the largest {MAX_GROWTH} times the smallest")


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["job"]:
        whole_job(int(words[1]), words[2])
    elif words[:1] == ["memory"]:
        memory([int(word) for word in words[1:]] or [4000, 16000])
    else:
        speed(int(words[0]) if words else 5)
