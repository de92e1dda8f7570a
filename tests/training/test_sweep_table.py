"""The printed tables of a sweep: mean and spread over seeds, upsamplings, marks, 80 columns."""

import statistics

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from tests.helpers.sweeps import write_job, write_sweep
from vbp_lightning.training.sweep import summarize
from vbp_lightning.training.sweep_table import (
    SHOWN_METRICS,
    SHOWN_SCORES,
    by_upsampling,
    compared_metrics,
    summary_tables,
    table_rows,
)

SCORES = [name for score in SHOWN_SCORES for name in (score, f"{score}_lift")]


def printed(tables, width=80):
    console = Console(width=width)
    with console.capture() as captured:
        console.print(*tables, sep="\n")
    return captured.get()


def test_the_table_has_mean_and_deviation_over_seeds(tmp_path):
    (table,) = summary_tables(summarize(write_sweep(tmp_path)), "test/f1")
    assert [column.header for column in table.columns] == [
        *("settings", "seeds", "val\nauroc", "test\nauroc", "test\naverage\nprecision"),
        *("test\nbalanced\naccuracy", "test\nf1"),
    ]
    cells = [list(column.cells) for column in table.columns]
    assert cells[:2] == [
        ["model: maxpool\ntags: maxpool first", "model: strided\ntags: strided first"],
        ["3", "3"],
    ]
    deviation = statistics.stdev([0.1, 0.2, 0.3])
    best = f"[bold]{0.2 + 1 / 3:.3f}*\n±{deviation:.3f}[/bold]"
    for column in cells[2:]:
        assert column == [best, f"0.200\n±{deviation:.3f}"]


def test_a_table_without_finished_jobs_or_without_axes(tmp_path):
    write_job(tmp_path / "a", ["seed=1"], error="no space")
    (table,) = summary_tables(summarize(tmp_path), "val/auroc")
    assert table.row_count == 0
    write_job(tmp_path / "b", ["seed=2"], {"val/auroc": 0.5})
    (table,) = summary_tables(summarize(tmp_path), "val/auroc")
    assert [list(column.cells) for column in table.columns] == [["1"], ["0.500"]]


def test_settings_with_markup_are_text(tmp_path):
    for value in ("[bold]a[/bold]", "[/x]b\x1b[31m"):
        metrics = dict.fromkeys((*SHOWN_METRICS, *SCORES), 0.5)
        write_job(tmp_path / str(len(value)), [f"data.root={value}"], metrics)
    console = Console(width=200, force_terminal=True)
    with console.capture() as captured:
        console.print(*summary_tables(summarize(tmp_path), "val/auroc"))
    assert captured.get().count("[bold]a[/bold]") == 2
    assert captured.get().count("[/x]b\\x1b[31m") == 2


def job_metrics(rng):
    scores = {up: dict(zip(SCORES, rng.random(6), strict=True)) for up in ("deconv", "unpool")}
    return dict.fromkeys(SHOWN_METRICS, float(rng.random())), scores


def test_a_list_of_upsamplings_and_a_sweep_over_them_give_the_same_table(tmp_path):
    rng = np.random.default_rng(0)
    for model in ("strided", "maxpool"):
        for seed in (1, 2, 3):
            metrics, scores = job_metrics(rng)
            job = [f"model={model}", f"seed={seed}"]
            nested = {
                name.replace("/", f"/{up}/"): value
                for up in scores
                for name, value in scores[up].items()
            }
            name = f"{model}{seed}"
            folder = tmp_path / "list" / name
            write_job(folder, [*job, "upsampling=[deconv,unpool]"], metrics | nested)
            for up in scores:
                folder = tmp_path / "comma" / f"{name}{up}"
                write_job(folder, [*job, f"upsampling={up}"], metrics | scores[up])
    rows = {}
    for form in ("list", "comma"):
        jobs = by_upsampling(summarize(tmp_path / form))
        metrics, scores = compared_metrics(jobs, "explanation/deconv/average_precision")
        assert (metrics, scores) == ([*SHOWN_METRICS], SCORES)
        found = table_rows(jobs, [*metrics, *scores])
        rows[form] = sorted(found, key=lambda row: sorted(row.settings.items()))
    assert rows["list"] == rows["comma"]
    assert [row.settings for row in rows["list"]] == [
        {"model": model, "upsampling": up}
        for model in ("maxpool", "strided")
        for up in ("deconv", "unpool")
    ]
    assert {row.jobs for row in rows["list"]} == {3}
    # one row for each job in the CSV
    assert len(summarize(tmp_path / "list")) == 6


