"""The tables of the benchmark: the printed ones and the CSV."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vbp_lightning.evaluation.bootstrap import Interval, mean_interval

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

CHANCE = "uniform"
"""The baseline whose scores are those of chance."""


@dataclass
class Row:
    """The scores of one method with one upsampling.

    Args:
        method: Its name.
        upsampling: Its upsampling; empty if it has none.
        tiles: ``(N,)`` scores of the tiles, by the name of the localisation score.
        numbers: Single numbers by column.
        cascade: Mean rank correlation with the maps of the trained network, by the layer that the
            cascading randomisation has reached.
    """

    method: str
    upsampling: str
    tiles: dict[str, Floats]
    numbers: dict[str, float] = field(default_factory=dict)
    cascade: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name in tables and figures."""
        name = self.method.replace("_", " ")
        return f"{name}, {self.upsampling}" if self.upsampling else name


@dataclass(frozen=True)
class Column:
    """A column of a printed table.

    Args:
        key: Name of a localisation score, or key of ``Row.numbers``.
        title: The heading.
        good: Which values are good: ``high``, ``low``, ``one`` (near to it), or empty for neither.
        digits: Number of digits after the decimal point.
        caution: What the score can mislead about, printed below the table.
    """

    key: str
    title: str
    good: str = "high"
    digits: int = 3
    caution: str = ""

    def is_best(self, values: "pd.Series[float]") -> "pd.Series[bool]":
        """Whether each value is the best of the column."""
        badness = {"high": -values, "low": values, "one": abs(values - 1)}.get(self.good)
        return values.isna() & False if badness is None else badness == badness.min()


COST = Column("ms_batch", "ms/tile", "low", 2)
_LOCALISED = (
    "whether the map lies on the road, not whether the decision does (EigenCAM knows no class); "
    "context that a class of large extent really has counts as wrong, as does a kerb beside a thin "
    "label line"
)
_SHARPENED = "any map gains mass by sharpening, see best power"
_ONE_PIXEL = "one pixel decides: the rest of the map may lie anywhere"
_REMOVED = (
    "images with removed pixels are unlike those of training; a network may answer to the holes"
)
_MOVED = "moved parts make new edges, which are evidence of their own"
_RANDOMISED = "random signs alone bring signed maps to 0: see sizes; one draw"
_AGREEMENT = "agreement with another method is no truth"
_STEADY = "maps of the image alone, such as edges, are steady too: says nothing about the network"
_SPREAD = "a class of large extent needs a map that spreads: neither end is better"
TABLES = {
    "Localisation": [
        Column("average_precision", "AP", caution=_LOCALISED),
        Column("relevance_mass", "mass", caution=_SHARPENED),
        Column("sharpened_mass", "mass, best power", caution=_LOCALISED),
        Column("rank_accuracy", "rank", caution=_LOCALISED),
        Column("pointing_game", "pointing", caution=_ONE_PIXEL),
        Column("pointing_game_2px", "pointing 2 px", caution=_ONE_PIXEL),
        Column("iou", "IoU", caution=_LOCALISED),
        COST,
    ],
    "Faithfulness and sanity": [
        Column("deletion", "deletion", "low", caution=_REMOVED),
        Column("insertion", "insertion", caution=_REMOVED),
        Column("road", "ROAD", caution=_REMOVED),
        Column("shift_salient", "shift salient", caution=_MOVED),
        Column("shift_rest", "rest", "low", caution=_MOVED),
        Column("shift_whole", "whole", ""),
        Column("shift_control", "control", ""),
        Column("cascade_head", "cascade head", "", caution=_RANDOMISED),
        Column("cascade_convolutional", "all", "", caution=_RANDOMISED),
        Column("cascade_head_sizes", "head, sizes", ""),
        Column("cascade_convolutional_sizes", "all, sizes", ""),
        Column("lrp_correlation", "ρ with LRP", "", caution=_AGREEMENT),
        Column("lrp_size_correlation", "ρ, sizes", "", caution=_AGREEMENT),
        Column("ms_single", "ms, 1 tile", "low", 2),
        COST,
    ],
    "Robustness and complexity": [
        Column("robustness_noise", "ρ, noise", caution=_STEADY),
        Column("robustness_brightness", "ρ, brightness", caution=_STEADY),
        Column("entropy", "entropy", "", caution=_SPREAD),
        Column("gini", "Gini", "", caution=_SPREAD),
        COST,
    ],
    "Artefacts": [
        Column("coverage_variation", "coverage variation", "low", 4),
        Column("comb_energy", "comb energy", "low", 4),
        Column("block_ratio", "block ratio", "one"),
        Column("border_ratio", "border / centre", "one"),
        Column("tile_comb_energy", "comb, tiles", "low", 4),
        Column("tile_block_ratio", "block, tiles", "one"),
        COST,
    ],
}


