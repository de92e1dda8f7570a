"""Reads damaged and forged checkpoints, state dicts and run folders.

``python benchmarks/damaged_runs.py [--count N] [--kinds checkpoint,weights,folder] [--sample DIR]``

A small sweep is trained once. Its checkpoint, a state dict of it and its folders are then changed
``N`` times each: bytes are flipped, cut off, removed and repeated; values inside of them are
replaced by others of any type, size, shape and nesting, renamed and removed. Each is read in a
process of its own, in at most 30 s of computing and with at most 3 GiB more memory than the parent
has, by the functions that ``explain.py`` and ``train.py resume=`` call. It must be read, or refused
by one ``UserError``; what is read must give probabilities, and be whole if only bytes were changed.
Prints one line for each other outcome, and the numbers of all; exits with 1 if there is any other.

Linux only.
"""

import argparse
import csv
import io
import json
import logging
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import save as save_safetensors

import vbp_lightning.training.sweep as sweeps
from vbp_lightning.cli import explain_failure
from vbp_lightning.data.tiles.splits import KnownSplits
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.custom_model import load_weights
from vbp_lightning.explaining.subject import load_subject
from vbp_lightning.explaining.tile_sources import ImageTiles, own_data
from vbp_lightning.models import RoadClassifier
from vbp_lightning.models.fine_tuning import initialize_from
from vbp_lightning.training.folder import finished_metrics
from vbp_lightning.training.resumption import expand_resume, is_extended

_SECONDS = 30
_MEMORY = 3 << 30
_REPOSITORY = Path(__file__).parents[1]

_OVERRIDES = (
    *("data.source.scenes=3", "data.source.size=192", "data.tiles_per_epoch=16", "threads=1"),
    *(
        "data.batch_size=4",
        "trainer.max_epochs=1",
        "callbacks.panels=null",
        "callbacks.scores=null",
    ),
)


def odd_values(chance: random.Random) -> list[Any]:
    """Values of all types and sizes; some are valid."""
    deep: list[Any] = []
    for _ in range(chance.choice([30, 90, 200])):
        deep = [deep]
    shared: list[Any] = []
    for _ in range(40):
        shared = [shared, shared]
    texts = [
        "",
        "x",
        "\x1b[31m\n",
        "ä" * 5000,
        "/",
        "/proc",
        "https://example.invalid/a",
        "${oc.env:HOME}",
    ]
    numbers = [0, 1, -1, 2, 7, 1 << 31, 1 << 62, 1 << 70, -(1 << 80), 10**9, 0.5, 1e308, -1e-320]
    tensors = [torch.zeros(()), torch.ones(3), torch.zeros(2, 3, 4), torch.full((3,), math.nan)]
    tensors += [torch.zeros(3, dtype=torch.complex64), torch.zeros(8, dtype=torch.int8)]
    tensors += [
        torch.zeros(4, dtype=torch.bool),
        torch.zeros(1).expand(1 << 40),
        torch.ones(3).double(),
    ]
    tensors += [torch.eye(3).to_sparse(), torch.empty(1 << 40, device="meta")]
    tensors += [torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)]
    containers = [
        [],
        {},
        [None],
        [1, "a"],
        {1: 2},
        {"a": {}},
        [[0, 0, 1 << 40, 5, "train"]],
        deep,
        shared,
    ]
    return [None, True, False, math.nan, math.inf, *texts, *numbers, *tensors, *containers]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in nested containers, except the first one."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        found.append((*path, key))
        if isinstance(inner, dict | list) and len(path) < 8:
            found += places(inner, (*path, key))
    return found


