"""The folder of a run: its name, the lock on it, and the metrics of a finished run."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from omegaconf import OmegaConf

from vbp_lightning.errors import UserError
from vbp_lightning.files import kept, remove_leftovers

METRICS_FILE = "metrics.json"

_LONGEST_FOLDER_NAME = 200
_DIGEST = 12


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
OmegaConf.register_new_resolver("run_type", lambda c: "check" if c else "train", replace=True)
OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)


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
    with lock, kept(run_dir):
        remove_leftovers(run_dir)
        yield


def finished_metrics(run_dir: Path) -> dict[str, float] | None:
    """The metrics of a finished run, or None: they are written last."""
    path = run_dir / METRICS_FILE
    if not path.is_file():
        return None
    metrics: dict[str, float] = json.loads(path.read_text())
    return metrics
