"""The page in a headless Chromium: what its reader sees, presses and saves."""

import csv
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.helpers.browser import Page, browser
from tests.helpers.gallery import gallery_pictures, gallery_tiles, written
from vbp_lightning.data.tiles.corrections import Corrections
from vbp_lightning.data.tiles.tile import Tile

COUNT = 60
TILES = gallery_tiles(COUNT)
P, LABELS = TILES.probabilities, TILES.labels
WRONG = (LABELS >= 0) & ((P >= 0.5) != (LABELS == 1))
FIELDS = [
    *("scene", "row", "col", "bounds", "label", "probability", "score"),
    *("new_label", "note", "digest"),
]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("browser")
    with browser(folder) as page:
        page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        page.folder = folder  # type: ignore[attr-defined]
        yield page
        assert page.errors == []


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("gallery"), TILES)[0]


@pytest.fixture
def page(chromium: Page, file: Path) -> Page:
    """The gallery as a new reader finds it."""
    return opened(chromium, file)


def opened(page: Page, file: Path) -> Page:
    page.js("location.protocol === 'file:' && localStorage.clear()")
    page.open(file)
    return page


def shown(page: Page) -> list[int]:
    """The numbers of the tiles, in the order of the page."""
    return page.js("[...document.querySelectorAll('.card')].map(card => +card.dataset.index)")


def choose(page: Page, **values: str) -> list[int]:
    for name, value in values.items():
        page.js(f"{name}.value = {json.dumps(value)}; {name}.dispatchEvent(new Event('input'))")
    return shown(page)


def label_of(page: Page, index: int) -> str:
    return page.js(f"document.querySelector('[data-index=\"{index}\"]').ariaLabel")


def focused(page: Page) -> int:
    return page.js("+document.activeElement.dataset.index")


def enter(page: Page) -> None:
    page.js("document.querySelector('.card[tabindex=\"0\"]').focus()")


def downloaded(page: Page, button: str, name: str) -> str:
    path = page.folder / name  # type: ignore[attr-defined]
    path.unlink(missing_ok=True)
    page.js(f"{button}.click()")
    for _ in range(500):
        if path.exists():
            return path.read_bytes().decode()
        time.sleep(0.02)
    raise AssertionError(f"{name} was not saved")


def rows_of(page: Page) -> list[dict[str, str]]:
    text = downloaded(page, "save_csv", "corrections.csv")
    assert text.splitlines()[0].split(",") == FIELDS
    return list(csv.DictReader(text.splitlines(keepends=True)))


