"""One table of what a CUDA card does: agreement with the CPU, speed, memory, and a resumed run.

    python benchmarks/gpu.py                        everything, at most 8 minutes on one card
    python benchmarks/gpu.py speed graphs           some parts
    python benchmarks/gpu.py --device cpu --quick   every row without a card, on small sizes

It needs no data. A row that needs a module that is not installed prints "skipped: no module X", and
a row that fails prints its error. Networks are untrained, with random statistics of their batch
norms. Differences are the largest ones from the CPU in float32. Times are medians of interleaved
calls after a warm-up, from CUDA events.
"""

import argparse
import copy
import importlib.util
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import cache, partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = ("strided", "maxpool")
ABSENT = [name for name in ("affine", "captum", "rasterio") if not importlib.util.find_spec(name)]
WARM_UP = 3


class Missing(type):
    """Stands for every name of a module that is not installed; a call raises an error."""

    def __getattr__(cls, _):
        return cls

    def __call__(cls, *_, **__):
        """Raises the error of an import."""
        raise ModuleNotFoundError(f"No module named {cls.__name__!r}", name=cls.__name__)


class StandIns(MetaPathFinder, Loader):
    """Imports stand-ins for absent modules, so that parts that do not call them can run."""

    def find_spec(self, name, path=None, target=None):
        """A specification of a stand-in."""
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in ABSENT else None

    def create_module(self, spec):
        """A module whose names all stand for the missing one."""
        module = ModuleType(spec.name)
        module.__getattr__ = lambda _: Missing(spec.name.split(".")[0], (), {})
        return module

    def exec_module(self, module):
        """Runs no code."""


sys.meta_path.append(StandIns())  # before the package is imported

from attribution_methods import METHODS, network  # noqa: E402

from vbp_lightning.attribution import UPSAMPLINGS, Lrp, VisualBackProp  # noqa: E402
from vbp_lightning.models import RoadClassifier, RoadNetwork  # noqa: E402


def attempt(call):
    """The text of a row, or why there is none."""
    try:
        return call()
    except ImportError as error:
        return f"skipped: no module {error.name}"
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}".replace("|", "/")