def test_jobs_with_one_and_with_several_upsamplings_are_rows_of_one_table():
    jobs = pd.DataFrame(
        [
            {"upsampling": "[deconv,unpool]", "explanation/deconv/x": 1, "explanation/unpool/x": 2},
            {"upsampling": "nearest", "explanation/x": 3},
            {"upsampling": "bilinear"},
        ]
    )
    found = by_upsampling(jobs)
    assert [*found["upsampling"]] == ["deconv", "unpool", "nearest", "bilinear"]
    np.testing.assert_array_equal(found["explanation/x"], [1, 2, 3, np.nan])
    assert by_upsampling(jobs[1:2][["upsampling", "explanation/x"]]).equals(
        jobs[1:2][["upsampling", "explanation/x"]]
    )


@pytest.mark.parametrize(
    ("values", "marked"),
    [
        ([0.5], []),
        ([0.5, 0.6, 0.4], [1]),
        ([0.6, 0.5, 0.6], [0, 2]),
        ([0.5, 0.5], []),
        ([0.50001, 0.50002], []),  # both are shown as 0.500
        ([0.50001, 0.50002, 0.1], [0, 1]),
        ([None, 0.5, 0.4], [1]),
        ([None, 0.5], []),
        ([-0.2, -0.1], [1]),
    ],
)
def test_the_best_of_several_different_means_is_marked(tmp_path, values, marked):
    for index, value in enumerate(values):
        metrics = {"val/auroc": 0.5, "threshold": index}
        metrics |= {} if value is None else dict.fromkeys(SCORES, value)
        write_job(tmp_path / str(index), [f"model={index}"], metrics)
    jobs = summarize(tmp_path)
    rows = table_rows(jobs, [*SCORES, "threshold"])
    for name in SCORES:
        assert [i for i, row in enumerate(rows) if row.cells[name].is_best] == marked
    assert not any(row.cells["threshold"].is_best for row in rows)
    text = printed(summary_tables(jobs, "threshold"))
    assert text.count("*") == (len(SCORES) * len(marked) + 1 if marked else 0)
    assert text.count("–") == 6 * values.count(None)


def test_nothing_is_cut_at_80_columns(tmp_path):
    settings = {
        "data.augment.brightness_of_all_bands": "0.123456789012345",
        "data.root": "/a/very/long/path/to/imagery/that/has/no/space/at/all",
        "callbacks.averaging.eta": "5",
        "upsampling": "deconv_normalized",
    }
    for end in ("0", "1"):
        for seed in ("1", "2"):
            overrides = [f"{key}={value}{end}" for key, value in settings.items()]
            metrics = dict.fromkeys((*SHOWN_METRICS, "test/f1", *SCORES), int(seed) / 7)
            write_job(tmp_path / (end + seed), [*overrides, f"seed={seed}"], metrics)
    text = printed(summary_tables(summarize(tmp_path), "test/f1"))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    tables = text.split("\n Sweep")[-1].split("VisualBackProp masks: score, below it its lift")
    for table, heads in zip(tables, ("balanced accuracy f1", "average relevance px"), strict=True):
        lines = table.splitlines()
        width = next(line.index("seeds") for line in lines if "settings" in line)
        column = "".join(line[:width].strip() for line in lines)
        for key, value in settings.items():
            for end in ("0", "1"):
                assert f"{key}:{value}{end}" in column.replace(" ", "")
        assert all(word in table for word in heads.split())
    assert text.count("±0.101") == 2 * (len(SHOWN_METRICS) + 1 + len(SCORES))