def load(page: Page, rows: list[dict[str, Any]] | str) -> str:
    """Loads a file of corrections; the line that the page then shows."""
    path = page.folder / "given.csv"  # type: ignore[attr-defined]
    with path.open("w", newline="") as stream:
        if isinstance(rows, str):
            stream.write(rows)
        else:
            writer = csv.DictWriter(stream, FIELDS)
            writer.writeheader()
            writer.writerows(rows)
    page.js("document.getElementById('status').textContent = ''")
    found = page.call("Runtime.evaluate", expression="document.getElementById('load')")
    page.call("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])
    until = "new Promise(done => (function look() { const text ="
    until += " document.getElementById('status').textContent;"
    return page.js(until + " text ? done(text) : setTimeout(look, 5) })())")


def by_value(values: Any, chosen: Any = slice(None)) -> list[int]:
    """Numbers of tiles, the largest values first, equal ones in their own order."""
    index = np.arange(COUNT)[chosen]
    return index[np.argsort(-np.asarray(values, float)[chosen], kind="stable")].tolist()


def test_each_tile_says_what_is_known_of_it(page: Page):
    assert shown(page) == list(range(COUNT))
    for index in (0, 1, 2, 20):
        label = ["ignored", "non-road", "road"][index % 3]
        outcome = "" if label == "ignored" else ", wrong" if WRONG[index] else ", right"
        place = f"scene_{index // 10} · row 0, column {index % 10 * 40}"
        assert label_of(page, index) == f"{label}, P {P[index]:.2f}{outcome}, {place}"
    text = page.js("document.querySelector('[data-index=\"3\"]').innerText")
    for part in (f"P {P[3]:.2f}", "◫ ignored", "2 % road", "on road", "scene_0 · 0, 120"):
        assert part in text
    metrics = page.js("document.getElementById('metrics').innerText").split()
    assert metrics == ["Metrics", "val", "test", "auroc", "0.930", "0.900", "f1", "0.800"]


def drawn(page: Page, expected: NDArray[np.uint8]) -> bool:
    """Whether all visible tiles soon have the expected colours, but for the loss of WebP."""
    script = """[...document.querySelectorAll('.card:has(canvas)')].map(card => {
      const canvas = card.querySelector('canvas'), context = canvas.getContext('2d');
      return [+card.dataset.index, ...[.1, .9].flatMap(at => [...context.getImageData(
        canvas.width * at, canvas.height * at, 1, 1).data.slice(0, 3)])] })"""
    for _ in range(500):
        found = np.array(page.js(script)).reshape(-1, 7)
        error = np.abs(found[:, 1:] - np.tile(expected[found[:, 0]].astype(int), 2))
        if len(found) >= 10 and error.max() <= 12:
            return True
        time.sleep(0.02)
    return False


def test_the_picture_of_each_tile_is_its_own(page: Page):
    from matplotlib import colormaps

    pictures, boxes = (
        gallery_pictures(COUNT),
        "document.querySelectorAll('#layers [type=checkbox]')",
    )
    page.js(f"{boxes}.forEach(box => box.checked && box.click())")
    assert drawn(page, pictures.images[:, 0, 0])
    enter(page)
    page.press("1")
    page.js("document.querySelectorAll('#layers [type=range]').forEach(slider => {"
            " slider.value = 1; slider.dispatchEvent(new Event('input')) })")  # fmt: skip
    cividis = colormaps["cividis"](np.arange(256), bytes=True)[:, :3]
    assert drawn(page, cividis[pictures.maps["visual_backprop"][:, 0, 0]])
    page.press("2", "1")
    assert drawn(page, cividis[pictures.maps["lrp"][:, 0, 0]])


def test_sorts(page: Page):
    loss = -np.log(np.maximum(np.where(LABELS == 1, P, 1 - P), 1e-7))
    unlabelled, known = np.flatnonzero(LABELS < 0).tolist(), LABELS >= 0
    certain = abs(P - 0.5)
    assert choose(page, sort="errors") == [
        *by_value(certain, WRONG), *by_value(-certain, known & ~WRONG), *unlabelled
    ]  # fmt: skip
    assert choose(page, sort="loss") == [*by_value(loss, known), *unlabelled]
    assert choose(page, sort="borderline") == by_value(-certain)
    rest = np.flatnonzero(np.isnan(TILES.on_road)).tolist()
    assert choose(page, sort="off_road") == [*by_value(-TILES.on_road, LABELS < 0), *rest]
    assert choose(page, sort="scene") == choose(page, sort="file") == list(range(COUNT))
    assert not page.js("[...sort.options].some(option => option.value === 'suspicion')")


def test_filters(page: Page):
    every = np.arange(COUNT)
    assert choose(page, scene="ENE_3") == list(range(30, 40))
    assert choose(page, scene="", split="val") == every[1::2].tolist()
    assert choose(page, label="road") == [i for i in every if i % 2 and i % 3 == 2]
    assert choose(page, split="*", outcome="wrong") == every[WRONG & (LABELS == 1)].tolist()
    assert choose(page, label="*", outcome="*", called="road") == every[P >= 0.5].tolist()
    page.js("reset.click()")
    assert shown(page) == every.tolist()
    assert page.js("count.textContent") == "60 of 60 tiles"


def test_the_histogram_filters_by_pointer_and_by_keys(page: Page):
    box = page.js("(({left, top, width}) => [left, top, width])("
                  "document.getElementById('histogram').getBoundingClientRect())")  # fmt: skip
    x, y = [box[0] + box[2] * at for at in (0.8, 0.4)], box[1] + 20
    page.mouse("mousePressed", x[0], y)
    page.mouse("mouseMoved", x[1], y)
    page.mouse("mouseReleased", x[1], y)
    low, high = page.js("[+document.getElementById('from').value, +to.value]")
    assert (low, high) == (pytest.approx(0.4, abs=0.01), pytest.approx(0.8, abs=0.01))
    assert shown(page) == [i for i in range(COUNT) if low <= P[i] <= high]
    page.mouse("mousePressed", x[0], y)
    page.mouse("mouseReleased", x[0], y)
    assert len(shown(page)) == COUNT
    page.js("document.getElementById('to').focus()")
    page.press("ArrowLeft", "ArrowLeft")
    assert shown(page) == [i for i in range(COUNT) if P[i] <= 0.98]


def test_keys_move_mark_and_take_back(page: Page):
    enter(page)
    columns = page.js("getComputedStyle(grid).gridTemplateColumns.split(' ').length")
    page.press("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown")
    assert focused(page) == 1 + columns
    page.press("End")
    assert focused(page) == COUNT - 1
    page.press("Home", "r", "ArrowRight", "n", "ArrowRight", "i", "ArrowRight", "u")
    answers = [label_of(page, index).rpartition("corrected to ")[2] for index in range(4)]
    assert [text.split(",")[0] for text in answers] == ["road", "non-road", "ignore", "unsure"]
    assert page.js("kept.textContent") == "4 of 60 tiles, kept by this browser"
    page.press("r", "z", "z", "z")  # over the last; back; the last gone; the third gone
    assert [index for index in range(4) if "corrected" in label_of(page, index)] == [0, 1]
    page.press("Home", "r")  # the same key again
    assert "corrected" not in label_of(page, 0)
    assert page.js("document.getElementById('status').getAttribute('role')") == "status"
    assert page.js("document.querySelectorAll('.card[tabindex=\"0\"]').length") == 1


def test_the_large_view(page: Page):
    enter(page)
    page.press("ArrowRight", "Enter")
    assert page.js("large.open && document.querySelectorAll('#panes canvas').length") == 4
    page.press("ArrowRight", "n", "t", *"r x")
    page.press("Escape")
    assert page.js("large.open") is True
    page.press("ArrowRight", "ArrowLeft")
    assert page.js("document.getElementById('note').value") == "r x"
    assert page.js("document.querySelector('[aria-pressed=true]').dataset.answer") == "non_road"
    page.press("Escape")
    assert page.js("new Promise(requestAnimationFrame).then(() => large.open)") is False
    assert focused(page) == 2
    assert rows_of(page)[0]["note"] == "r x"


def test_corrections_are_saved_and_loaded_and_outlive_the_page(page: Page, file: Path):
    note = '=1+1, "quoted"\nä second line'
    other = dict.fromkeys(FIELDS, "7") | {"scene": "elsewhere", "new_label": "road", "note": note}
    given = [
        {"scene": "scene_1", "row": 0, "col": 40, "new_label": "road", "note": "'" + note,
         "digest": TILES.digests[11]},
        {"scene": "scene_1", "row": 0, "col": 80, "note": "only a note",
         "digest": TILES.digests[12]},
        {"scene": "scene_1", "row": 0, "col": 120, "new_label": "road", "digest": "another"},
        {"scene": "scene_1", "row": 0, "col": 160, "new_label": "perhaps",
         "digest": TILES.digests[14]},
        other,
    ]  # fmt: skip
    said = load(page, given)
    assert "3 corrections loaded, 1 left out whose tiles have changed, 1 rows left out" in said
    assert page.js("kept.textContent").startswith("2 of 60 tiles and 1 of other files")
    page.open(file)
    rows = rows_of(page)
    read = Corrections.read(page.folder / "corrections.csv").by_tile  # type: ignore[attr-defined]
    assert list(read) == [Tile("scene_1", 0, 40), Tile("elsewhere", 7, 7)]
    made = read[Tile("scene_1", 0, 40)]
    assert (made.answer, made.note, made.digest) == ("road", "'" + note, TILES.digests[11])
    loss = -np.log(P[11] if LABELS[11] == 1 else 1 - P[11])
    assert float(rows[0].pop("score")) == pytest.approx(loss)
    assert rows[0] == {
        "scene": "scene_1", "row": "0", "col": "40", "bounds": "40.0 1.0 80.0 41.0",
        "label": "road", "probability": f"{P[11]:g}", "new_label": "road",
        "note": "'" + note, "digest": TILES.digests[11],
    }  # fmt: skip
    assert (rows[1]["new_label"], rows[1]["note"]) == ("", "only a note")
    assert rows[2] == other | {"note": "'" + note}
    found = json.loads(downloaded(page, "save_geojson", "corrections.geojson"))
    assert "1 without a place" in page.js("document.getElementById('status').textContent")
    properties = found["features"][0]["properties"]
    assert list(properties) == FIELDS
    assert (properties["note"], properties["col"]) == (note, 40)
    ring = np.array(found["features"][0]["geometry"]["coordinates"][0])
    assert ring[0].tolist() == ring[-1].tolist()
    assert {tuple(point) for point in ring} == {tuple(point) for point in TILES.corners[11]}
    (x, y), (next_x, next_y) = ring[:-1].T, ring[1:].T
    assert (x * next_y - next_x * y).sum() > 0  # counter-clockwise
    text = ";".join(FIELDS) + f"\r\nscene_0;0;40;;;;;ignore;a,b;{TILES.digests[1]}\r\n"
    assert "1 corrections loaded" in load(page, "\ufeff" + text)
    page.js("document.querySelector('.card').focus()")
    page.press("z")
    assert "needs the columns" in load(page, "a,b\n1,2\n")
    assert "needs the columns" in load(page, 'scene,"row\n')
    assert len(rows_of(page)) == 3


def test_blind_mode_hides_what_the_network_says(page: Page):
    page.js("blind.click()")
    order = shown(page)
    count = min(WRONG.sum(), COUNT - WRONG.sum())
    assert WRONG[order].sum() == count
    assert len(order) == len(set(order)) == 2 * count
    assert 0 < WRONG[order[:count]].sum() < count  # mixed
    text = page.js("document.body.innerText + [...document.querySelectorAll('.card, figure *')]"
                   ".map(each => each.ariaLabel + each.className)")  # fmt: skip
    assert not re.search(r"P \d|loss|wrong|right|% road|threshold", text)
    page.js("document.querySelector('.card').click()")
    assert page.js("[...document.querySelectorAll('#panes figcaption')].map(e => e.innerText)") == [
        "image"
    ]
    assert not re.search("P\\(|loss|label|answer", page.js("facts.innerText"))
    assert not page.js("document.getElementById('layers').checkVisibility()")
    page.press("r", "Escape")
    assert "corrected to road" in label_of(page, order[0])
    page.open(Path(page.js("decodeURI(location.pathname)")))
    page.js("blind.click()")
    assert shown(page) == order


def test_applied_corrections_and_unlabelled_and_hostile_tiles(chromium: Page, tmp_path: Path):
    names = ["</script><script>fail()</script>", "x" * 5000, "<b>&amp;", "=1+1", "  ", "ä\u2028"]
    tiles = gallery_tiles(
        6,
        places=[Tile(name, 0, 0) for name in names],
        is_labelled=False,
        splits=[""] * 6,
        shares=np.full(6, np.nan),
        on_road=np.full(6, np.nan),
        corners=np.full((6, 4, 2), np.nan),
        answers=["road", "", "", "", "", ""],
        notes=["<i>seen</i>", "", "", "", "", ""],
    )
    page = opened(chromium, written(tmp_path, tiles, metrics={})[0])
    assert label_of(page, 0).startswith("no label, P 0.00, corrected to road, with a note, </scr")
    assert [row["scene"] for row in rows_of(page)] == names[:1]
    assert choose(page, sort="borderline") == np.argsort(
        abs(tiles.probabilities - 0.5), kind="stable"
    ).tolist()  # fmt: skip
    assert page.js("[...sort.options].map(each => each.value)") == ["file", "borderline", "scene"]
    choose(page, sort="file")
    page.js("blind.click()")
    assert "corrected" not in label_of(page, 0)
    page.js("blind.click()")
    enter(page)
    page.press("r")
    assert rows_of(page)[0]["new_label"] == ""  # the note is left
    page.open(Path(page.js("decodeURI(location.pathname)")))
    assert "corrected" not in label_of(page, 0)


def test_a_browser_that_keeps_nothing(chromium: Page, file: Path):
    source = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('no') }})"
    script = chromium.call("Page.addScriptToEvaluateOnNewDocument", source=source)
    chromium.open(file)
    enter(chromium)
    chromium.press("r")
    assert "keeps nothing" in chromium.js("kept.textContent")
    assert rows_of(chromium)[0]["new_label"] == "road"
    chromium.press("z")
    chromium.js("window.addEventListener('beforeunload', e => e.stopImmediatePropagation(), true)")
    chromium.call("Page.removeScriptToEvaluateOnNewDocument", **script)
    chromium.open(file)


def test_an_index_links_the_files(chromium: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vbp_lightning.gallery.page.MOST_TILES", 25)
    files = written(tmp_path, TILES)
    chromium.open(files[-1])
    links = chromium.js("[...document.querySelectorAll('a')].map(link => link.href)")
    assert links == [path.as_uri() for path in files[:-1]]
    opened(chromium, files[1])
    enter(chromium)
    chromium.press("r")
    chromium.open(files[0])
    assert "1 of other files" in chromium.js("kept.textContent")
    assert rows_of(chromium)[0]["scene"] == "scene_2"
