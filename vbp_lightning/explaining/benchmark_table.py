"""The benchmark's tables: what is printed, and what goes into the CSV."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from vbp_lightning.evaluation.bootstrap import Interval, mean_interval
from vbp_lightning.files import replacing

Floats = npt.NDArray[np.float64]

CHANCE = "uniform"
"""The baseline whose scores are what chance gets."""


@dataclass
class Row:
    """What was found of one method with one upsampling.

    Args:
        method: Its name.
        upsampling: Of its way back; empty where it has none.
        tiles: ``(N,)`` by localisation score, one a tile.
        numbers: Single numbers by column.
        cascade: Mean rank correlation with the trained network's maps, by the layer that the
            cascading randomisation has reached.
    """

    method: str
    upsampling: str
    tiles: dict[str, Floats]
    numbers: dict[str, float] = field(default_factory=dict)
    cascade: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As people read it."""
        name = self.method.replace("_", " ")
        return f"{name}, {self.upsampling}" if self.upsampling else name


@dataclass(frozen=True)
class Column:
    """A column of a printed table.

    Args:
        key: Of a localisation score, or of ``Row.numbers``.
        title: For people.
        good: ``high``, ``low``, ``one`` (nearest to it), or empty where nothing is best.
        digits: After the point.
    """

    key: str
    title: str
    good: str = "high"
    digits: int = 3

    def value(self, row: Row) -> float:
        """NaN where the row has none."""
        if self.key in row.tiles:
            return float(row.tiles[self.key].mean())
        return row.numbers.get(self.key, float("nan"))


COST = Column("ms_batch", "ms/tile", "low", 2)
TABLES = {
    "Localisation": [
        Column("average_precision", "AP"),
        Column("relevance_mass", "mass"),
        Column("sharpened_mass", "mass, best power"),
        Column("rank_accuracy", "rank"),
        Column("pointing_game", "pointing"),
        Column("pointing_game_2px", "pointing 2 px"),
        Column("iou", "IoU"),
        COST,
    ],
    "Faithfulness and sanity": [
        Column("deletion", "deletion", "low"),
        Column("insertion", "insertion"),
        Column("road", "ROAD"),
        Column("shift_salient", "shift salient"),
        Column("shift_rest", "rest", "low"),
        Column("shift_whole", "whole", ""),
        Column("shift_control", "control", ""),
        Column("cascade_head", "cascade head", ""),
        Column("cascade_convolutional", "all", ""),
        Column("cascade_head_sizes", "head, sizes", ""),
        Column("cascade_convolutional_sizes", "all, sizes", ""),
        Column("lrp_correlation", "ρ with LRP", ""),
        Column("lrp_size_correlation", "ρ, sizes", ""),
        Column("ms_single", "ms, 1 tile", "low", 2),
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
    """Prints the tables that have anything to say, the best of each column in bold.

    Args:
        rows: With a baseline ``uniform`` among them.
        scenes: The scene of each tile.
    """
    for title, columns in TABLES.items():
        shown = [column for column in columns if any(_is_there(column, row) for row in rows)]
        kept = [row for row in rows if any(_is_there(column, row) for column in shown[:-1])]
        if len(shown) < 2:
            continue
        best = {column.key: _best(column, kept) for column in shown}
        table = Table("", *(column.title for column in shown), title=title)
        for row in kept:
            cells = []
            for column in shown:
                value = column.value(row)
                text = "" if np.isnan(value) else f"{value:.{column.digits}f}"
                cells.append(f"[bold]{text}[/bold]" if value == best[column.key] else text)
            table.add_row(row.name, *cells)
        _print(table)
    _print(_leads(rows, scenes))


def _leads(rows: Sequence[Row], scenes: Sequence[str]) -> Table:
    """The best of each localisation score, and how surely it is better than what comes next.

    What comes next is the best row of another method: two upsamplings of one method may be alike.
    That both were picked by these very tiles is not in the interval.
    """
    chance = _chance(rows)
    titles = "best", "", "over chance [95 %]", "best other method", "", "lead [95 %]"
    table = Table("", *titles, title="Leads, intervals over scenes")
    for column in TABLES["Localisation"]:
        if column.key not in chance.tiles:
            continue
        first = max(rows, key=column.value)
        others = (row for row in rows if row.method != first.method)
        second = max(others, key=column.value)
        over_chance, over_second = (
            mean_interval(first.tiles[column.key] - row.tiles[column.key], scenes)
            for row in (chance, second)
        )
        table.add_row(
            column.title,
            *(first.name, f"{column.value(first):.3f}", _signed(over_chance)),
            *(second.name, f"{column.value(second):.3f}", _signed(over_second)),
        )
    return table


def _chance(rows: Sequence[Row]) -> Row:
    return next(row for row in rows if row.method == CHANCE)


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _print(table: Table) -> None:
    """As wide as the table needs, also where the output goes to a file."""
    Console(width=max(200, Console().width)).print(table)


def _is_there(column: Column, row: Row) -> bool:
    return not np.isnan(column.value(row))


def _best(column: Column, rows: Sequence[Row]) -> float:
    values = [column.value(row) for row in rows if _is_there(column, row)]
    if column.good == "high":
        return max(values)
    if column.good == "low":
        return min(values)
    return min(values, key=lambda value: abs(value - 1)) if column.good == "one" else float("nan")


def csv_rows(rows: Sequence[Row], scenes: Sequence[str]) -> Iterator[dict[str, str | float]]:
    """A flat row for each: means, intervals, lift over chance, distance to the best, cost last.

    Of every localisation score ``s`` there are ``s``, ``s_low`` and ``s_high`` (bootstrap over
    scenes), ``s_lift…`` (less chance, paired), and ``s_behind…``: how much the best row has more,
    paired; its lower end above zero says that it is better than this one. The perturbation scores
    have bounds, too, over the scenes of their fewer tiles.

    Args:
        rows: With a baseline ``uniform`` among them.
        scenes: The scene of each tile.
    """
    chance = _chance(rows)
    names = list(chance.tiles)
    best = {name: max(rows, key=lambda row: float(row.tiles[name].mean())) for name in names}
    keys = list(dict.fromkeys(key for row in rows for key in row.numbers))
    keys.sort(key=lambda key: key.startswith("ms_"))
    for row in rows:
        flat: dict[str, str | float] = {"method": row.method, "upsampling": row.upsampling}
        for name in names:
            of_row = row.tiles[name]
            flat |= with_bounds(name, mean_interval(of_row, scenes))
            flat |= with_bounds(f"{name}_lift", mean_interval(of_row - chance.tiles[name], scenes))
            behind = mean_interval(best[name].tiles[name] - of_row, scenes)
            flat |= with_bounds(f"{name}_behind", behind)
        yield flat | {key: row.numbers.get(key, float("nan")) for key in keys}


def with_bounds(name: str, interval: Interval) -> dict[str, float]:
    """A number by its name, and the bounds of its interval by ``…_low`` and ``…_high``."""
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def write_csv(path: Path, rows: Sequence[Mapping[str, str | float]]) -> Path:
    """Writes rows of the same columns, numbers to six digits; returns the path."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow(
                value if isinstance(value, str) else "" if np.isnan(value) else f"{value:.6g}"
                for value in row.values()
            )
    return path
