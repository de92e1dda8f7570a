"""Kills programs and lets their disk fail at many moments, and continues them.

``python benchmarks/interruptions.py [--programs one,workers,…] [--faults kill,full,…] [--every N]``

Every program writes a small result: ``train.py`` with 0 and 2 loader workers, in one process and
in two (``ddp``), a sweep, procedural scenes, and tasks of ``explain.py``. It is killed (SIGKILL) in
the middle of an epoch, during validation and during the last evaluation. For each file and folder
that it writes, it is killed at the opening, at the first and the last write and at the renaming;
and there the disk becomes read-only, full, fails with EIO or ESTALE, its folder vanishes, or
another file or folder has the name.

A disk error must end with exit code 1 and one line, and leave all files readable that were
complete. Afterwards ``resume=``, or the same command if the line names no ``resume=``, must end
with the results of the program that was not interrupted, to the last bit, and without temporary
files. Prints one line for each fault and a table; exits with 1 if a result is wrong.

Linux only; the C compiler ``cc`` builds ``disk_faults.c``, by which system calls fail.
"""

import argparse
import ctypes
import errno
import glob
import itertools
import json
import logging
import os
import pickle
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import rasterio
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import vbp_lightning.callbacks
import vbp_lightning.explaining.tasks.benchmark
import vbp_lightning.explaining.tasks.projection
import vbp_lightning.explaining.tasks.scene
import vbp_lightning.training.check
import vbp_lightning.training.report  # noqa: F401  the imports of all programs, before the forks
from vbp_lightning.cli import RESUMED_BY
from vbp_lightning.models import RoadClassifier

HERE = Path(__file__).parent
TRAIN = (
    *("train.py", "data.source.scenes=8", "data.source.size=288", "data.tiles_per_epoch=64"),
    *("data.batch_size=16", "callbacks.panels.tiles=4", "threads=1", "seed=3", "data.root={data}"),
)
ONE = (*TRAIN, "trainer.max_epochs=2", "hydra.run.dir={folder}", "data.num_workers=0")
EXPLAIN = ("explain.py", "ckpt={ckpt}", "data.root={data}", "output={folder}", "tiles=4")
PROGRAMS = {
    "one": ONE,
    "workers": (*ONE, "data.num_workers=2"),
    "ddp": (*ONE, "trainer=ddp"),
    "ddp-workers": (*ONE, "trainer=ddp", "data.num_workers=2"),
    "sweep": (
        *("train.py", "-m", *TRAIN[1:], "hydra.sweep.dir={folder}", "trainer.max_epochs=1"),
        "model=strided,maxpool",
    ),
    "scenes": (*TRAIN, "data.root={folder}", "check=true", "hydra.run.dir={work}/check"),
    "attribution": (*EXPLAIN, "method=[visual_backprop,grad_cam]"),
    "scene": (
        *(*EXPLAIN, "task=scene", "block=192", "roads=true", "hardest=2", "split=test"),
        *("threads=1", "mode=seamless"),
    ),
    "benchmark": (*EXPLAIN, "task=benchmark", "method=saliency", "perturbed=0", "cascaded=2"),
    "projection": (*EXPLAIN, "task=projection", "points=12", "thumbnails=9", "perplexity=3"),
}
"""Program and arguments; the program writes to ``folder``."""

STEPS = {"training_step": (1, 3, 6), "validation_step": (2, 4), "predict_step": (1,)}
"""Calls of a method of the classifier in which the process is killed: one or two epochs in."""

PARTS = (
    *("epoch", "global_step", "state_dict", "current_model_state", "averaging_state"),
    *("optimizer_states", "lr_schedulers"),
)
"""Parts of a checkpoint that are compared."""

