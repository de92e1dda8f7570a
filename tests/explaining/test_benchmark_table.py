"""Tables of ``task=benchmark`` for rows with known scores."""

import csv

import numpy as np
import pytest
from rich.table import Table

from vbp_lightning.evaluation.bootstrap import mean_interval
from vbp_lightning.explaining.benchmark_table import (
    TABLES,
    Row,
    print_tables,
    score_table,
)
from vbp_lightning.explaining.outputs import write_csv

SCENES = ["a", "a", "b", "c"]
KEYS = [column.key for column in TABLES["Localisation"][:-1]]


def row(method, upsampling, *scores):
    """The same scores of four tiles in every column."""
    return Row(method, upsampling, dict.fromkeys(KEYS, np.array(scores)), {"ms_batch": 1.0})


@pytest.fixture
def rows():
    return [
        row("uniform", "", 0.1, 0.1, 0.2, 0.2),
        row("visual_backprop", "deconv", 0.5, 0.4, 0.6, 0.7),
        row("visual_backprop", "bilinear", 0.4, 0.4, 0.6, 0.7),
        row("grad_cam", "", 0.2, 0.3, 0.7, 0.4),
    ]


def printed(capsys, rows, scenes=SCENES):
    print_tables(rows, scenes)
    return capsys.readouterr().out


def test_the_lead_is_over_the_best_row_of_another_method(capsys, rows):
    lines = printed(capsys, rows).split("Leads")[1].splitlines()
    line = next(each for each in lines if each.startswith("│ AP "))
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    over_chance = mean_interval([0.4, 0.3, 0.4, 0.5], SCENES)
    lead = mean_interval([0.3, 0.1, -0.1, 0.3], SCENES)
    assert cells == [
        *("AP", "visual backprop, deconv", "0.550"),
        f"+0.400 [{over_chance.low:+.3f}, {over_chance.high:+.3f}]",
        *("grad cam", "0.400", f"+0.150 [{lead.low:+.3f}, {lead.high:+.3f}]"),
    ]
    assert lead.low < 0 < lead.high


def test_every_localisation_score_has_a_line(capsys, rows):
    leads = printed(capsys, rows).split("Leads")[1]
    assert leads.count("visual backprop, deconv ") == len(KEYS)


def test_one_scene_gives_no_bounds(capsys, rows):
    assert "+0.150 [-inf, +inf]" in printed(capsys, rows, ["a"] * 4)


def test_the_best_values_are_bold_and_empty_tables_are_left_out(monkeypatch, capsys, rows):
    cells = []
    monkeypatch.setattr(Table, "add_row", lambda self, *texts: cells.append((self.title, *texts)))
    for number, found in enumerate(rows):
        found.numbers = {"block_ratio": (0.5, 1.2, 1.4, float("nan"))[number], "ms_batch": number}
    print_tables(rows, SCENES)
    assert {title for title, *_ in cells if title in TABLES} == {"Localisation", "Artefacts"}
    artefacts = [texts for title, *texts in cells if title == "Artefacts"]
    assert artefacts == [
        ["uniform", "0.500", "[bold]0.00[/bold]"],
        ["visual backprop, deconv", "[bold]1.200[/bold]", "1.00"],
        ["visual backprop, bilinear", "1.400", "2.00"],
    ]
    best = {texts[1] for title, *texts in cells if title == "Localisation"}
    assert best == {"0.150", "[bold]0.550[/bold]", "0.525", "0.400"}


def test_the_csv_has_the_paired_distance_to_the_best(rows):
    table = score_table(rows, SCENES)
    behind = mean_interval([0.3, 0.1, -0.1, 0.3], SCENES)
    assert table.average_precision_behind[3] == pytest.approx(behind.mean)
    assert table.average_precision_behind_low[3] == pytest.approx(behind.low)
    assert table.average_precision_behind[1] == 0
    assert table.average_precision_lift[1] == pytest.approx(0.4)


def test_the_csv_as_it_is_written(tmp_path, rows):
    rows[1].numbers = {"ms_batch": 1.23456789, "exponent": 2.0}
    path = write_csv(tmp_path / "a.csv", score_table(rows, SCENES))
    with path.open(newline="") as file:
        names, _, deconv, bilinear, _ = csv.reader(file)
    assert names[:5] == ["method", "upsampling", *bounds("average_precision")]
    assert names[5:8] == bounds("average_precision_lift")
    assert names[8:11] == bounds("average_precision_behind")
    assert names[-2:] == ["exponent", "ms_batch"]
    assert deconv[:3] == ["visual_backprop", "deconv", "0.55"]
    assert deconv[-2:] == ["2", "1.23457"]
    assert bilinear[-2:] == ["", "1"]


def bounds(name):
    return [name, f"{name}_low", f"{name}_high"]
