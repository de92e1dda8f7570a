import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.gallery import SIDE, gallery_pictures, gallery_tiles, part_of, payload, written
from vbp_lightning.data.tiles.tile import Tile
from vbp_lightning.files import WriteError
from vbp_lightning.gallery import page
from vbp_lightning.gallery.sprites import SHEET_SIDE, sprite_sheets
from vbp_lightning.gallery.tiles import GalleryPictures

PNG = {"format": "PNG"}


def cells(sprite: dict, count: int) -> list[np.ndarray]:
    """The pictures of sheets, one by one, as the page finds them."""
    sheets = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in sprite["sheets"]
    ]
    found = []
    for index in range(count):
        sheet, at = divmod(index, sprite["columns"] * sprite["rows"])
        row, column = divmod(at, sprite["columns"])
        top, left = row * sprite["step_y"], column * sprite["step_x"]
        found.append(sheets[sheet][top : top + sprite["height"], left : left + sprite["width"]])
    return found


@pytest.mark.parametrize(
    ("count", "shape"),
    [(1, (5, 7)), (9, (250, 500)), (4, (400, 600, 3)), (0, (4, 4)), (3, (17, 16, 3))],
)
def test_every_picture_of_a_sheet_lies_at_its_place(count: int, shape: tuple[int, ...]):
    pictures = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    sprite = sprite_sheets(pictures, PNG)
    found = cells(sprite, count)
    assert len(found) == count
    for one, other in zip(found, pictures, strict=True):
        np.testing.assert_array_equal(one, other)
    for text in sprite["sheets"]:
        width, height = Image.open(io.BytesIO(base64.b64decode(text))).size
        assert max(width, height) <= SHEET_SIDE
        assert width * height < 16_700_000  # Safari


def test_pictures_larger_than_a_sheet_are_reduced():
    sprite = sprite_sheets(np.arange(4096, dtype=np.uint8)[None, None].repeat(4096, 1), PNG)
    assert (sprite["width"], sprite["height"]) == (1024, 1024)
    np.testing.assert_array_equal(cells(sprite, 1)[0][5], np.arange(0, 4096, 4, dtype=np.uint8))


def test_a_page_holds_the_records_and_the_pictures(tmp_path: Path):
    tiles = gallery_tiles(12, suspicion=np.linspace(0, 1, 12), flagged=np.arange(12) > 8)
    (path,) = written(tmp_path, tiles)
    assert path == tmp_path / "gallery.html"
    data = payload(path)
    assert data["threshold"] == 0.5
    table = data["tiles"]
    assert [
        Tile(*place) for place in zip(table["scene"], table["row"], table["col"], strict=True)
    ] == tiles.places
    assert table["label"][:3] == ["ignored", "non_road", "road"]
    assert table["p"] == tiles.probabilities.tolist()
    assert table["on_road"][1] is None
    assert table["flagged"] == tiles.flagged.tolist()
    assert [
        [float(edge) for edge in text.split()] for text in table["bounds"]
    ] == tiles.bounds.tolist()
    np.testing.assert_allclose(table["corners"], tiles.corners, atol=1e-8)
    np.testing.assert_allclose(table["suspicion"], tiles.suspicion, atol=1e-6)
    pictures, sprites = gallery_pictures(12), data["sprites"]
    for one, other in zip(cells(sprites["roads"], 12), pictures.roads, strict=True):
        np.testing.assert_array_equal(one[..., 0] > 127, other)
    for name, maps in pictures.maps.items():
        error = np.array(cells(sprites["maps"][name], 12))[..., 0].astype(int) - maps
        assert np.abs(error).max() <= 20
    error = np.array(cells(sprites["image"], 12)).astype(int) - pictures.images
    assert np.abs(error).mean() < 2


def test_unknown_numbers_labels_and_roads_are_left_out(tmp_path: Path):
    nan = np.full(3, np.nan)
    tiles = gallery_tiles(
        3, is_labelled=False, shares=nan, on_road=nan, corners=np.full((3, 4, 2), np.nan)
    )
    pictures = gallery_pictures(3)
    bare = GalleryPictures(pictures.images, {}, None)
    data = payload(written(tmp_path, tiles, read=lambda _: bare)[0])
    assert data["tiles"]["label"] == ["", "", ""]
    for column in ("share", "on_road", "suspicion", "corners"):
        assert data["tiles"][column] == [None] * 3
    assert data["sprites"]["maps"] == {}
    assert data["sprites"]["roads"] is None