KILL, VANISH, IN_THE_WAY = -1, -2, -3
FAULTS = {
    "kill": KILL,
    "read-only": errno.EROFS,
    "full": errno.ENOSPC,
    "eio": errno.EIO,
    "estale": errno.ESTALE,
    "vanished": VANISH,
    "in-the-way": IN_THE_WAY,
}
_TEMPORARY = re.compile(rf"\.([^/]+)\.{re.escape(os.uname().nodename[:32])}\.\d+\.tmp")
_EVENTS = re.compile(r"events\.out\.tfevents\.[^/]*")
_DAMAGED = (OSError, ValueError, KeyError, EOFError, RuntimeError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Moment:
    """A call of the system by a program.

    Args:
        stage: The file or folder that is written, relative to the program's folder.
        call: ``mkdir``, ``open``, ``write``, ``rename``, or a method of the classifier.
        pattern: The names that the file has at this call, as a shell pattern.
        number: Of this call at these names, from 1.
    """

    stage: str
    call: str
    pattern: str
    number: int


@dataclass(frozen=True)
class Ended:
    """How a program ended: exit code, negative for a signal, standard error, recorded calls."""

    code: int
    errors: str
    calls: list[tuple[str, str]]


class Program:
    """A program that is interrupted.

    Args:
        name: A key of ``PROGRAMS``.
        work: The folder of all programs; this one writes to ``NAME/run`` in it.
    """

    def __init__(self, name: str, work: Path) -> None:
        self.name = name
        self.folder = work / name / "run"
        self.whole = work / name / "whole"
        self.log = work / f"{name}.log"
        places = {"folder": self.folder, "work": work, "data": work / "data"}
        places["ckpt"] = work / "one" / "whole" / "checkpoints" / "best.ckpt"
        self.command = [part.format(**places) for part in PROGRAMS[name]]

    def run(
        self,
        prepare: Callable[[], None] = lambda: None,
        resume: bool = False,
        extra: Sequence[str] = (),
    ) -> Ended:
        """Runs the program, or ``train.py resume=FOLDER``, in a forked process."""
        script, *arguments = *self.command, *extra
        if resume:
            arguments = [f"resume={self.folder}"]
        errors, record = self.log.with_suffix(".errors"), self.log.with_suffix(".calls")
        self.folder.parent.mkdir(exist_ok=True)
        process = os.fork()
        if not process:
            _run_here(script, arguments, (self.log, errors, record), self.folder, prepare)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        lines = [line.partition(" ") for line in record.read_text().splitlines()]
        return Ended(code, errors.read_text(), [(call, path) for call, _, path in lines])

    def moments(self, calls: list[tuple[str, str]]) -> Iterator[Moment]:
        """The first of each call, and the last writing, of each file and folder."""
        seen: dict[str, dict[tuple[str, str], int]] = {}
        for call, path in calls:
            stage = _EVENTS.sub("events.*", _TEMPORARY.sub(r"\1", path)) or "."
            pattern = _EVENTS.sub("events.*", _TEMPORARY.sub(r".\1.*.tmp", glob.escape(path)))
            counts = seen.setdefault(stage, {})
            counts[call, pattern] = counts.get((call, pattern), 0) + 1
        for stage, counts in seen.items():
            for (call, pattern), count in counts.items():
                if call in ("mkdir", "open", "write", "rename"):
                    yield Moment(stage, call, pattern, 1)
                if call == "write" and count > 1:
                    yield Moment(stage, call, pattern, count // 2 if "events" in stage else count)


def _run_here(
    script: str,
    arguments: list[str],
    files: tuple[Path, Path, Path],
    folder: Path,
    prepare: Callable[[], None],
) -> NoReturn:
    """Runs a program in this process and ends it."""
    code = 70
    try:
        flags = os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(files[0], flags | os.O_APPEND), 1)
        os.dup2(os.open(files[1], flags | os.O_TRUNC), 2)
        record = os.open(files[2], flags | os.O_TRUNC | os.O_APPEND)
        ctypes.CDLL(None).arm(str(folder).encode(), b"", b"", 0, 0, record)
        sys.argv = [str(HERE.parent / script), *arguments]
        prepare()
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def fail_at(folder: Path, moment: Moment, code: int, record: Path) -> None:
    """Lets the calls of this process fail from a moment on."""
    if moment.call in STEPS:
        kill_in_step(moment.call, moment.number)
        return
    file = os.open(record, os.O_WRONLY | os.O_APPEND)
    place = (moment.call.encode(), moment.pattern.encode(), moment.number)
    ctypes.CDLL(None).arm(str(folder).encode(), *place, code, file)


def kill_in_step(method: str, count: int) -> None:
    """Kills this process in the given call of a method of the classifier."""
    whole, calls = getattr(RoadClassifier, method), itertools.count(1)

    def counted(*arguments: object, **settings: object) -> object:
        if next(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments, **settings)

    setattr(RoadClassifier, method, counted)


def faults(program: Program, calls: list[tuple[str, str]]) -> Iterator[tuple[str, Moment]]:
    """Every fault of a program and its moment."""
    if "trainer.max_epochs=2" in program.command:
        for method, counts in STEPS.items():
            for count in counts:
                yield "kill", Moment(f"{method} {count}", method, "", count)
    early = {".", ".hydra", *(f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides"))}
    for moment in program.moments(calls):
        first = moment.number == 1
        yield "kill", moment
        if moment.call in ("open", "mkdir") and first:
            yield "read-only", moment
            yield from [("vanished", moment)] * (moment.stage not in early)
            if "*" not in moment.pattern:
                yield "in-the-way", moment
        if moment.call == "write":
            yield "full", moment
            yield ("estale" if first else "eio"), moment
        if moment.call == "rename":
            yield "eio", moment
            yield "estale", moment
            yield "in-the-way", moment


def try_fault(program: Program, fault: str, moment: Moment) -> list[str]:
    """Interrupts a program, continues it, and returns what is wrong."""
    folder, obstacle = program.folder, program.folder / moment.stage
    gone = folder.with_name(f"{folder.name}.gone")
    for old in (folder, gone):
        shutil.rmtree(old, ignore_errors=True)
        old.unlink(missing_ok=True)
    if fault == "in-the-way":
        obstacle.parent.mkdir(parents=True, exist_ok=True)
        obstacle.touch() if moment.call == "mkdir" else (obstacle / "file").mkdir(parents=True)
        ended = program.run()
        obstacle.unlink() if moment.call == "mkdir" else shutil.rmtree(obstacle)
    else:
        record = program.log.with_suffix(".calls")
        ended = program.run(partial(fail_at, folder, moment, FAULTS[fault], record))
        if ("fault", "") not in ended.calls and moment.call not in STEPS:
            return ["did not occur"]
    found = []
    if fault == "kill":
        if ended.code != -signal.SIGKILL:
            found.append(f"exit code {ended.code}, not killed")
    else:
        found += [f"exit code {ended.code}"] * (ended.code != 1)
        found += wrong_lines(ended.errors, program, moment)
        if fault not in ("read-only", "estale"):  # these disks refuse removals too
            found += [f"left {path}" for path in temporary_files(folder)]
    if fault == "vanished":
        found += [f"{folder} was made again"] * folder.exists()
        gone.rename(folder)
    calls = ended.calls
    # the last call before the fault is the one that failed
    before = calls[: calls.index(("fault", "")) - 1] if ("fault", "") in calls else []
    complete: set[str] = set()
    for call, path in before:
        if call == "rename":
            complete.add(path)
        elif call == "remove":
            complete.discard(path)
    found += [f"lost {path}" for path in sorted(complete) if not (folder / path).is_file()]
    found += [f"half-written {path}" for path in files_of(folder) if not readable(path)]
    named = re.search(r"resume=(\S+)", ended.errors)
    found += [f"names {named[1]}"] if named and named[1] != str(folder) else []
    is_stored = any((folder / name).is_file() for name in RESUMED_BY)
    resumed = program.run(resume=is_stored if fault == "kill" else bool(named))
    if resumed.code != 0:
        return [*found, f"going on: exit code {resumed.code}: {resumed.errors.strip()[-600:]}"]
    return found + compare(program.whole, folder)


def wrong_lines(errors: str, program: Program, moment: Moment) -> list[str]:
    """What is wrong with the lines that a program printed to standard error."""
    lines = errors.splitlines()
    is_sweep = program.name == "sweep"
    found = [f"printed {line[:400]!r}" for line in lines if not line.startswith("error: ")]
    if (len(lines) != 1 and not is_sweep) or not lines:
        found.append(f"{len(lines)} lines of errors")
    if not any(str(program.folder) in line for line in lines):
        found.append(f"the line does not name {moment.stage}: {errors[:300]!r}")
    return found


def files_of(folder: Path) -> list[Path]:
    """All files that a program wrote, without those that are hidden or of events."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and ".tmp" not in path.name
        and path.name[0] != "."
        and path.name != "train.log"
    )


def temporary_files(folder: Path) -> list[Path]:
    """What is left under temporary names."""
    return [path for path in folder.rglob(".*.tmp*") if path.is_file()]


def readable(path: Path) -> bool:
    """Whether a file is complete, by its format."""
    try:
        match path.suffix:
            case ".json" | ".geojson":
                json.loads(path.read_text())
            case ".csv":
                return len(pd.read_csv(path)) > 0
            case ".ckpt":
                torch.load(path, weights_only=True)
            case ".png":
                with Image.open(path) as picture:
                    picture.load()
            case ".tif":
                with rasterio.open(path) as raster:
                    raster.read()
            case ".npz":
                with np.load(path) as arrays:
                    return all(arrays[name] is not None for name in arrays)
            case ".yaml":
                return bool(yaml.safe_load(path.read_text()))
    except _DAMAGED:
        return False
    return True


def compare(whole: Path, other: Path) -> list[str]:
    """What differs between the results of two programs."""
    found = [str(path) for path in temporary_files(other)]
    for folder in (whole, other):
        found += [f"half-written {path}" for path in files_of(folder) if not readable(path)]
    names, others = ({path.relative_to(f) for path in files_of(f)} for f in (whole, other))
    found += [
        f"only in one: {name}"
        for name in names ^ others
        if "events.out" not in name.name and name.parts[0] != ".hydra"
    ]
    for name in sorted(names & others):
        one, two = whole / name, other / name
        if name.suffix == ".ckpt":
            found += different_checkpoints(one, two)
        elif name.name == "benchmark.csv":
            times = [t.filter(regex="^(?!ms_)") for t in (pd.read_csv(one), pd.read_csv(two))]
            found += [] if times[0].equals(times[1]) else [str(name)]
        elif name.suffix != ".yaml" and "events.out" not in name.name:
            found += [] if one.read_bytes() == two.read_bytes() else [str(name)]
    for events in {path.parent.relative_to(whole) for path in whole.rglob("tiles.csv")}:
        found += differences(scalars(whole / events), scalars(other / events), "events")
    return found


def different_checkpoints(one: Path, other: Path) -> list[str]:
    """The places at which two checkpoint files differ; paths are left out."""
    one, other, found = *(torch.load(path, weights_only=True) for path in (one, other)), []
    for part in PARTS:
        found += differences(one[part], other[part], part)
    for key, state in one["callbacks"].items():
        names = [name for name in state if "path" not in name and name != "best_k_models"]
        states = [{n: s[n] for n in names} for s in (state, other["callbacks"][key])]
        found += differences(*states, key)
    return found


def differences(one: object, other: object, place: str) -> list[str]:
    """The places at which two values differ."""
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


def scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's curves of a run: steps and values."""
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith("result/")  # written once more if the evaluation was killed
    }


def print_table(counts: dict[tuple[str, str, str], tuple[int, int]]) -> None:
    """Prints the number of faults of each stage and kind, and of those with a wrong result."""
    kinds = [fault for fault in FAULTS if any(key[2] == fault for key in counts)]
    print("|".join(["", " program ", " stage ", *(f" {kind} " for kind in kinds), ""]))
    print("|".join(["", *[" --- "] * (2 + len(kinds)), ""]))
    for program, stage in dict.fromkeys(key[:2] for key in counts):
        cells = []
        for kind in kinds:
            tried, wrong = counts.get((program, stage, kind), (0, 0))
            cells.append(f"{tried}" + f" ({wrong} wrong)" * (wrong > 0) if tried else "")
        print("|".join(["", f" {program} ", f" {stage} ", *(f" {cell} " for cell in cells), ""]))


def main() -> int:
    """Runs the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", default=",".join(PROGRAMS), help=f"of {', '.join(PROGRAMS)}")
    parser.add_argument("--faults", default=",".join(FAULTS), help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--only", default="", help="words of which a fault's name holds one")
    parser.add_argument("--every", type=int, default=1, help="the distance of faults in the list")
    parser.add_argument("--first", type=int, default=0, help="the first fault in the list")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no fault after this time")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the runs")
    chosen = parser.parse_args()
    library = Path(os.environ.get("LD_PRELOAD", ""))
    if library.name != "disk_faults.so":
        library = Path(tempfile.mkdtemp(prefix="interruptions_")) / "disk_faults.so"
        options = ("-shared", "-fPIC", "-O1", "-o", str(library))
        subprocess.run(["cc", *options, str(HERE / "disk_faults.c")], check=True)
        os.environ["LD_PRELOAD"] = str(library)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    work = library.parent
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # about the events of two runs
    warnings.filterwarnings("ignore", message=".*srun")  # on a machine that has SLURM
    Program("one", work).run(extra=["check=true"])  # writes the procedural scenes
    shutil.rmtree(work / "one")
    end = time.monotonic() + 60 * chosen.minutes
    counts: dict[tuple[str, str, str], tuple[int, int]] = {}
    names = chosen.programs.split(",")
    needs_run = any(PROGRAMS[name][0] == "explain.py" for name in names) and "one" not in names
    for name in ["one"] * needs_run + names:
        program = Program(name, work)
        ended = program.run()
        if ended.code:
            print(f"{name}: without a fault it ends with {ended.code}: {ended.errors}")
            return 1
        program.folder.rename(program.whole)
        wanted = [
            (fault, moment)
            for fault, moment in faults(program, ended.calls)
            if name in names and fault in chosen.faults.split(",")
        ]
        if chosen.only:
            words = chosen.only.split()
            wanted = [each for each in wanted if any(w in f"{each}" for w in words)]
        for fault, moment in wanted[chosen.first :: chosen.every]:
            if time.monotonic() > end:
                break
            try:
                found = try_fault(program, fault, moment)
            except Exception as error:
                found = [f"{type(error).__name__}: {error}"]
            key = (name, moment.stage, fault)
            tried, wrong = counts.get(key, (0, 0))
            counts[key] = tried + 1, wrong + bool(found)
            what = f"{name}: {moment.stage}: {moment.call} {moment.number}: {fault}"
            print(f"{what}: {'; '.join(found[:5]) or 'right'}", flush=True)
    print_table(counts)
    total, failures = (sum(each) for each in zip(*counts.values(), strict=True))
    print(f"{total} faults, {failures} wrong")
    if not chosen.keep and not failures:
        shutil.rmtree(work)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
