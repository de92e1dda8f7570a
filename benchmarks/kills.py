"""Kills runs at many moments, resumes them and compares all results with those of a whole run.

``python benchmarks/kills.py [--kinds one,workers,ddp,ddp-workers] [--every N]``: every run trains
on tiny procedural scenes. A run is killed (SIGKILL) in the middle of an epoch, during validation,
during the last evaluation, and before and after the renaming of each file it writes. Checkpoints,
metrics, predictions, panels and TensorBoard's scalars of the resumed run must equal those of the
run that was not killed, to the last bit. Prints one line for each kill; exits with 1 if one
differs.
"""

import argparse
import itertools
import os
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import vbp_lightning.callbacks
import vbp_lightning.training.check
import vbp_lightning.training.report  # noqa: F401  the imports of a run, before it is forked
from vbp_lightning.models import RoadClassifier

TRAIN = Path(__file__).parents[1] / "train.py"
SETTINGS = (
    *("data.source.scenes=8", "data.source.size=288", "data.tiles_per_epoch=64", "threads=1"),
    *("data.batch_size=16", "callbacks.panels.tiles=4", "trainer.max_epochs=3", "seed=3"),
)
KINDS = {
    "one": ("data.num_workers=0",),
    "workers": ("data.num_workers=2",),
    "ddp": ("data.num_workers=0", "trainer=ddp"),
    "ddp-workers": ("data.num_workers=2", "trainer=ddp"),
}
STEPS = {"training_step": (1, 6, 11), "validation_step": (2, 4), "predict_step": (1,)}
"""Calls of a method of the classifier in which the process is killed: one or two epochs in."""

PARTS = (
    *("epoch", "global_step", "state_dict", "current_model_state", "averaging_state"),
    *("optimizer_states", "lr_schedulers"),
)
"""Parts of a checkpoint that are compared."""

Kill = Callable[[], None]


def run(arguments: tuple[str, ...], log: Path, prepare: Kill | None = None) -> int:
    """Runs ``train.py`` in a forked process; returns its exit code, negative for a signal."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    code = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = [str(TRAIN), *arguments]
        if prepare:
            prepare()
        runpy.run_path(str(TRAIN), run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def die() -> None:
    """Ends this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_step(method: str, count: int) -> None:
    """Kills this process in the given call of a method of the classifier."""
    whole, calls = getattr(RoadClassifier, method), itertools.count(1)

    def counted(*arguments: object, **settings: object) -> object:
        if next(calls) == count:
            die()
        return whole(*arguments, **settings)

    setattr(RoadClassifier, method, counted)


def kill_at_renaming(count: int, *, after: bool) -> None:
    """Kills this process before or after the given renaming of a temporary file."""
    whole, calls = Path.replace, itertools.count(1)

    def counted(path: Path, target: Path) -> Path:
        is_due = next(calls) == count
        if is_due and not after:
            die()
        result = whole(path, target)
        if is_due:
            die()
        return result

    Path.replace = counted  # type: ignore[method-assign, assignment]


def record_renamings(names: Path) -> None:
    """Appends the name of each file that is written to a list."""
    whole = Path.replace

    def recorded(path: Path, target: Path) -> Path:
        with names.open("a") as file:
            file.write(f"{target.name}\n")
        return whole(path, target)

    Path.replace = recorded  # type: ignore[method-assign, assignment]


def moments(names: list[str]) -> Iterator[tuple[str, Kill]]:
    """Every moment at which a run is killed, with its name."""
    for method, counts in STEPS.items():
        for count in counts:
            yield f"{method} {count}", partial(kill_in_step, method, count)
    for number, name in enumerate(names, start=1):
        for after in (False, True):
            when = "after" if after else "before"
            yield (
                f"{when} renaming {number} {name}",
                partial(kill_at_renaming, number, after=after),
            )


def differences(one: object, other: object, place: str) -> list[str]:
    """The places at which two checkpoints differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = dict.fromkeys((*one, *other))
        pairs = ((one.get(key), other.get(key), f"{place}/{key}") for key in keys)
        return [found for pair in pairs for found in differences(*pair)]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = ((a, b, f"{place}/{n}") for n, (a, b) in enumerate(zip(one, other, strict=True)))
        return [found for pair in pairs for found in differences(*pair)]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        is_same = one.dtype == other.dtype and torch.equal(one, other)
    else:
        is_same = one == other
    return [] if is_same else [place]


def compare(whole: Path, resumed: Path) -> list[str]:
    """What differs between the results of two runs."""
    found = [str(path) for path in resumed.rglob(".*.tmp*")]
    for name in ("best.ckpt", "last.ckpt"):
        one, other = (
            torch.load(folder / "checkpoints" / name, weights_only=True)
            for folder in (whole, resumed)
        )
        for part in PARTS:
            found += differences(one[part], other[part], f"{name}/{part}")
        for key, state in one["callbacks"].items():
            scores = {n: v for n, v in state.items() if "path" not in n and n != "best_k_models"}
            state = other["callbacks"][key]
            found += differences(
                {name: value for name, value in scores.items() if name != "dirpath"},
                {name: state[name] for name in scores if name != "dirpath"},
                f"{name}/{key}",
            )
    files = ("metrics.json", "predictions.csv", "tiles.csv", "splits.csv")
    panels = [path.relative_to(whole) for path in (whole / "panels").iterdir()]
    for name in (*files, *panels):
        if (
            not (resumed / name).is_file()
            or (whole / name).read_bytes() != (resumed / name).read_bytes()
        ):
            found.append(str(name))
    return found + differences(scalars(whole), scalars(resumed), "events")


def scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's curves of a run: steps and values."""
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith("result/")  # written once more if the evaluation was killed
    }


def main() -> int:
    """Runs the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--only", default="", help="words of which a moment's name holds one")
    parser.add_argument("--every", type=int, default=1, help="the distance of moments in the list")
    parser.add_argument("--first", type=int, default=0, help="the first moment in the list")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the runs")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no kill after this time")
    chosen = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="kills_"))
    end = time.monotonic() + 60 * chosen.minutes
    kills = failures = 0
    for kind in chosen.kinds.split(","):
        settings = (*SETTINGS, *KINDS[kind], f"data.root={work / 'data'}")
        whole, log = work / f"{kind}_whole", work / f"{kind}.log"
        names = work / f"{kind}.names"
        code = run((*settings, f"hydra.run.dir={whole}"), log, partial(record_renamings, names))
        if code:
            print(f"{kind}: the run that is not killed ends with {code}: {log}")
            return 1
        written = [n for n in names.read_text().splitlines() if not n.startswith("scene_")]
        written = written[written.index("run.yaml") :]
        wanted = [
            moment
            for moment in moments([name for name in written if name != "manifest.json"])
            if not chosen.only or any(word in moment[0] for word in chosen.only.split())
        ]
        for name, kill in wanted[chosen.first :: chosen.every]:
            if time.monotonic() > end:
                break
            cut = work / "cut"
            shutil.rmtree(cut, ignore_errors=True)
            killed = run((*settings, f"hydra.run.dir={cut}"), log, kill)
            resumed = run((f"resume={cut}",), log)
            found = compare(whole, cut) if resumed == 0 else [f"exit code {resumed}: {log}"]
            if killed != -signal.SIGKILL:
                found.insert(0, f"was not killed, exit code {killed}")
            kills, failures = kills + 1, failures + bool(found)
            print(f"{kind}: {name}: {', '.join(found[:5]) or 'equal'}", flush=True)
    print(f"{kills} kills, {failures} with differences")
    if not chosen.keep and not failures:
        shutil.rmtree(work)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