def test_names_cannot_end_their_element_and_the_page_refers_to_nothing(tmp_path: Path):
    names = ["</script><script>alert(1)</script>", "<!--", "a&b", 'quote"', "\u2028", "\udcff"]
    tiles = gallery_tiles(6, places=[Tile(name, 0, 0) for name in names])
    title = "<img src=x> \x1b[0m"
    (path,) = written(tmp_path, tiles, title=title, metrics={"<b>": {"</td>": 0.5}})
    text = path.read_text()
    assert payload(path)["tiles"]["scene"] == names
    assert text.count("</script") == text.count("<script") == 2
    assert not re.search(r"<img|<b>|</td>0|https?://(?!www\.w3\.org/2000/svg)|\x1b", text)
    assert "&lt;img src=x&gt; \\x1b[0m" in text


def test_more_tiles_than_a_page_holds_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page, "MOST_TILES", 25)
    tiles, pictures, asked = gallery_tiles(60), gallery_pictures(60), []

    def read(part: slice) -> GalleryPictures:
        asked.append((part.start, part.stop))
        return part_of(pictures, part)

    paths = written(tmp_path, tiles, read=read)
    assert asked == [(0, 25), (25, 50), (50, 60)]
    assert [path.name for path in paths] == [
        "gallery_1.html", "gallery_2.html", "gallery_3.html", "gallery.html"
    ]  # fmt: skip
    parts = [payload(path) for path in paths[:-1]]
    assert [each for part in parts for each in part["tiles"]["digest"]] == list(tiles.digests)
    assert len({part["key"] for part in parts}) == 1
    index = paths[-1].read_text()
    called = tiles.probabilities >= 0.5
    wrong = ((tiles.labels == 1) & ~called) | ((tiles.labels == 0) & called)
    for number, part in enumerate((slice(0, 25), slice(25, 50), slice(50, 60))):
        cells = (f"{part.start + 1}–{part.stop}", [3, 3, 1][number], wrong[part].sum(), "")
        assert (
            f"gallery_{number + 1}.html</a></td>" + "".join(f"<td>{c}</td>" for c in cells) in index
        )


def test_pages_that_are_too_large_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiles = gallery_tiles(12)
    pictures = GalleryPictures(
        np.random.default_rng(0).integers(0, 256, (12, SIDE, SIDE, 3), dtype=np.uint8), {}, None
    )
    settings = {"read": lambda part: part_of(pictures, part)}
    for name in ("gallery_old.html", "gallery_7.csv"):
        (tmp_path / name).touch()
    for most in (100, 10_000):  # bytes of tiles
        monkeypatch.setattr(page, "MOST_BYTES", page._TEMPLATE_BYTES + most)
        *paths, index = written(tmp_path, tiles, **settings)
        others = {"gallery_old.html", "gallery_7.csv", index.name}
        names = {path.name for path in tmp_path.iterdir()}
        assert names == others | {path.name for path in paths}
        parts = [payload(path) for path in paths]
        assert [each for part in parts for each in part["tiles"]["digest"]] == list(tiles.digests)
        assert len(paths) == 12 if most == 100 else 1 < len(paths) < 12
        assert most == 100 or all(path.stat().st_size <= page.MOST_BYTES for path in paths)
        if most == 100:
            colours = cells(parts[7]["sprites"]["image"], 1)[0].mean((0, 1))
            np.testing.assert_allclose(colours, pictures.images[7].mean((0, 1)), atol=3)


def test_the_key_belongs_to_the_checkpoint_and_the_tiles(tmp_path: Path):
    tiles = gallery_tiles(4)
    moved = gallery_tiles(4, places=[Tile("scene_0", 1, at * SIDE) for at in range(4)])
    changed = gallery_tiles(4, digests=["b" * 16, *tiles.digests[1:]])
    keys = [
        payload(written(tmp_path, each, checkpoint=checkpoint)[0])["key"]
        for each, checkpoint in ((tiles, "a"), (tiles, "b"), (moved, "a"), (changed, "a"))
    ]
    assert len(set(keys)) == 4
    turned = gallery_tiles(4, places=tiles.places[::-1], digests=tiles.digests[::-1])
    (path,) = written(tmp_path, turned, checkpoint="a", threshold=0.1)
    assert payload(path)["key"] == keys[0]


def test_an_older_gallery_stays_where_a_new_one_fails(tmp_path: Path, monkeypatch):
    (path,) = written(tmp_path, gallery_tiles(3))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jinja2.environment.TemplateStream.dump", full)
    with pytest.raises(WriteError, match="No space left"):
        written(tmp_path, gallery_tiles(4))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