def changed(content: Any, chance: random.Random, plain: bool = False) -> Any:
    """A copy with one to three values replaced, removed, renamed or repeated."""
    content = deepcopy(content)
    for _ in range(chance.choice([1, 1, 2, 3])):
        top = chance.choice(list(content)) if isinstance(content, dict) and content else None
        every = places(content)
        near = [path for path in every if path[0] == top] or every
        *way, key = chance.choice(near if chance.random() < 0.7 else every)
        inner = content
        for step in way:
            inner = inner[step]
        values = odd_values(chance)
        if plain:
            values = [each for each in values if not isinstance(each, torch.Tensor)][:-1]
        act = chance.choice(["replace", "replace", "replace", "remove", "rename", "repeat"])
        if act == "replace":
            inner[key] = chance.choice(values)
        elif act == "remove":
            del inner[key]
        elif act == "rename" and isinstance(inner, dict):
            inner[chance.choice(["x", 5, None, 1.5, "_target_"])] = inner.pop(key)
        elif isinstance(inner[key], list):
            inner[key] = inner[key] * chance.choice([2, 100_000])
    return content


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Bytes that are flipped, cut off, removed, repeated or zero."""
    act, start = chance.randrange(5), chance.randrange(max(1, len(data)))
    length = chance.choice([1, 4, 64, 4096])
    if act == 0:
        own = bytearray(data)
        for _ in range(chance.choice([1, 1, 8, 64])):
            own[chance.randrange(len(own))] ^= 1 << chance.randrange(8)
        return bytes(own)
    if act == 1:
        return data[:start]
    if act == 2:
        return data[:start] + data[start + length :]
    if act == 3:
        return data[:start] + data[start : start + length] * 2 + data[start + length :]
    return data[:start] + bytes(length) + data[start + length :]


def saved(content: Any, chance: random.Random) -> bytes:
    """What ``torch.save`` writes; rarely the old format, or an archive that is compressed."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=chance.random() > 0.05)
    data = file.getvalue()
    if chance.random() < 0.05 and zipfile.is_zipfile(file):
        packed = io.BytesIO()
        with (
            zipfile.ZipFile(file) as old,
            zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for part in old.infolist():
                new.writestr(part.filename, old.read(part))
            new.writestr("archive/more", bytes(1 << 28))
        data = packed.getvalue()
    return data


def outcome(act: Callable[[], None]) -> str:
    """Runs a function in a process with limits: ``read``, ``refused``, or what went wrong."""
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(receiving)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
            signal.alarm(4 * _SECONDS)  # other programs may need the processor
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            text = "read"
            try:
                act()
            except MemoryError:
                text = "MEMORY"
            except BaseException as error:  # every outcome counts
                explained = explain_failure(error)
                place = traceback.extract_tb(error.__traceback__)[-1]
                what = f"{type(error).__name__}: {str(error)[:150]!r}"
                text = f"TRACEBACK {what} at {place.filename}:{place.lineno}"
                if explained is not None:
                    lines = [each for each in explained.lines if "\n" in each or len(each) > 3000]
                    text = f"LONG {lines[0][:200]!r}" if lines else "refused"
            os.write(sending, text.encode(errors="replace")[:2000])
        finally:
            os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        text = pipe.read().decode()
    status = os.waitpid(child, 0)[1]
    if text:
        return text
    is_late = os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGXCPU, signal.SIGKILL)
    return "HANG" if is_late else f"CRASH {status}"


def read_checkpoint_in_all_ways(
    path: Path, image: Path, state: dict[str, torch.Tensor] | None
) -> None:
    """What ``explain.py``, and ``train.py init_from=``, do with a checkpoint.

    Args:
        path: The checkpoint.
        image: An image to explain.
        state: The weights that must be read; None if they may be others.
    """
    with_data = {"data": {"root": None, "split_file": None}, "network": {"_target_": None}}
    cfg = OmegaConf.create({"ckpt": str(path), "device": "cpu", "tta": None, **with_data})
    subject = load_subject(cfg)
    own = subject.classifier.state_dict() if subject.classifier else {}
    assert state is None or all(torch.equal(own[key], state[key]) for key in state), "changed"
    tiles = ImageTiles(subject.reader, [image]).choose(2)
    shares, _ = subject.probabilities(tiles.tiles, None)
    assert bool(((shares >= 0) & (shares <= 1)).all()), "no probabilities"
    with suppress(UserError):
        initialize_from(RoadClassifier(), path)
    own_data(subject.classifier, cfg.data)


