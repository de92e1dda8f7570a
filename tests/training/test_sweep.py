"""The summary of a sweep from the files in its jobs' folders."""

import csv
import json
import statistics

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console

from vbp_lightning.training.sweep import (
    SHOWN_METRICS,
    SweepSummary,
    _saving,
    summarize,
    summary_table,
    write_summary,
)
from vbp_lightning.training.sweep_page import write_page


def write_job(folder, overrides, metrics=None, error=None, tags=()):
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
    (folder / ".hydra" / "config.yaml").write_text(json.dumps({"tags": list(tags)}))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    if error is not None:
        (folder / "failed.txt").write_text(error)


@pytest.fixture
def sweep(tmp_path):
    for model in ("strided", "maxpool"):
        for seed in (1, 2, 3):
            value = seed / 10 + (model == "maxpool") / 3
            metrics = dict.fromkeys(SHOWN_METRICS, value) | {"threshold": 0.4, "test/f1": value}
            overrides = [f"model={model}", f"seed={seed}", "threads=1", "resume=null"]
            write_job(tmp_path / f"{model}-{seed}", overrides, metrics, tags=[model, "first"])
    write_job(
        tmp_path / "gap-1", ["model=strided", "model.head=gap", "threads=1"], error="no space"
    )
    write_job(tmp_path / "gap-2", ["model=strided", "model.head=gap", "threads=1"])
    return tmp_path


def test_every_job_has_a_row_in_the_csv(sweep):
    write_summary(sweep)
    rows = list(csv.DictReader((sweep / "summary.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["failed", "unfinished", *["done"] * 6]
    assert [row["path"] for row in rows] == sorted(str(path) for path in sweep.glob("*-*"))
    assert list(rows[0]) == [
        *("status", "model", "model.head", "threads", "seed", "tags"),
        *(*SHOWN_METRICS, "threshold", "test/f1", "path"),
    ]
    assert rows[2]["val/auroc"] == "0.433333"
    assert rows[2]["tags"] == "maxpool first"
    assert rows[2]["threads"] == "1"
    assert rows[0]["val/auroc"] == rows[0]["seed"] == rows[0]["tags"] == ""


def test_the_table_has_mean_and_deviation_over_seeds(sweep):
    table = summary_table(summarize(sweep), "test/f1")
    assert [column.header for column in table.columns] == [
        *("model", "model.head", "tags", "seeds"),
        *("val\nauroc", "test\nauroc", "test\naverage precision", "test\nbalanced accuracy"),
        "test\nf1",
    ]
    cells = [list(column.cells) for column in table.columns]
    assert cells[:4] == [
        ["maxpool", "strided"],
        ["", ""],
        ["maxpool first", "strided first"],
        ["3", "3"],
    ]
    deviation = statistics.stdev([0.1, 0.2, 0.3])
    for column in cells[4:]:
        assert column == [f"{0.2 + 1 / 3:.3f} ± {deviation:.3f} *", f"0.200 ± {deviation:.3f}"]


def test_a_table_without_finished_jobs_or_without_axes(tmp_path):
    write_job(tmp_path / "a", ["seed=1"], error="no space")
    assert summary_table(summarize(tmp_path), "val/auroc").row_count == 0
    write_job(tmp_path / "b", ["seed=2"], {"val/auroc": 0.5})
    table = summary_table(summarize(tmp_path), "val/auroc")
    assert [list(column.cells) for column in table.columns] == [["1"], ["0.500"]]


def test_each_upsampling_of_a_run_has_a_row_with_its_lifts(tmp_path):
    scores = {"explanation/chance": 0.1, "explanation/deconv/average_precision": 0.4}
    scores |= {"explanation/nearest/average_precision": 0.6, "val/auroc": 0.9}
    write_job(tmp_path / "a", ["upsampling=[deconv,nearest]", "seed=1"], scores)
    jobs = summarize(tmp_path)
    assert list(jobs["upsampling"]) == ["deconv", "nearest"]
    assert list(jobs["val/auroc"]) == [0.9, 0.9]
    assert list(jobs["explanation/average_precision_lift"]) == pytest.approx([0.3, 0.5])
    table = summary_table(jobs, "explanation/average_precision", usual=())
    assert [list(column.cells) for column in table.columns] == [
        ["deconv", "nearest"],
        ["1", "1"],
        ["0.400\nlift +0.300", "0.600 *\nlift +0.500"],
    ]


def test_a_sweep_over_upsamplings_says_what_the_list_form_saves():
    parse = OverridesParser.create().parse_overrides
    line = _saving(parse(["upsampling=deconv,nearest", "seed=1,2,3", "threads=1"]))
    assert "'upsampling=[deconv,nearest]'" in line
    assert line.endswith("3 trainings instead of 6")
    assert not _saving(parse(["upsampling=[deconv,nearest]", "seed=1,2,3"]))


def test_settings_with_markup_are_text(tmp_path):
    for value in ("[bold]a[/bold]", "[/x]b\x1b[31m"):
        metrics = dict.fromkeys(SHOWN_METRICS, 0.5)
        write_job(tmp_path / str(len(value)), [f"data.root={value}"], metrics)
    console = Console(width=200, force_terminal=True)
    with console.capture() as printed:
        console.print(summary_table(summarize(tmp_path), "val/auroc"))
    assert "[bold]a[/bold]" in printed.get()
    assert "[/x]b\\x1b[31m" in printed.get()


def test_a_summary_that_cannot_be_written_ends_the_sweep_with_one_line(tmp_path, capsys):
    """Hydra would only warn of an exception in a callback, and exit with 0."""
    write_job(tmp_path / "a", ["seed=1"], {"val/auroc": 0.5})
    (tmp_path / "multirun.yaml").touch()
    (tmp_path / "summary.csv").mkdir()
    leftover = tmp_path / ".multirun.99999999.tmp.yaml"
    leftover.touch()
    hydra = {"sweep": {"dir": str(tmp_path)}, "mode": "MULTIRUN"}
    config = OmegaConf.create({"hydra": hydra, "optimized_metric": "val/auroc"})
    with pytest.raises(SystemExit) as ended:
        SweepSummary().on_multirun_end(config)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'summary.csv'}: cannot be written: Is a directory")
    assert line.endswith(f"continue with resume={tmp_path}")
    assert not leftover.exists()


def test_the_page_holds_every_job_its_error_and_its_panel(sweep):
    (sweep / "maxpool-1" / "panels").mkdir()
    Image.new("RGB", (4, 4)).save(sweep / "maxpool-1" / "panels" / "epoch_000.png")
    write_job(sweep / "bad", ["data.root=<b>x</b>"], error="<script>")
    page = write_page(sweep, summarize(sweep), list(SHOWN_METRICS)).read_text()
    assert page.count("<section>") == 9
    assert page.count("data:image/png;base64,") == 1
    assert "no space" in page
    assert "data.root=&lt;b&gt;x&lt;/b&gt;" in page
    assert "<script" not in page
    assert "http" not in page