def milliseconds(call, device):
    """The time of one call, including the launch of its kernels."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def medians(calls, repeats, device):
    """Median milliseconds of interleaved calls."""
    for call in calls.values():
        for _ in range(min(WARM_UP, repeats)):
            call()
    rounds = [
        {name: milliseconds(call, device) for name, call in calls.items()} for _ in range(repeats)
    ]
    return {name: statistics.median(each[name] for each in rounds) for name in calls}


def against(plain, calls, what, o):
    """A row for each call: its time, and its multiple of that of the plain call."""
    for name, call in calls.items():

        def row(call=call):
            base, own = medians({"plain": plain, "own": call}, o.repeats, o.device).values()
            return f"{own:.3f} ms, {own / base:.2f} x"

        yield f"{name}{what}", attempt(row)


def random_tiles(count, device="cpu"):
    """Tiles of noise, the same on every device."""
    generator = torch.Generator().manual_seed(count)
    return (255 * torch.rand(count, 3, 96, 96, generator=generator)).to(device)


def agreement(architecture, o):
    """P(road) and the VisualBackProp masks against the CPU."""
    net, tiles = network(architecture, "hidden"), random_tiles(o.tiles)
    there = copy.deepcopy(net).to(o.device)
    calls = {"P(road)": torch.no_grad()(lambda net, tiles: net(tiles).double().sigmoid())}
    for way in UPSAMPLINGS:
        calls[f"mask {way}"] = lambda n, tiles, way=way: VisualBackProp(n, way).attribute(tiles)
    for name, call in calls.items():

        def row(call=call):
            expected, differences = call(net, tiles), []
            for rounded, bfloat16 in ((False, False), (True, False), (False, True)):
                torch.backends.cudnn.allow_tf32 = rounded
                with torch.autocast(o.device.type, torch.bfloat16, enabled=bfloat16):
                    found = call(there, tiles.to(o.device)).cpu()
                differences.append(f"{float((found - expected).abs().max()):.1e}")
            return ", ".join(differences)

        yield f"{name}: float32, TF32, bfloat16", attempt(row)


def methods(architecture, o):
    """Every attribution method against the CPU, as a share of its largest value there.

    SmoothGrad draws its noise on the device, so its difference is not that of rounding.
    """
    nets = {head: network(architecture, head) for head in ("hidden", "gap")}
    few, many = random_tiles(4), random_tiles(o.tiles, o.device)
    torch.backends.cudnn.allow_tf32 = False
    for name, method in METHODS.items():
        net = nets["gap" if name == "cam" else "hidden"]

        def row(method=method, net=net):
            expected = method(net).attribute(few, 1)
            made = method(copy.deepcopy(net).to(o.device))
            differences = (made.attribute(few.to(o.device), 1).cpu() - expected).abs()
            differences /= expected.abs().max().clamp(min=1e-30)  # a map may be zero
            spent = medians({"": partial(made.attribute, many, 1)}, 1, o.device)[""] / len(many)
            return f"{differences.max():.1e} ({differences.mean():.0e}), {spent:.3f} ms"

        yield f"{name}: largest (mean) difference, time of a tile", attempt(row)


def speed(architecture, o):
    """VisualBackProp and layer-wise relevance propagation against a plain forward pass."""
    net = network(architecture, "hidden").to(o.device)
    for count in o.counts:
        tiles = random_tiles(count, o.device)
        plain = torch.no_grad()(partial(net, tiles))
        calls = {
            "forward pass": plain,
            "VisualBackProp": partial(VisualBackProp(net, "deconv").attribute_with_logits, tiles),
            "VisualBackProp in its default chunks": partial(
                VisualBackProp(net, "deconv").attribute, tiles
            ),
            "LRP": partial(Lrp(net, chunk=count).attribute, tiles, 1),
            "LRP in its default chunks": partial(Lrp(net).attribute, tiles, 1),
        }
        yield from against(plain, calls, f", batch of {count}", o)


def graphs(architecture, o):
    """The same as CUDA graphs, and whether a replay on other tiles gives the eager masks."""
    if o.device.type != "cuda":
        raise RuntimeError("needs CUDA")
    net = network(architecture, "hidden").to(o.device)
    method = VisualBackProp(net, "deconv")
    for count in o.counts:
        tiles = random_tiles(count, o.device)
        plain, _ = captured(torch.no_grad()(partial(net, tiles)))
        replay, (_, masks) = captured(partial(method.attribute_with_logits, tiles))
        what, calls = f" in a CUDA graph, batch of {count}", {"VisualBackProp": replay}
        yield from against(plain, {"forward pass": plain} | calls, what, o)
        yield f"VisualBackProp{what}, against eager", replayed(replay, masks, method, tiles)
    for way in UPSAMPLINGS:

        def row(way=way):
            method = VisualBackProp(net, upsampling=way)
            replay, (_, masks) = captured(partial(method.attribute_with_logits, tiles))
            return replayed(replay, masks, method, tiles)

        yield f"VisualBackProp, {way}, in a CUDA graph, against eager", attempt(row)


def replayed(replay, masks, method, tiles):
    """The largest difference of the masks that a replay on other tiles gives from eager ones."""
    tiles.copy_(tiles.flip(2))
    replay()
    eager = method.attribute_with_logits(tiles)[1]
    return f"{(masks - eager).abs().max():.1e}"


def captured(call):
    """A function that replays a call as a CUDA graph, and the tensors that it writes."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries allocate their workspaces before the capture
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        written = call()
    return graph.replay, written


class Rate:
    """Measures steps a second: called at the start of every step and after the last one."""

    def __init__(self, device):
        self.device, self.steps, self.start = device, -WARM_UP, 0.0

    def __call__(self, last=False):
        """Counts a step; returns the rate after the warm-up if it was the last one."""
        if self.device.type == "cuda" and (last or self.steps == 0):
            torch.cuda.synchronize(self.device)
        if self.steps == 0:
            self.start = time.perf_counter()
        self.steps += not last
        return self.steps / (time.perf_counter() - self.start)


