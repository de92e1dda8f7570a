"""The folder of a run: who may write in it, and how far the run has come."""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from omegaconf import OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from vbp_lightning.errors import UserError

METRICS_FILE = "metrics.json"

_LONGEST_FOLDER_NAME = 200


def run_stamp() -> str:
    """Date and time, for a run's folder; a job's id where a launcher starts several processes.

    Those would else disagree about the second and write into several folders.
    """
    if "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_NTASKS", "1") != "1":
        return f"job_{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return f"job_{os.environ['TORCHELASTIC_RUN_ID']}"
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def run_type(check: bool) -> str:
    """The folder under ``outputs`` of what a run does: ``check`` or ``train``."""
    return "check" if check else "train"


def job_folder(overrides: str) -> str:
    """The folder's name of a sweep's job: its overrides in signs that a command line takes back.

    Args:
        overrides: Hydra's ``override_dirname``.

    Returns:
        One path component without ``=``, ``,``, spaces or brackets, of 200 characters at most;
        where it had to be cut, a short hash keeps it unique. ``default`` for no override.
    """
    name = re.sub(r"[^\w.+-]+", "_", overrides).strip("_") or "default"
    if len(name) > _LONGEST_FOLDER_NAME:
        digest = hashlib.sha256(overrides.encode()).hexdigest()[:8]
        name = f"{name[: _LONGEST_FOLDER_NAME - 9]}_{digest}"
    return name


# Hydra names the folders while it composes, in the processes of its launchers too: importing this
# module must be enough
OmegaConf.register_new_resolver("run_stamp", run_stamp, use_cache=True, replace=True)
OmegaConf.register_new_resolver("run_type", run_type, replace=True)
OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)


def is_first_process() -> bool:
    """Whether this is the process of a run that writes: the only one, or rank zero."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


@contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """Holds a run's folder, so that two commands never write one run.

    The operating system frees the claim when the process ends, however it ends. Of the processes
    of a distributed run the first one holds it.

    Raises:
        UserError: Another process is at work in the folder.
    """
    if not is_first_process():
        yield
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".claim").open("w") as claim:
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{run_dir}: another process is writing this run (hydra.run.dir, resume);"
                " wait for it, or choose another folder"
            ) from error
        yield


def finished_metrics(run_dir: Path) -> dict[str, float] | None:
    """The metrics of a run that is done; None where it is not. They are written last of all."""
    path = run_dir / METRICS_FILE
    if not path.is_file():
        return None
    metrics: dict[str, float] = json.loads(path.read_text())
    return metrics
