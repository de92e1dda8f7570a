"""The summary of a Hydra multirun: a row for each job, updated when a job ends."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from vbp_lightning.cli import FAILURE_FILE, explain_failure, print_error
from vbp_lightning.errors import UserError, one_line, plain
from vbp_lightning.files import remove_leftovers, replacing
from vbp_lightning.training.folder import finished_metrics
from vbp_lightning.training.stored_files import stored_mapping, stored_yaml
from vbp_lightning.training.sweep_page import write_page

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

SHOWN_METRICS = ("val/auroc", "test/auroc", "test/average_precision", "test/balanced_accuracy")

LIFTS = {
    "explanation/average_precision": "explanation/chance",
    "explanation/relevance_mass": "explanation/chance",
    "explanation/pointing_game_2px": "explanation/pointing_game_2px_chance",
}
"""Scores of the masks, and the scores that a random map has."""

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
        rows += [
            {
                "status": "done" if metrics is not None else "failed" if failed else "unfinished",
                **{key.lstrip("+"): value for key, _, value in overrides if key not in _RESUMING},
                **shown,
                **({"tags": " ".join(map(str, tags))} if isinstance(tags, list) and tags else {}),
                **scores,
                "path": str(job),
            }
            for shown, scores in _by_upsampling(metrics or {})
        ]
    table = pd.DataFrame(rows)
    return table[[*table.columns.drop("path", errors="ignore"), "path"]] if rows else table


def _by_upsampling(
    metrics: Mapping[str, float],
) -> Iterator[tuple[dict[str, str], dict[str, float]]]:
    """Yields for each upsampling of a run its name, if there are several, and its metrics."""
    own = {key: key.split("/") for key in metrics if key.count("/") == 2}
    for name in dict.fromkeys(parts[1] for parts in own.values()) or [None]:
        scores = {key: value for key, value in metrics.items() if key not in own}
        scores |= {f"{a}/{c}": metrics[key] for key, (a, b, c) in own.items() if b == name}
        for key, chance in LIFTS.items():
            if key in scores and chance in scores:
                scores[f"{key}_lift"] = scores[key] - scores[chance]
        yield {} if name is None else {"upsampling": name}, scores


def write_summary(sweep_dir: Path) -> "pd.DataFrame":
    """Writes ``summary.csv`` over all jobs of a sweep and returns its rows."""
    table = summarize(sweep_dir)
    with replacing(sweep_dir / "summary.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    return table


def summary_table(
    jobs: "pd.DataFrame", *metrics: str, title: str = "Sweep", usual: Sequence[str] = SHOWN_METRICS
) -> "Table":
    """Mean and standard deviation of each metric over the finished jobs that differ by seed only.

    The best mean of each metric has a star if there are several rows.

    Args:
        jobs: As :func:`summarize` gives them.
        *metrics: Shown beside the usual metrics.
        title: Headline.
        usual: The usual metrics.
    """
    from rich.markup import escape
    from rich.table import Table

    settings = [
        key
        for key in jobs.columns
        if key not in ("status", "path", "seed", "threshold") and "/" not in key
    ]
    axes = [key for key in settings if jobs[key].nunique(dropna=False) > 1]
    shown = [m for m in dict.fromkeys((*usual, *metrics)) if m in jobs.columns]
    heads = [
        name.removeprefix("explanation/").replace("/", "\n").replace("_", " ") for name in shown
    ]
    table = Table(title=f"{title}: mean ± standard deviation over seeds, * the best")
    for head in (*(escape(plain(axis)) for axis in axes), "seeds", *heads):
        table.add_column(head, overflow="fold")
    done = jobs[jobs["status"] == "done"].fillna(dict.fromkeys(axes, ""))
    groups = list(done.groupby(axes, sort=False)) if axes else [((), done)][: len(done)]
    means = [members[shown].mean().round(3) for _, members in groups]
    best = {name: max(mean[name] for mean in means) for name in shown} if len(groups) > 1 else {}
    for choice, members in groups:
        spread = members[shown].std()
        lifts = {
            name: members[f"{name}_lift"].mean()
            for name in shown
            if f"{name}_lift" in members.columns
        }
        cells = [
            f"{mean:.3f}"
            + (f" ± {spread[name]:.3f}" if len(members) > 1 else "")
            + (" *" if round(mean, 3) == best.get(name) else "")
            + (f"\nlift {lifts[name]:+.3f}" if name in lifts else "")
            for name, mean in members[shown].mean().items()
        ]
        table.add_row(*(escape(plain(str(value))) for value in choice), str(len(members)), *cells)
    return table


def _saving(overrides: Sequence[Override]) -> str:
    """How many trainings the list form of ``upsampling`` saves in a sweep over it, or nothing."""
    swept = {
        each.get_key_element(): list(each.sweep_string_iterator())
        for each in overrides
        if each.is_discrete_sweep()
    }
    ways = list(dict.fromkeys(swept.get("upsampling", [])))
    if len(ways) < 2:
        return ""
    runs = prod(map(len, swept.values()))
    names = ",".join(way.strip("[]'") for way in ways)
    return (
        f"upsampling changes no weight: 'upsampling=[{names}]' shows and scores all in one run:"
        f" {runs // len(swept['upsampling'])} trainings instead of {runs}"
    )


class SweepSummary(Callback):
    """Updates ``summary.csv`` after every job of a sweep and prints the table at the end.

    Hydra does not call ``on_multirun_end`` after an exception, so the file is written before.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ANN401
        """Excludes the settings that do not vary over the sweep from the names of folders."""
        parsed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        axes = {each.get_key_element() for each in parsed if each.is_sweep_override()}
        fixed = {"resume", *(each.get_key_element() for each in parsed)} - axes
        if line := _saving(parsed):
            print(line)
        keys = ",".join(f"'{key}'" for key in sorted(fixed))
        with open_dict(config):
            config.hydra.overrides.hydra.append(
                f"hydra.job.config.override_dirname.exclude_keys=[{keys}]"
            )

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:  # noqa: ANN401
        """Updates the summary; does nothing outside a sweep."""
        from vbp_lightning.training.preparation import give_back_freed_memory

        if config.hydra.mode.name == "MULTIRUN":
            with suppress(OSError):  # it is written again at the end
                write_summary(Path(config.hydra.sweep.dir))
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
        except OSError as error:  # Hydra would turn it into a warning
            sys.exit(print_error(explain_failure(error) or UserError(one_line(error))))
        Console().print(summary_table(jobs, config.optimized_metric))
        scores = [key for name in LIFTS for key in (name, f"{name}_lift") if key in jobs.columns]
        if scores:
            title = "Masks, lift over a random map"
            masks = summary_table(jobs, *LIFTS, title=title, usual=())
            Console().print(masks)
        print(f"Summary: {sweep_dir / 'summary.csv'}")
        if len(jobs):
            try:
                shown = list(dict.fromkeys((*SHOWN_METRICS, config.optimized_metric, *scores)))
                print(f"Page: {write_page(sweep_dir, jobs, shown)}")
            except OSError as error:
                sys.exit(print_error(explain_failure(error) or UserError(one_line(error))))
        print(f"TensorBoard: tensorboard --logdir {sweep_dir} --samples_per_plugin images=1000")
        jobs = jobs.drop_duplicates("path")
        failures = jobs["path"][jobs["status"] == "failed"]
        for path in failures:
            reasons = (Path(path) / FAILURE_FILE).read_text(errors="replace").strip().splitlines()
            print_error(UserError(f"{path} failed: {'; '.join(reasons)}"))
        if len(failures):
            print(
                f"error: {len(failures)} of {len(jobs)} jobs failed; correct the cause, then"
                f" continue with: python train.py resume={sweep_dir}",
                file=sys.stderr,
            )
            sys.exit(1)
