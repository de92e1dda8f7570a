"""What ``task=benchmark`` prints of rows with known scores."""

import numpy as np
import pytest

from vbp_lightning.evaluation.bootstrap import mean_interval
from vbp_lightning.explaining.benchmark_table import TABLES, Row, csv_rows, print_tables

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


def test_every_localisation_score_has_its_line(capsys, rows):
    leads = printed(capsys, rows).split("Leads")[1]
    assert leads.count("visual backprop, deconv ") == len(KEYS)


def test_one_scene_gives_no_bounds(capsys, rows):
    assert "+0.150 [-inf, +inf]" in printed(capsys, rows, ["a"] * 4)


def test_the_csv_has_the_paired_distance_to_the_best(rows):
    flat = list(csv_rows(rows, SCENES))
    behind = mean_interval([0.3, 0.1, -0.1, 0.3], SCENES)
    assert flat[3]["average_precision_behind"] == pytest.approx(behind.mean)
    assert flat[3]["average_precision_behind_low"] == pytest.approx(behind.low)
    assert flat[1]["average_precision_behind"] == 0
    assert flat[1]["average_precision_lift"] == pytest.approx(0.4)
