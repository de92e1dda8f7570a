"""The summary of a Hydra multirun: a row for each job, updated when a job ends."""

import math
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from vbp_lightning.cli import FAILURE_FILE, explain_failure, print_error
from vbp_lightning.errors import UserError, one_line
from vbp_lightning.files import remove_leftovers, replacing
from vbp_lightning.training.folder import finished_metrics
from vbp_lightning.training.stored_files import stored_mapping, stored_yaml
from vbp_lightning.training.sweep_page import failure_reasons, write_sweep_page
from vbp_lightning.training.sweep_table import summary_tables

if TYPE_CHECKING:
    import pandas as pd

_RESUMING = ("resume", "trust")


def summarize(sweep_dir: Path) -> "pd.DataFrame":
    """One row for each job of a sweep, from the files in the jobs' folders.

    Args:
        sweep_dir: The folder that holds the folders of the jobs.

    Returns:
        ``status`` (``done``, ``failed`` or ``unfinished``), a column for each overridden key as
        text, ``tags`` if a job has any, a column for each metric as a number, and ``path``; sorted
        by path.
    """
    import pandas as pd

    rows = []
    for stored in sorted(sweep_dir.glob("*/.hydra/overrides.yaml")):
        job = stored.parent.parent
        overrides: list[tuple[str, str, str]] = []
        tags: Any = None
        metrics: dict[str, float] | None = None
        # a job that was refused is not the finished one whose metrics its folder holds
        failed = (job / FAILURE_FILE).is_file()
        with suppress(UserError):  # it names the file when the job is continued
            given = stored_yaml(stored)
            if isinstance(given, list):
                overrides = [str(each).partition("=") for each in given]
            tags = stored_mapping(job / ".hydra" / "config.yaml").get("tags")
            metrics = None if failed else finished_metrics(job)
        rows.append(
            {
                "status": "done" if metrics is not None else "failed" if failed else "unfinished",
                **{key.lstrip("+"): value for key, _, value in overrides if key not in _RESUMING},
                **({"tags": " ".join(map(str, tags))} if isinstance(tags, list) and tags else {}),
                **(metrics or {}),
                "path": str(job),
            }
        )
    table = pd.DataFrame(rows)
    return table[[*table.columns.drop("path", errors="ignore"), "path"]] if rows else table


def write_summary(sweep_dir: Path) -> "pd.DataFrame":
    """Writes ``summary.csv`` over all jobs of a sweep and returns its rows."""
    table = summarize(sweep_dir)
    with replacing(sweep_dir / "summary.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    return table


def saved_trainings(overrides: Iterable[Override]) -> str | None:
    """The line about trainings of a sweep that differ by the upsampling only.

    Args:
        overrides: Of the sweep; each combination of their values is a job.

    Returns:
        How many trainings a list of upsamplings saves; None if they have one upsampling only.
    """
    axes = {
        each.get_key_element(): list(each.sweep_string_iterator())
        if each.is_discrete_sweep()
        else []
        for each in overrides
    }
    jobs = math.prod(len(values) or 1 for values in axes.values())
    values = axes.get("upsampling") or axes.get("upsampling.name") or []
    if len(values) < 2:
        return None
    names = dict.fromkeys(name for value in values for name in re.findall(r"\w+", value))
    return (
        f"{jobs - jobs // len(values)} of {jobs} trainings can be saved by"
        f" 'upsampling=[{','.join(names)}]': upsampling changes no weights"
    )


class SweepSummary(Callback):
    """Updates ``summary.csv`` and ``sweep.html`` after every job of a sweep, prints the table last.

    Hydra does not call ``on_multirun_end`` after an exception, so the files are written before.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ANN401
        """Prints which trainings are not needed, and keeps the names of folders short.

        They leave out the settings that do not vary over the sweep.
        """
        hydra = GlobalHydra.instance()
        loader = hydra.config_loader() if hydra.is_initialized() else None
        parsed = OverridesParser.create(loader).parse_overrides(list(config.hydra.overrides.task))
        # other sweepers choose the jobs themselves
        if config.hydra.sweeper["_target_"].endswith(".BasicSweeper") and config.resume is None:
            axes_of_file = config.hydra.sweeper.params or {}
            given = OverridesParser.create(loader).parse_overrides(
                [f"{key}={value}" for key, value in axes_of_file.items()]
            )
            if line := saved_trainings([*given, *parsed]):
                print(line)
        axes = {each.get_key_element() for each in parsed if each.is_sweep_override()}
        fixed = {"resume", *(each.get_key_element() for each in parsed)} - axes
        keys = ",".join(f"'{key}'" for key in sorted(fixed))
        with open_dict(config):
            config.hydra.overrides.hydra.append(
                f"hydra.job.config.override_dirname.exclude_keys=[{keys}]"
            )

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:  # noqa: ANN401
        """Updates the summary; does nothing outside a sweep."""
        from vbp_lightning.training.preparation import give_back_freed_memory

        if config.hydra.mode.name == "MULTIRUN":
            with suppress(OSError):  # both are written again at the end
                sweep_dir = Path(config.hydra.sweep.dir)
                write_sweep_page(sweep_dir, write_summary(sweep_dir), config.optimized_metric)
            # Hydra keeps each job's result to the end of the sweep: two configs are megabytes
            job_return.cfg = job_return.hydra_cfg = None
            give_back_freed_memory()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ANN401
        """Prints the table, lists the jobs that failed and exits with 1 if there are any.

        Raises:
            SystemExit: A job failed, or the summary cannot be written.
        """
        from rich.console import Console

        sweep_dir = Path(config.hydra.sweep.dir)
        remove_leftovers(sweep_dir)
        try:
            jobs = write_summary(sweep_dir)
            Console().print(*summary_tables(jobs, config.optimized_metric), sep="\n")
            page = write_sweep_page(sweep_dir, jobs, config.optimized_metric)
        except OSError as error:  # Hydra would turn it into a warning
            sys.exit(print_error(explain_failure(error) or UserError(one_line(error))))
        print(f"Summary: {sweep_dir / 'summary.csv'}")
        print(f"Page: {page}")
        if "tensorboard" in (config.get("logger") or {}):
            print(f"TensorBoard: tensorboard --logdir {sweep_dir} --samples_per_plugin images=1000")
        failures = jobs["path"][jobs["status"] == "failed"]
        for path in failures:
            print_error(UserError(f"{path} failed: {'; '.join(failure_reasons(Path(path)))}"))
        if len(failures):
            print(
                f"error: {len(failures)} of {len(jobs)} jobs failed; correct the cause, then"
                f" continue with: python train.py resume={sweep_dir}",
                file=sys.stderr,
            )
            sys.exit(1)