def print_tables(rows: Sequence[Row], scenes: Sequence[str]) -> None:
    """Prints the tables that have values, the best value of each column in bold.

    Args:
        rows: Including the baseline ``uniform``.
        scenes: The scene of each tile.
    """
    import pandas as pd

    means = score_table(rows, scenes)
    means.index = pd.Index([row.name for row in rows])
    for title, columns in TABLES.items():
        shown = [each for each in columns if each.key in means and means[each.key].notna().any()]
        values = means.dropna(how="all", subset=[column.key for column in shown[:-1]])
        if len(shown) < 2:
            continue
        table = Table("", *(column.title for column in shown), title=title)
        cells = [_cells(column, values[column.key]) for column in shown]
        for name, *texts in zip(values.index, *cells, strict=True):
            table.add_row(escape(name), *texts)
        _print(table)
        cautions: dict[str, list[str]] = {}
        for column in shown:
            cautions.setdefault(column.caution, []).append(column.title)
        for caution, titles in cautions.items():
            if caution:
                print(f"  {'; '.join(titles)}: {caution}")
    _print(_leads(rows, scenes))


def _cells(column: Column, values: "pd.Series[float]") -> list[str]:
    texts = ["" if np.isnan(value) else f"{value:.{column.digits}f}" for value in values]
    best = column.is_best(values)
    return [f"[bold]{text}[/bold]" if b else text for text, b in zip(texts, best, strict=True)]


def _leads(rows: Sequence[Row], scenes: Sequence[str]) -> Table:
    """The best row of each localisation score, with its lead over chance and over the next row.

    The next row is the best one of another method, since two upsamplings of one method may be
    similar. The intervals do not account for the choice of both rows on the same tiles.
    """
    chance = _chance(rows)
    titles = "best", "", "over chance [95 %]", "best other method", "", "lead [95 %]"
    table = Table("", *titles, title="Leads, with intervals by bootstrap over scenes")
    for column in TABLES["Localisation"]:
        key = column.key
        if key not in chance.tiles:
            continue
        first, *others = sorted(rows, key=lambda row: row.tiles[key].mean(), reverse=True)
        second = next(row for row in others if row.method != first.method)
        cells = [column.title]
        for shown, below in ((first, chance), (second, second)):
            lead = mean_interval(first.tiles[key] - below.tiles[key], scenes)
            bounds = f"{lead.mean:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]"
            cells += [escape(shown.name), f"{shown.tiles[key].mean():.3f}", bounds]
        table.add_row(*cells)
    return table


def _chance(rows: Sequence[Row]) -> Row:
    return next(row for row in rows if row.method == CHANCE)


def _print(table: Table) -> None:
    """Prints a table at its full width, also to a file."""
    Console(width=max(200, Console().width)).print(table)


def score_table(rows: Sequence[Row], scenes: Sequence[str]) -> "pd.DataFrame":
    """The table of the CSV: means, intervals, lift over chance, distance to the best, cost last.

    Each localisation score ``s`` has the columns ``s``, ``s_low`` and ``s_high`` (bootstrap over
    scenes), ``s_lift…`` (minus chance, paired) and ``s_behind…`` (the best row minus this one,
    paired; the best row is better if the lower bound is above zero). The perturbation scores have
    bounds, too, over the scenes of their fewer tiles.

    Args:
        rows: Including the baseline ``uniform``.
        scenes: The scene of each tile.

    Returns:
        One row for each of ``rows``.
    """
    import pandas as pd

    chance = _chance(rows)
    best = {name: max(rows, key=lambda row: float(row.tiles[name].mean())) for name in chance.tiles}
    records = []
    for row in rows:
        record: dict[str, str | float] = {"method": row.method, "upsampling": row.upsampling}
        for name, scores in row.tiles.items():
            record |= with_bounds(name, mean_interval(scores, scenes))
            lift = mean_interval(scores - chance.tiles[name], scenes)
            behind = mean_interval(best[name].tiles[name] - scores, scenes)
            record |= with_bounds(f"{name}_lift", lift) | with_bounds(f"{name}_behind", behind)
        records.append({**record, **row.numbers})
    table = pd.DataFrame(records)
    return table[sorted(table.columns, key=lambda key: key.startswith("ms_"))]


def with_bounds(name: str, interval: Interval) -> dict[str, float]:
    """A number by its name, and the bounds of its interval by ``…_low`` and ``…_high``."""
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