def read_state(path: Path) -> None:
    """What ``explain.py network.weights=`` does."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    load_weights(network, path)
    assert bool(network.eval()(torch.ones(1, 3, 8, 8)).isfinite().all()), "no numbers"


def resume(sweep: Path) -> None:
    """What ``train.py resume=`` does with the folders before it trains."""
    job = next(path.parent.parent for path in sweep.glob("*/.hydra/hydra.yaml"))
    grid = SimpleNamespace(shape=(192, 192))
    names = [f"scene_{number:03d}" for number in range(3)]
    infos: Any = [SimpleNamespace(scene=SimpleNamespace(name=name), grid=grid) for name in names]
    refusals: list[Exception] = []
    for act in (
        lambda: expand_resume([f"resume={sweep}"]),
        lambda: _composed(expand_resume([f"resume={job}"]), job),
        lambda: finished_metrics(job),
        lambda: KnownSplits.read(job / "splits.csv", run=True).regions(infos),
        lambda: KnownSplits.read(job / "splits.csv").regions(infos),
        lambda: sweeps.write_summary(sweep),
    ):
        try:
            act()
        except (UserError, OmegaConfBaseException) as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def _composed(arguments: list[str], job: Path) -> None:
    stored = Path(arguments[0].partition("=")[2]) / f"{arguments[1].partition('=')[2]}.yaml"
    cfg = OmegaConf.load(stored)
    cfg.resume = str(job)
    is_extended(cfg, job)


def changed_folder(sweep: Path, chance: random.Random) -> str:
    """Changes one file of a sweep in place; returns its name."""
    job = next(path.parent.parent for path in sweep.glob("*/.hydra/hydra.yaml"))
    names = ["run.yaml", "run.yaml", "config.yaml", "overrides.yaml"]
    files = [sweep / "multirun.yaml", *(job / ".hydra" / name for name in names)]
    files += [job / "metrics.json", job / "splits.csv"]
    file = chance.choice(files)
    if file.name == "config.yaml" and chance.random() < 0.5:
        (job / ".hydra" / "run.yaml").unlink()
    if chance.random() < 0.4:
        file.write_bytes(damaged(file.read_bytes(), chance))
    elif file.suffix == ".csv":
        with file.open(newline="") as opened:
            rows = list(csv.reader(opened))
        for _ in range(3):
            row = chance.choice(rows)
            row[chance.randrange(len(row))] = str(chance.choice(odd_values(chance)[:23]))[:9999]
        with file.open("w", newline="") as opened:
            csv.writer(opened).writerows(rows)
    else:
        is_json = file.suffix == ".json"
        content = json.loads(file.read_text()) if is_json else yaml.safe_load(file.read_text())
        content = changed(content, chance, plain=True) if content else chance.choice([5, {"a": 1}])
        try:
            text = json.dumps(content) if is_json else yaml.safe_dump(content)
        except (RecursionError, TypeError):
            text = "[" * 3000 if is_json else "a: &a [x]\nb: [*a, *a]\n"
        if not is_json and chance.random() < 0.1:
            names = [
                f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]"
                for number in range(1, 12)
            ]
            text = "\n".join(["a0: &a0 [x]", *names, text])
        file.write_text(text)
    return file.name


def sample(folder: Path) -> Path:
    """The folder of a sweep of one small job, which is trained if there is none."""
    if not (folder / "multirun.yaml").is_file():
        command = [sys.executable, str(_REPOSITORY / "train.py"), "-m", "seed=0", *_OVERRIDES]
        command += [f"data.root={folder / 'scenes'}", f"hydra.sweep.dir={folder}"]
        subprocess.run(command, check=True, cwd=_REPOSITORY, stdout=subprocess.DEVNULL)
    return folder


def main() -> None:
    """Runs all cases and prints the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--kinds", default="checkpoint,weights,folder")
    parser.add_argument("--sample", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        sweep = sample(arguments.sample or Path(temporary) / "sample")
        job = next(path.parent.parent for path in sweep.glob("*/.hydra/hydra.yaml"))
        image = next((sweep / "scenes").glob("*/scene_000.tif"))
        whole = (job / "checkpoints" / "last.ckpt").read_bytes()
        content = torch.load(io.BytesIO(whole), weights_only=True)
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        state = dict(network.state_dict())
        bad = 0
        for kind in arguments.kinds.split(","):
            found: Counter[str] = Counter()
            for number in range(arguments.count):
                chance = random.Random(f"{kind} {number}")
                is_raw = chance.random() < 0.4
                path, what = Path(temporary) / "changed.ckpt", kind
                if kind == "checkpoint":
                    data = (
                        damaged(whole, chance)
                        if is_raw
                        else saved(changed(content, chance), chance)
                    )
                    path.write_bytes(data)
                    kept = content["state_dict"] if is_raw else None
                    result = outcome(
                        lambda path=path, kept=kept: read_checkpoint_in_all_ways(path, image, kept)
                    )
                elif kind == "weights":
                    path = Path(temporary) / chance.choice(["w.pt", "w.safetensors"])
                    if path.suffix == ".pt":
                        mine = state if is_raw else changed(state, chance)
                        data = saved(mine, chance)
                    else:
                        data = save_safetensors(state)
                        is_raw = True
                    path.write_bytes(damaged(data, chance) if is_raw else data)
                    result = outcome(lambda path=path: read_state(path))
                else:
                    folder = Path(temporary) / "sweep"
                    shutil.rmtree(folder, ignore_errors=True)
                    ignored = shutil.ignore_patterns("checkpoints", "scenes", "*.log", "events*")
                    shutil.copytree(sweep, folder, ignore=ignored)
                    what = changed_folder(folder, chance)
                    result = outcome(lambda folder=folder: resume(folder))
                found[result.partition(" ")[0]] += 1
                if result not in ("read", "refused"):
                    bad += 1
                    print(f"{kind} {number} {what}: {result}", flush=True)
            print(kind, dict(found), flush=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