def bare(net, call, batches, o):
    """Steps a second of a plain loop; ``call`` is the network or its compiled form."""
    optimizer, rate = torch.optim.AdamW(net.parameters(), lr=5e-3), Rate(o.device)
    for tiles, labels in batches:
        rate()
        tiles = tiles.to(o.device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(o.device, torch.float32, non_blocking=True)
        with torch.autocast(o.device.type, torch.bfloat16, enabled=o.device.type == "cuda"):
            logits = call(tiles).squeeze(1).float()
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return rate(last=True)


def lightning(model, data, o):
    """Steps a second of Lightning with the settings of ``trainer=gpu``."""
    rate, found, cuda = Rate(o.device), [], o.device.type == "cuda"
    clock = pl.callbacks.LambdaCallback(
        on_train_batch_start=lambda *_: rate() and None,
        on_train_epoch_end=lambda *_: found.append(rate(last=True)),
    )
    trainer = pl.Trainer(
        accelerator="gpu" if cuda else "cpu", precision="bf16-mixed" if cuda else "32-true",
        devices=1, deterministic="warn", max_epochs=1, limit_val_batches=0, callbacks=[clock],
        logger=pl.loggers.TensorBoardLogger(o.folder, default_hp_metric=False), log_every_n_steps=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, default_root_dir=o.folder,
    )  # fmt: skip
    trainer.fit(model, data)
    torch.use_deterministic_algorithms(False)
    return found[0]


def training(architecture, o):
    """Training steps of 64 tiles a second, medians of three rounds."""

    def model():
        return RoadClassifier(architecture, mean=[110.0] * 3, std=[45.0] * 3).to(o.device)

    def median(call):
        return attempt(lambda: f"{statistics.median(call() for _ in range(o.rounds)):.1f}")

    batch = random_tiles(64, o.device), torch.arange(64, device=o.device) % 2
    for name, changed in (("", lambda net: net), (", torch.compile", torch.compile)):
        net = model().network.train()
        loop = partial(bare, net, changed(net), [batch] * o.steps, o)
        yield f"steps/s, tiles on the device{name}", median(loop)

    @cache
    def data(workers):
        from vbp_lightning.data import RoadTileDataModule

        source = {"_target_": "vbp_lightning.data.SyntheticScenes", "scenes": 8, "size": o.scene}
        settings = {"tiles_per_epoch": 64 * o.steps, "num_workers": workers}
        made = RoadTileDataModule(source, o.folder / "scenes", **settings)
        made.setup()
        return made

    def loaded(workers, pinned):
        loader, net = data(workers).train_dataloader(), model().network.train()
        loader.pin_memory = pinned
        return bare(net, net, loader, o)

    for workers in o.workers:
        for pinned in (False, True)[: 1 + (o.device.type == "cuda")]:
            name = f"steps/s, bare loop, {workers} workers{', pinned' * pinned}"
            yield name, median(partial(loaded, workers, pinned))
        run = lambda workers=workers: lightning(model(), data(workers), o)  # noqa: E731
        yield f"steps/s, Lightning, {workers} workers", median(run)


def scene(architecture, o):
    """Seamless maps of a scene in memory, from an array to the arrays of both maps."""
    from vbp_lightning.scene_maps.block_maps import block_maps
    from vbp_lightning.scene_maps.output_grid import blocks_of
    from vbp_lightning.scene_maps.seamless import SeamlessMapper

    net = RoadNetwork(architecture, "hidden", [110.0] * 3, [45.0] * 3).eval().to(o.device)
    mapper, shape = SeamlessMapper(net, 3, upsampling="deconv"), (o.side, o.side)
    pixels = np.random.default_rng(0).uniform(1, 255, (*shape, 3)).astype(np.float32)

    def read(row, col, height, width):
        part = np.ascontiguousarray(pixels[row : row + height, col : col + width])
        return part.transpose(2, 0, 1), np.ones((height, width), bool)

    for size in (o.side // 4, o.side // 2):

        def row(size=size):
            def whole():
                for block in blocks_of(shape, size):
                    block_maps(mapper, read, shape, block)

            return f"{o.side**2 / 1e3 / medians({'': whole}, 3, o.device)['']:.2f} Mpx/s"

        yield f"scene of {o.side} px, blocks of {size} px", attempt(row)


def resumption(architecture, o):
    """Differences of the weights after two equal runs, and after a kill and a resume."""
    import hydra  # noqa: F401

    from vbp_lightning.data import SyntheticScenes

    root = o.folder / architecture
    SyntheticScenes(o.folder / "data", scenes=24, size=288)()
    settings = (
        f"model={architecture} trainer={'gpu' if o.device.type == 'cuda' else 'cpu'} threads=1"
        f" trainer.deterministic=warn trainer.max_epochs=5 data.root={o.folder / 'data'}"
        " data.source.scenes=24 data.source.size=288 data.num_workers=2 data.tiles_per_epoch=512"
    ).split()

    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])

    def start(name, *arguments):
        with (o.folder / f"{name}.err").open("w") as errors:
            return subprocess.Popen(
                [sys.executable, "train.py", *arguments], cwd=ROOT, start_new_session=True,
                env=os.environ | {"PYTHONPATH": paths}, stdout=errors, stderr=errors,
            )  # fmt: skip

    def kill(job):
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)

    def weights(name):
        try:
            code = jobs[name].wait(max(10, o.deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise TimeoutError("the time is up") from error
        if code:
            raise RuntimeError((o.folder / f"{name}.err").read_text()[-160:])
        path = root / name / "checkpoints" / "last.ckpt"
        return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]

    def difference(name):
        pairs = zip(weights("whole").values(), weights(name).values(), strict=True)
        largest = max(float((one - other).abs().max()) for one, other in pairs)
        return f"{largest:.1e}" if largest else "bit-equal"

    names = ("whole", "again", "cut")
    jobs = {name: start(name, *settings, f"hydra.run.dir={root / name}") for name in names}
    try:
        cut, seen = jobs["cut"], root / "cut" / "panels" / "epoch_001.png"
        while cut.poll() is None and not seen.exists() and time.monotonic() < o.deadline:
            time.sleep(0.01)
        kill(cut)
        killed = cut.wait() == -signal.SIGKILL
        jobs["cut"] = start("cut", f"resume={root / 'cut'}")
        yield "two runs of one seed, 2 workers", attempt(partial(difference, "again"))
        name = "killed and resumed" if killed else "ended before it was killed, and resumed"
        yield f"{name}, 2 workers", attempt(partial(difference, "cut"))
    finally:
        for job in jobs.values():
            kill(job)


# A failed capture may disturb what follows in this process, so `graphs` is nearly the last.
PARTS = {p.__name__: p for p in (agreement, methods, speed, training, scene, graphs, resumption)}


def print_rows(name, o):
    """Prints the rows of a part, with a column for each network."""
    cuda, rows = o.device.type == "cuda", {}

    def run(architecture):
        if time.monotonic() > o.deadline:
            raise TimeoutError("the time is up")
        for row, text in PARTS[name](architecture, o):
            rows.setdefault(row, {})[architecture] = text
        kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak = torch.cuda.max_memory_allocated() if cuda else kibibytes * 1024
        return f"{peak / (1 << 30):.2f} GiB"

    ends = {}
    for architecture in ARCHITECTURES:
        torch.backends.cudnn.allow_tf32 = True  # torch's default
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        ends[architecture] = attempt(partial(run, architecture))
    for row, texts in (rows | {f"{name}: peak memory": ends}).items():
        print(f"| {row} | {' | '.join(texts.get(a, '') for a in ARCHITECTURES)} |", flush=True)


def main():
    """Prints the table."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no run is left behind
    parser = argparse.ArgumentParser(description="Prints one table of what a CUDA card does.")
    # not by choices: argparse of Python 3.11 refuses none of them
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no part begins")
    given = parser.parse_args()
    if unknown := [name for name in given.parts if name not in PARTS]:
        parser.error(f"unknown parts: {', '.join(unknown)}")
    small = {"tiles": 2, "counts": (1, 4), "repeats": 3, "steps": 6, "rounds": 1}
    large = {"tiles": 64, "counts": (1, 64, 1024), "repeats": 30, "steps": 100, "rounds": 3}
    sizes = small | {"scene": 192, "side": 512, "workers": (0, 2)}
    if not given.quick:
        sizes = large | {"scene": 576, "side": 4096, "workers": (0, 4)}
    device, end = torch.device(given.device), time.monotonic() + 60 * given.minutes
    torch.manual_seed(0)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"| {where}, torch {torch.__version__} | {' | '.join(ARCHITECTURES)} |")
    print("| --- | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        o = SimpleNamespace(device=device, deadline=end, folder=Path(folder), **sizes)
        for name in given.parts or PARTS:
            print_rows(name, o)


if __name__ == "__main__":
    main()
