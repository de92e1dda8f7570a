"""``sweep.html``: one self-contained page with the table, the settings and the last panels."""

import base64
import io
import os
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tests.helpers.sweeps import write_job, write_sweep
from vbp_lightning.training.sweep import summarize
from vbp_lightning.training.sweep_page import _encoded, write_sweep_page
from vbp_lightning.training.sweep_table import SHOWN_METRICS, SHOWN_SCORES

SCORES = [name for score in SHOWN_SCORES for name in (score, f"{score}_lift")]
VOID = ("meta", "img", "br")


class Page(HTMLParser):
    """The tags with their attributes, and the text, of a page whose tags are all closed."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.source = path.read_text()
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if text.strip() and self.open[-1] != "style":
            self.texts.append(" ".join(text.split()))

    def pictures(self):
        return [attributes for tag, attributes in self.tags if tag == "img"]


def page_of(folder, metric="val/auroc"):
    return Page(write_sweep_page(folder, summarize(folder), metric))


def write_panel(job, name, colour, size=(70, 172)):
    (job / "panels").mkdir(exist_ok=True)
    pixels = np.empty((size[1], size[0], 3), np.uint8)
    pixels[:] = colour
    Image.fromarray(pixels).save(job / "panels" / name)


def colour_of(picture):
    kind, _, data = picture["src"].partition(";base64,")
    assert kind == "data:image/webp"
    with Image.open(io.BytesIO(base64.b64decode(data))) as decoded:
        assert decoded.size == (int(picture["width"]), int(picture["height"]))
        return np.asarray(decoded.convert("RGB")).mean((0, 1)).round(-1).astype(int).tolist()


def test_the_page_shows_the_table_the_settings_the_failures_and_the_jobs(tmp_path):
    page = page_of(write_sweep(tmp_path))
    text = " | ".join(page.texts)
    assert "8 jobs: 6 done, 1 failed, 1 unfinished" in text
    deviation = f"±{0.1:.3f}"
    row = ["maxpool", "maxpool first", "3", *[f"{0.2 + 1 / 3:.3f}*", deviation] * 4]
    assert " | ".join(row) in text
    assert " | ".join(["strided", "strided first", "3", *["0.200", deviation] * 4]) in text
    assert f"{tmp_path / 'gap-1'} | no space" in text
    assert "Settings of all jobs | threads | 1" in text
    for model in ("strided", "maxpool"):
        for seed in (1, 2, 3):
            value = f"{seed / 10 + (model == 'maxpool') / 3:.3f}"
            metrics = [each for name in SHOWN_METRICS for each in (words(name), value)]
            job = f"model: {model}, seed: {seed}, tags: {model} first | {' | '.join(metrics)}"
            assert job in text
    assert page.pictures() == []


def words(metric):
    return metric.replace("/", " ").replace("_", " ")


def test_the_last_panel_of_each_job_is_embedded(tmp_path):
    panels = {
        "a": {"epoch_998.png": 10, "epoch_999.png": 50, "epoch_1000.png": 100},
        "b": {"example_predictions.png": 150, "chain.png": 60},
        "c": {"epoch_000.png": 200, "example_predictions.png": 60},
        "d": {},
    }
    for name, colours in panels.items():
        write_job(tmp_path / name, [f"model={name}"], dict.fromkeys(SHOWN_METRICS, 0.5))
        for file, colour in colours.items():
            write_panel(tmp_path / name, file, (colour, 0, 250))
    page = page_of(tmp_path)
    colours = [colour_of(picture) for picture in page.pictures()]
    assert [[red, blue] for red, _, blue in colours] == [[100, 250], [150, 250], [200, 250]]
    for name, picture in zip("abc", page.pictures(), strict=True):
        assert "VisualBackProp" in picture["alt"]
        assert picture["alt"].endswith(f"; model: {name}")
    assert page.texts.count("No panel was written.") == 1
    assert [text for text in page.texts if text.endswith(".png")] == [
        *("panels/epoch_1000.png", "panels/example_predictions.png", "panels/epoch_000.png"),
    ]

    # a panel is encoded once, and again when it has changed
    before = _encoded.cache_info().misses
    assert page_of(tmp_path).source == page.source
    assert _encoded.cache_info().misses == before
    write_panel(tmp_path / "b", "example_predictions.png", (0, 250, 0))
    os.utime(tmp_path / "b" / "panels" / "example_predictions.png", ns=(1, 1))
    assert colour_of(page_of(tmp_path).pictures()[1])[1] == 250


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "folder", "flipped"])
def test_a_damaged_panel_is_named(tmp_path, damage):
    for name in ("a", "b"):
        write_job(tmp_path / name, [f"model={name}"])
        write_panel(tmp_path / name, "epoch_000.png", (9, 9, 9))
    path = tmp_path / "a" / "panels" / "epoch_000.png"
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        changed = bytes([*data[:60], data[60] ^ 255, *data[61:]])
        path.write_bytes(
            {"cut": data[:70], "text": b"no PNG", "empty": b"", "flipped": changed}[damage]
        )
    page = page_of(tmp_path)
    assert len(page.pictures()) == 1
    assert "panels/epoch_000.png cannot be read." in page.texts


def test_large_panels_make_a_small_page(tmp_path):
    write_job(tmp_path / "a", ["model=a"])
    pixels = np.random.default_rng(0).integers(0, 255, (1100, 700, 3), np.uint8)
    (tmp_path / "a" / "panels").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "panels" / "epoch_000.png")
    page = page_of(tmp_path)
    assert len(page.source) < 300_000
    assert colour_of(page.pictures()[0]) == [130, 130, 130]
    # WebP holds 16383 pixels at most; of a high stack of pages the first ones are shown
    write_panel(tmp_path / "a", "epoch_001.png", (200, 200, 200), (40, 17_000))
    (picture,) = page_of(tmp_path).pictures()
    assert (picture["width"], picture["height"]) == ("40", "6000")


ODD = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='y'>",
    "{{ name }}",
    "é\x1b[31m\u202eb",
    "",
)


@pytest.mark.parametrize("odd", ODD)
def test_text_from_settings_and_errors_is_text(tmp_path, odd):
    folder = tmp_path / odd.replace("/", "_").replace("\x1b", "_") / "sweep"
    folder.mkdir(parents=True)
    for index, other in enumerate((odd, "b")):
        overrides = [f"data.root={other}", f"data.labels={odd}", f"seed={index}"]
        write_job(folder / str(index), overrides, error=f"{odd} failed", deep={"key": odd})
        done = dict.fromkeys(SHOWN_METRICS, 0.5)
        write_job(folder / f"done{index}", overrides, done, deep={"key": odd})
        write_panel(folder / str(index), "epoch_000.png", (9, 9, 9))
    page = page_of(folder)
    names = {tag for tag, _ in page.tags} - {"thead", "tbody"}
    assert names <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "ul", "li"),
        *("table", "tr", "th", "td", "details", "summary", "div", "article", "figure", "img"),
        "figcaption",
    }
    for _, attributes in page.tags:
        assert attributes.get("src", "data:").startswith("data:")
        assert not {"href", "onerror", "srcset"} & {*attributes}
    shown = odd.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    text = " | ".join(page.texts)
    assert (
        f"| data.root | seeds | {words(' | '.join(SHOWN_METRICS))} |".replace("|  |", "|") in text
    )
    assert f"| {shown} | 1 | 0.500 |".replace("|  |", "|") in text
    assert f"data.labels | {shown}" in text
    assert f"deep.key | {shown}" in text
    assert f"{shown} failed".strip() in text
    assert "\x1b" not in page.source
    assert "://" not in page.source


def test_several_upsamplings_are_the_columns_of_a_job(tmp_path):
    nested = {
        name.replace("/", f"/{up}/"): 0.25 + shift
        for up, shift in (("deconv", 0), ("unpool", 0.5))
        for name in SCORES
    }
    for seed in (1, 2):
        metrics = dict.fromkeys(SHOWN_METRICS, 0.5) | nested
        write_job(tmp_path / str(seed), ["upsampling=[deconv,unpool]", f"seed={seed}"], metrics)
    text = " | ".join(page_of(tmp_path).texts)
    assert "seed: 1 | deconv | unpool | val auroc | 0.500 | 0.500 |" in text
    assert "relevance mass | 0.250 | 0.750 | lift over chance | +0.250 | +0.750 |" in text
    assert "deconv | 2 | 0.500 | ±0.000" in text
    assert "unpool | 2 | 0.500 | ±0.000" in text
    assert "upsampling | [deconv,unpool]" in text


def test_settings_that_all_jobs_share(tmp_path):
    shared = {"trainer": {"max_epochs": 20, "logger": None}, "bands": [1, 2], "threads": 1}
    for name in ("a", "b"):
        write_job(tmp_path / name, [f"model={name}", "threads=1"], model=name, **shared)
    write_job(tmp_path / "c", ["model=c", "threads=1"])
    (tmp_path / "c" / ".hydra" / "config.yaml").write_text("- damaged\n")
    text = " | ".join(page_of(tmp_path).texts)
    assert "Settings of all jobs | threads | 1 |" in text
    expected = "bands | [1, 2] | tags | [] | trainer.logger | null | trainer.max_epochs | 20 | Jobs"
    assert f"4 further settings that all jobs share | {expected}" in text
