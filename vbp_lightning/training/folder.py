"""The folder of a run: its name, the lock on it, and the metrics of a finished run."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import hydra.core.utils
from omegaconf import DictConfig, OmegaConf

from vbp_lightning.errors import UserError
from vbp_lightning.files import remove_leftovers, replacing

METRICS_FILE = "metrics.json"

_LONGEST_FOLDER_NAME = 200
_DIGEST = 12


def new_folder(parent: str) -> str:
    """The folder of a new run or sweep, named after date and time.

    It is made here, with a number behind the time if another run has that name, so that runs that
    start in the same second get different folders. The processes of a job of SLURM or torchrun
    start at different times and must use the same folder: it is named after the job.

    Args:
        parent: The folder of the runs.
    """
    environment = os.environ
    if "SLURM_STEP_ID" in environment and environment.get("SLURM_NTASKS", "1") != "1":
        return f"{parent}/job_{environment['SLURM_JOB_ID']}.{environment['SLURM_STEP_ID']}"
    if "TORCHELASTIC_RUN_ID" in environment:
        job = environment["TORCHELASTIC_RUN_ID"]
        return f"{parent}/job_{_launcher() if job == 'none' else job}"
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in count(1):
        folder = f"{parent}/{stamp}" + (f"_{number}" if number > 1 else "")
        try:
            Path(folder).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:  # reported where the folder is used
            return folder
        break
    return folder


def _launcher() -> str:
    """Process and start time of torchrun, which gives jobs of one machine no id of their own."""
    process = os.getppid()
    try:  # clock ticks since the start of the system
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # other systems than Linux
        return str(process)
    return f"{process}-{fields[19]}"


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
    items = sorted(item for item in overrides if item.partition("=")[0] not in excluded)
    plain = [re.sub(r"[^\w.-]+", "_", item.replace("=", "-", 1), flags=re.ASCII) for item in items]
    name = "+".join(plain) or "default"
    is_kept = all(re.fullmatch(r"[\w.]+=[\w.-]+", item, re.ASCII) for item in items)
    if not is_kept or len(name) > _LONGEST_FOLDER_NAME:
        digest = hashlib.sha256(repr(items).encode()).hexdigest()[:_DIGEST]
        name = f"{name[: _LONGEST_FOLDER_NAME - _DIGEST - 1]}@{digest}"
    return name


# Hydra uses them while it composes a config, also in the processes of its launchers, which import
# this module
OmegaConf.register_new_resolver("new_folder", new_folder, use_cache=True, replace=True)
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


def is_first_process() -> bool:
    """Whether this is the process of a run that writes: the only one, or rank zero."""
    from pytorch_lightning.utilities import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0)) == 0


@contextmanager
def claimed(run_dir: Path, patience: float = 10) -> Iterator[None]:
    """Locks a run's folder, so that no other command writes to the run, and removes leftovers.

    The operating system frees the lock when the process ends, however it ends. In a distributed
    run the first process holds it.

    Args:
        run_dir: The run's folder.
        patience: Seconds to wait for the lock: the loader workers of a killed process hold it until
            they notice, which takes them up to 5 s.

    Raises:
        UserError: Another process holds the lock.
    """
    from filelock import FileLock, Timeout

    if not is_first_process():
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
        yield


def finished_metrics(run_dir: Path) -> dict[str, float] | None:
    """The metrics of a finished run, or None: they are written last."""
    path = run_dir / METRICS_FILE
    if not path.is_file():
        return None
    metrics: dict[str, float] = json.loads(path.read_text())
    return metrics
