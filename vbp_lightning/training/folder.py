"""The folder of a run: its name, the lock on it, and the metrics of a finished run."""

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra.core.utils
from omegaconf import DictConfig, OmegaConf

from vbp_lightning.cli import FAILURE_FILE
from vbp_lightning.errors import UserError
from vbp_lightning.files import remove_leftovers, replacing
from vbp_lightning.jobs import is_first_process, job_name, job_start
from vbp_lightning.training.stored_files import stored_metrics

METRICS_FILE = "metrics.json"
SPLITS_FILE = "splits.csv"
CORRECTIONS_FILE = "corrections.csv"

_LONGEST_FOLDER_NAME = 200
_DIGEST = 12

_START_FILE = ".start"
"""In the folder of a run of several processes: the start of the job that writes the run."""

_POLL = 0.05
"""Seconds between two looks at it."""


def job_folder(overrides: Sequence[str], excluded: Sequence[str] = ()) -> str:
    """The name of the folder of a sweep's job: its overrides without special characters.

    Different overrides have different names: one that lost a character ends with a digest.

    Args:
        overrides: The ``key=value`` of the job.
        excluded: Keys, with their prefix and package, that are left out.

    Returns:
        ``key-value+key-value``, sorted, with ``_`` for characters other than ASCII letters, digits,
        ``_``, ``.`` and ``-``; at most 200 characters. ``default`` for no override.
    """
    chosen = (item for item in overrides if item.partition("=")[0] not in excluded)
    # an argument of a network is given without the + that Hydra is passed
    items = sorted(re.sub(r"^\+\+(?=model\.network\.)", "", item) for item in chosen)
    plain = [re.sub(r"[^\w.-]+", "_", item.replace("=", "-", 1), flags=re.ASCII) for item in items]
    name = "+".join(plain) or "default"
    is_kept = all(re.fullmatch(r"[\w.]+=[\w.-]+", item, re.ASCII) for item in items)
    if not is_kept or len(name) > _LONGEST_FOLDER_NAME:
        digest = hashlib.sha256(repr(items).encode()).hexdigest()[:_DIGEST]
        name = f"{name[: _LONGEST_FOLDER_NAME - _DIGEST - 1]}@{digest}"
    return name


# Hydra uses them while it composes a config, also in the processes of its launchers, which import
# this module
OmegaConf.register_new_resolver("run_type", lambda c: "check" if c else "train", replace=True)
OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)


def write_config(config: Any, path: Path) -> None:  # noqa: ANN401
    """Writes a config as YAML, completely or not at all.

    Args:
        config: A config, or what OmegaConf makes one of.
        path: The file to write or replace; its folder is made if the folder above it exists.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(path, subfolder=True) as temporary:
        temporary.write_text(OmegaConf.to_yaml(config), encoding="utf-8")


def _save(config: Any, f: Any, resolve: bool = False) -> None:  # noqa: ANN401
    if isinstance(f, str | Path) and not resolve:
        write_config(config, Path(f))
    else:
        _save_plainly(config, f, resolve)


def _save_of_job(cfg: DictConfig, filename: str, output_dir: Path) -> None:
    write_config(cfg, output_dir / filename)


# Hydra writes .hydra/*.yaml and multirun.yaml by these functions. They would leave partial files,
# by which a run or a sweep cannot be resumed.
_save_plainly = OmegaConf.save
OmegaConf.save = _save  # type: ignore[method-assign]
hydra.core.utils._save_config = _save_of_job


@contextmanager
def claimed(run_dir: Path, patience: float = 10, start_patience: float = 120) -> Iterator[None]:
    """Locks a run's folder, so that no other command writes to the run, and removes leftovers.

    The operating system frees the lock when the process ends, however it ends. In a distributed
    run the first process holds it; the other processes that SLURM or torchrun started wait until
    it does, so that all of them find the run in the same state.

    Args:
        run_dir: The run's folder.
        patience: Seconds to wait for the lock: the loader workers of a killed process hold it until
            they notice, which takes them up to 5 s.
        start_patience: Seconds that the other processes wait for the first one.

    Raises:
        UserError: Another process holds the lock, or the first process of the job did not start.
    """
    from filelock import FileLock, Timeout

    started = run_dir / _START_FILE
    if not is_first_process():
        if job_name() is not None:
            _wait_for_first(started, start_patience)
        yield
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(run_dir / ".claim").acquire(timeout=patience)
    except Timeout as error:
        raise UserError(
            f"{run_dir}: another process is writing this run (hydra.run.dir, resume);"
            " wait for it, or choose another folder"
        ) from error
    with lock:
        remove_leftovers(run_dir)
        # Lightning saves such a checkpoint when SLURM is about to end a job, and continues it if
        # there is no other: in the middle of an epoch, which would not be repeated exactly
        for old in (run_dir / FAILURE_FILE, *run_dir.glob("hpc_ckpt_*.ckpt")):
            old.unlink(missing_ok=True)
        if job_name() is not None:
            with replacing(started) as temporary:
                temporary.write_text(job_start())
        yield


def _wait_for_first(started: Path, patience: float) -> None:
    """Waits until the first process of this start of a job has locked the run's folder."""
    end = time.monotonic() + patience
    while not started.is_file() or started.read_text() != job_start():
        if time.monotonic() > end:
            raise UserError(
                f"{started.parent}: the first process of the job has not locked this folder in"
                f" {patience:.0f} s (hydra.run.dir): see its error, and whether all machines have"
                " the folder"
            )
        time.sleep(_POLL)


def has_begun(run_dir: Path) -> bool:
    """Whether the folder holds more of a run than its settings: splits, checkpoints or metrics.

    A run that ended before, for an error in its data for example, leaves the settings only, and may
    be started again with others.
    """
    files = (SPLITS_FILE, METRICS_FILE, Path("checkpoints") / "last.ckpt")
    return any((run_dir / name).is_file() for name in files)


def finished_metrics(run_dir: Path) -> dict[str, float] | None:
    """The metrics of a finished run, or None: they are written last.

    Raises:
        UserError: The file cannot be read.
    """
    path = run_dir / METRICS_FILE
    return stored_metrics(path) if path.is_file() else None
