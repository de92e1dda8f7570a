"""The tables of a sweep: mean and spread over the seeds of jobs with otherwise equal settings."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vbp_lightning.errors import plain

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

SHOWN_METRICS = ("val/auroc", "test/auroc", "test/average_precision", "test/balanced_accuracy")

SHOWN_SCORES = {
    "explanation/average_precision": "pixel average precision",
    "explanation/relevance_mass": "relevance mass",
    "explanation/pointing_game_2px": "pointing game (2 px)",
}
"""The scores of masks in the tables, and their headings; beside each its lift over chance."""

LIFT = "_lift"

BEST = "*"
"""Marks the best mean of a column."""

_OF_UPSAMPLING = re.compile("explanation/([^/]+)/([^/]+)")
_NOT_COMPARED = ("threshold", "explanation/chance")


@dataclass(frozen=True)
class Cell:
    """A metric of the jobs of a row.

    Args:
        name: Of the metric.
        mean: Over the jobs; not a number if they lack it.
        deviation: Standard deviation over the jobs; not a number for a single one.
        is_best: Whether no other row of the table has a higher mean, and one has a lower one.
    """

    name: str
    mean: float
    deviation: float
    is_best: bool

    @property
    def value(self) -> str:
        """The mean with the mark of the best one; lifts with their sign."""
        if math.isnan(self.mean):
            return "–"
        sign = "+" if self.name.endswith(LIFT) else ""
        return f"{self.mean:{sign}.3f}{BEST if self.is_best else ''}"

    @property
    def spread(self) -> str:
        """``±`` and the standard deviation; empty for a single job."""
        return "" if math.isnan(self.deviation) else f"±{self.deviation:.3f}"


@dataclass(frozen=True)
class Row:
    """The finished jobs that differ by seed only, with one upsampling.

    Args:
        settings: The settings by which the rows differ.
        jobs: Number of jobs.
        cells: By metric.
    """

    settings: dict[str, str]
    jobs: int
    cells: dict[str, Cell]


def by_upsampling(jobs: "pd.DataFrame") -> "pd.DataFrame":
    """One row for each upsampling of a job, with the same names of scores for all upsamplings.

    Args:
        jobs: As :func:`~vbp_lightning.training.sweep.summarize` gives them. The scores of a run
            with several upsamplings are named ``explanation/UPSAMPLING/SCORE``.

    Returns:
        ``explanation/SCORE`` instead, and the name as ``upsampling``; other jobs are unchanged.
    """
    import pandas as pd

    found = {name: match for name in jobs.columns if (match := _OF_UPSAMPLING.fullmatch(name))}
    if not found:
        return jobs
    rows: list[dict[str, Any]] = []
    for job in jobs.to_dict("records"):
        rest = {name: value for name, value in job.items() if name not in found}
        parts: dict[str, dict[str, float]] = {}
        for name, match in found.items():
            if pd.notna(job[name]):
                parts.setdefault(match[1], {})[f"explanation/{match[2]}"] = job[name]
        rows += [{**rest, "upsampling": each, **parts[each]} for each in parts] or [rest]
    return pd.DataFrame(rows)


def settings_of(jobs: "pd.DataFrame") -> list[str]:
    """The columns that are settings: neither metrics nor what a job is."""
    others = ("status", "path", "threshold")
    return [key for key in jobs.columns if key not in others and "/" not in key]


def varying(jobs: "pd.DataFrame", settings: Iterable[str]) -> list[str]:
    """The settings of which some jobs have other values than others."""
    return [key for key in settings if jobs[key].nunique(dropna=False) > 1]


def compared_metrics(jobs: "pd.DataFrame", optimized_metric: str) -> tuple[list[str], list[str]]:
    """The metrics of the tables that any job has, and the scores of masks, each before its lift.

    Args:
        jobs: As :func:`by_upsampling` gives them.
        optimized_metric: Shown after the usual metrics, unless it is one of the scores.
    """
    scores = [name for score in SHOWN_SCORES for name in (score, score + LIFT)]
    optimized = _OF_UPSAMPLING.sub(r"explanation/\2", optimized_metric)
    metrics = [name for name in (*SHOWN_METRICS, optimized) if name not in scores]
    return (
        [name for name in dict.fromkeys(metrics) if name in jobs.columns],
        [name for name in scores if name in jobs.columns],
    )


def table_rows(jobs: "pd.DataFrame", metrics: list[str]) -> list[Row]:
    """Mean and standard deviation of metrics over the finished jobs that differ by seed only.

    Args:
        jobs: As :func:`by_upsampling` gives them.
        metrics: Columns of it.
    """
    axes = varying(jobs, (key for key in settings_of(jobs) if key != "seed"))
    done = jobs[jobs["status"] == "done"].fillna(dict.fromkeys(axes, ""))
    groups = done.groupby(axes, sort=False) if axes else [((), done)][: len(done)]
    found = [
        (dict(zip(axes, choice, strict=True)), len(members), members[metrics])
        for choice, members in groups
    ]
    means = {name: [float(part[name].mean()) for _, _, part in found] for name in metrics}
    best = {name: _best(means[name]) for name in metrics if name not in _NOT_COMPARED}
    rows = []
    for index, (settings, count, part) in enumerate(found):
        deviations = part.std()
        cells = {
            name: Cell(
                *(name, means[name][index], float(deviations[name])),
                is_best=round(means[name][index], 3) == best.get(name),
            )
            for name in metrics
        }
        rows.append(Row(settings, count, cells))
    return rows


def _best(means: list[float]) -> float | None:
    """The highest of the means as they are shown; None if all are equal."""
    shown = {round(mean, 3) for mean in means if not math.isnan(mean)}
    return max(shown) if len(shown) > 1 else None


def heading(metric: str) -> str:
    """The words above the column of a metric."""
    if metric.endswith(LIFT):
        return "lift over chance"
    return SHOWN_SCORES.get(metric, metric.replace("/", " ").replace("_", " "))


def summary_tables(jobs: "pd.DataFrame", optimized_metric: str) -> "list[Table]":
    """The metrics of a sweep, and the scores of its masks if it has any, for 80 columns and more.

    Args:
        jobs: As :func:`~vbp_lightning.training.sweep.summarize` gives them.
        optimized_metric: Shown beside the usual metrics.
    """
    jobs = by_upsampling(jobs)
    metrics, scores = compared_metrics(jobs, optimized_metric)
    rows = table_rows(jobs, [*metrics, *scores])
    tables = [
        _table(
            "Sweep: mean ± standard deviation over seeds",
            rows,
            {heading(name).replace(" ", "\n"): [name] for name in metrics},
        )
    ]
    if scores:
        pairs = {
            heading(score).replace(" ", "\n", 1): [
                name for name in (score, score + LIFT) if name in scores
            ]
            for score in SHOWN_SCORES
            if score in scores
        }
        title = "VisualBackProp masks: score, below it its lift over chance"
        tables.append(_table(title, rows, pairs))
    return tables


def _table(title: str, rows: list[Row], columns: dict[str, list[str]]) -> "Table":
    """A table of rows and the metrics of each column, one below the other."""
    from rich import box
    from rich.markup import escape
    from rich.table import Column, Table

    is_marked = any(
        row.cells[n].is_best for row in rows for names in columns.values() for n in names
    )
    table = Table(
        *([Column("settings", overflow="fold")] if any(row.settings for row in rows) else ()),
        Column("seeds", justify="right", no_wrap=True),
        *(Column(head, no_wrap=True) for head in columns),
        title=title,
        caption=f"{BEST} best of the column" if is_marked else None,
        title_justify="left",
        caption_justify="left",
        box=box.HORIZONTALS,
        show_lines=True,
        padding=(0, 1, 0, 0),
    )
    for row in rows:
        settings = (
            escape(plain(f"{key}: {value}")) for key, value in row.settings.items() if value
        )
        cells = ([row.cells[name] for name in names] for names in columns.values())
        table.add_row(
            *(["\n".join(settings)] if row.settings else ()), str(row.jobs), *map(_text, cells)
        )
    return table


def _text(cells: list[Cell]) -> str:
    """A metric with its spread below it, or metrics below each other with their spreads beside."""
    if len(cells) == 1:
        lines = [f"{cells[0].value}\n{cells[0].spread}".rstrip()]
    else:
        lines = [f"{cell.value:7} {cell.spread}".rstrip() for cell in cells]
    return "\n".join(
        f"[bold]{line}[/bold]" if cell.is_best else line
        for line, cell in zip(lines, cells, strict=True)
    )
