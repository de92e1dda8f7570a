"""The summary of a Hydra multirun: a row a job, written as each job ends."""

import csv
import logging
import statistics
import sys
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from rich.table import Table

from vbp_lightning.cli import FAILURE_FILE
from vbp_lightning.files import replacing
from vbp_lightning.training.folder import finished_metrics
from vbp_lightning.training.settings import give_back_freed_memory

logger = logging.getLogger(__name__)

SHOWN_METRICS = ("val/auroc", "test/auroc", "test/average_precision", "test/balanced_accuracy")


def summarize(sweep_dir: Path) -> list[dict[str, str]]:
    """One record per job of a sweep, from what lies in the jobs' folders.

    Args:
        sweep_dir: The folder that holds one folder a job.

    Returns:
        Records with ``status`` (``done``, ``failed`` or ``unfinished``), one column per overridden
        key, one per metric, and ``path``; sorted by path.
    """
    rows = []
    for stored in sorted(sweep_dir.glob("*/.hydra/overrides.yaml")):
        job = stored.parent.parent
        overrides = [str(override).partition("=") for override in OmegaConf.load(stored)]
        metrics = finished_metrics(job)
        failed = (job / FAILURE_FILE).is_file()
        rows.append(
            {
                "status": "done" if metrics is not None else "failed" if failed else "unfinished",
                **{key: value for key, _, value in overrides if key != "resume"},
                **{name: f"{value:.6g}" for name, value in (metrics or {}).items()},
                "path": str(job),
            }
        )
    return rows


def write_summary(sweep_dir: Path) -> list[dict[str, str]]:
    """Writes ``summary.csv`` over all jobs of a sweep and returns its rows."""
    rows = summarize(sweep_dir)
    columns = [*dict.fromkeys(key for row in rows for key in row if key != "path"), "path"]
    with replacing(sweep_dir / "summary.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return rows


def summary_table(rows: list[dict[str, str]]) -> Table:
    """The done jobs of a sweep, grouped over seeds: mean and standard deviation of each metric."""
    seen = list(dict.fromkeys(key for row in rows for key in row))
    axes = [
        key
        for key in seen
        if key not in ("status", "path", "seed", "threshold")
        and "/" not in key
        and len({row.get(key, "") for row in rows}) > 1
    ]
    shown = [name for name in SHOWN_METRICS if name in seen]
    heads = [name.replace("/", "\n").replace("_", " ") for name in shown]
    table = Table(*axes, "seeds", *heads, title="Sweep: mean ± standard deviation over seeds")
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        if row["status"] == "done":
            groups.setdefault(tuple(row.get(axis, "") for axis in axes), []).append(row)
    for choice, members in groups.items():
        cells = []
        for name in shown:
            values = [float(row[name]) for row in members]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        table.add_row(*choice, str(len(members)), *cells)
    return table


class SweepSummary(Callback):
    """Keeps ``summary.csv`` true after every job and prints the table at the end.

    Hydra does not call ``on_multirun_end`` after an exception, so nothing is left for it but the
    printing.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ANN401
        """Leaves what does not vary over the sweep out of the names of the jobs' folders."""
        parsed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        fixed = [override.key_or_group for override in parsed if not override.is_sweep_override()]
        keys = ",".join(["resume", *fixed])
        with open_dict(config):
            config.hydra.overrides.hydra.append(
                f"hydra.job.config.override_dirname.exclude_keys=[{keys}]"
            )

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:  # noqa: ANN401
        """Brings the summary up to date; does nothing outside a sweep."""
        if config.hydra.mode.name == "MULTIRUN":
            write_summary(Path(config.hydra.sweep.dir))
            # Hydra keeps each job's result to the end of the sweep: two configs are megabytes
            job_return.cfg = job_return.hydra_cfg = None
            give_back_freed_memory()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ANN401
        """Prints the table, names the jobs that failed and exits with 1 if there are any."""
        sweep_dir = Path(config.hydra.sweep.dir)
        rows = write_summary(sweep_dir)
        Console().print(summary_table(rows))
        print(f"Summary: {sweep_dir / 'summary.csv'}")
        print(f"TensorBoard: tensorboard --logdir {sweep_dir} --samples_per_plugin images=1000")
        failures = [row["path"] for row in rows if row["status"] == "failed"]
        for path in failures:
            reason = (Path(path) / FAILURE_FILE).read_text().strip()
            print(f"error: {path} failed: {reason}", file=sys.stderr)
        if failures:
            print(
                f"error: {len(failures)} of {len(rows)} jobs failed; mend the cause, then go on"
                f" with: python train.py resume={sweep_dir}",
                file=sys.stderr,
            )
            sys.exit(1)
