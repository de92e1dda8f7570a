"""Corrections of labels: the file, the digest of a tile, and what they do to the tiles of a run."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.data.tiles.corrections import (
    CORRECTION_FIELDS,
    Correction,
    Corrections,
    overlapping,
    tile_digest,
)
from vbp_lightning.data.tiles.selection import choose_by_share, where_road_is_known
from vbp_lightning.data.tiles.tile import Label, LabelledTile, Tile
from vbp_lightning.data.tiles.tiles_csv import tile_fields
from vbp_lightning.explaining.image_inputs import CutImages
from vbp_lightning.training.predictions import run_metrics

SIZE = 16
LABELS = {"road": 1, "non_road": 0, "ignore": -1, "unsure": -1}


def test_a_digest_is_that_of_the_valid_pixels_alone():
    pixels = np.arange(24).reshape(2, 3, 4)
    valid = np.ones((3, 4), bool)
    assert tile_digest(pixels, valid) == "a8e4f95436fa4bea"
    assert tile_digest(pixels.astype(np.float32), valid) == "a8e4f95436fa4bea"
    assert tile_digest(-0.0 * pixels, valid) == tile_digest(0 * pixels, valid)
    valid[1, 2] = False
    changed = pixels.copy()
    changed[:, 1, 2] = 255
    assert tile_digest(changed, valid) == tile_digest(pixels, valid) != "a8e4f95436fa4bea"
    changed[0, 0, 0] += 1
    assert tile_digest(changed, valid) != tile_digest(pixels, valid)
    others = [
        tile_digest(pixels.reshape(shape), np.ones(shape[1:], bool))
        for shape in ((2, 4, 3), (1, 6, 4), (4, 3, 2))
    ]
    assert len({*others, tile_digest(pixels, np.ones((3, 4), bool))}) == 4


@given(st.integers(0, 2**32 - 1))
def test_no_spreadsheet_takes_a_digest_for_a_number(seed):
    digest = tile_digest(np.random.default_rng(seed).random((1, 2, 2)), np.ones((2, 2), bool))
    assert len(digest) == 16
    assert digest[0] in "abcdef"
    assert int(digest, 16) >= 0


@pytest.mark.parametrize("memory", [2.0, 1e-5], ids=["in memory", "streamed"])
def test_digests_of_the_run_and_of_its_images_are_the_same(make_datamodule, make_scene, memory):
    holes = np.random.default_rng(0).integers(1, 255, (3, 64, 80), dtype=np.uint8)
    holes[:, 10:14, 3:40] = 0
    make = {"context": 8, "memory": memory, "cover_edges": True, "nodata": 0.0}
    made = make_datamodule(**make)
    scene = next(each for each in made.source() if each.name == "val0")
    make_scene("val0", "val", image=holes, nodata=0)
    made.setup()
    reader = CutImages(Reading(nodata=0.0), (7.0, 8.0, 9.0), SIZE, context=24)
    places = reader.places(scene.image)
    assert reader.digests(scene.image, places) == made.tile_digests(places)
    assert len(set(made.tile_digests(places))) == len(places) == 20


corners = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(0, 40)), max_size=8)


@settings(deadline=None, max_examples=50)
@given(corners, corners, st.integers(1, 12))
def test_overlaps_against_sets_of_pixels(tiles, others, size):
    def pixels(corner):
        scene, row, col = corner
        return {(scene, row + y, col + x) for y in range(size) for x in range(size)}

    expected = [any(pixels(tile) & pixels(other) for other in others) for tile in tiles]
    arrays = (np.array(each, np.int64).reshape(-1, 3) for each in (tiles, others))
    assert overlapping(*arrays, size).tolist() == expected


def write(path, datamodule, answers, **changes):
    """A file of corrections as the gallery saves it; ``changes`` replace columns of all rows."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CORRECTION_FIELDS, restval="")
        writer.writeheader()
        for tile, answer in answers.items():
            row = {"scene": tile.scene, "row": tile.row, "col": tile.col, "new_label": answer}
            row |= {"note": 'says "road",\nor not', "digest": datamodule.tile_digests([tile])[0]}
            writer.writerow(row | changes)
    return path


def tables(datamodule):
    return {
        split: [(t.tile, t.share, int(t.label), t.answer) for t in datamodule.tiles_of(split)]
        for split in ("train", "val", "test")
    }


ANSWERED = {
    Tile("train0", 0, 8): "non_road",
    Tile("train0", 8, 64): "road",
    Tile("train1", 32, 32): "unsure",
    Tile("train1", 3, 5): "road",  # not on the grid
    Tile("val0", 16, 32): "road",
    Tile("val1", 0, 0): "ignore",
    Tile("val1", 5, 5): "ignore",  # not on the grid
    Tile("test0", 48, 64): "unsure",
}


@pytest.fixture
def corrected(make_datamodule, tmp_path):
    """A data module without corrections, and one with those of ``ANSWERED``."""
    plain = make_datamodule()
    plain.setup()
    path = write(tmp_path / "corrections.csv", plain, ANSWERED)
    made = make_datamodule(corrections=path)
    made.setup()
    return plain, made


def test_corrected_tiles_and_those_that_overlap_them_by_hand(corrected):
    plain, made = corrected
    before, after = tables(plain), tables(made)
    for split in ("val", "test"):
        assert after[split] == [
            (tile, share, LABELS[ANSWERED[tile]], ANSWERED[tile])
            if tile in ANSWERED
            else (tile, share, label, "")
            for tile, share, label, _ in before[split]
        ]

    def overlaps(tile):
        return any(
            tile.scene == other.scene
            and abs(tile.row - other.row) < SIZE
            and abs(tile.col - other.col) < SIZE
            for other in ANSWERED
        )

    kept = [row for row in before["train"] if row[0] in ANSWERED or not overlaps(row[0])]
    added = Tile("train1", 3, 5)
    mask = made.read_road_masks([added])[0]
    kept.append((added, float(mask.sum()) / 256, 1, "road"))
    kept.sort(key=lambda row: row[0])
    assert after["train"] == [
        (tile, share, LABELS[ANSWERED[tile]], ANSWERED[tile])
        if tile in ANSWERED
        else (tile, share, label, "")
        for tile, share, label, _ in kept
    ]
    left_out = len(before["train"]) + 1 - len(kept)
    assert made.correction_lines == [
        "Corrected labels of train: 2 road, 1 non-road, 0 ignore, 1 unsure",
        "Corrected labels of val: 1 road, 0 non-road, 1 ignore, 0 unsure",
        "Corrected labels of test: 0 road, 0 non-road, 0 ignore, 1 unsure",
        f"Training tiles left out, since they overlap these: {left_out}",
        "Corrected labels of no tile of this run: 1",
    ]
    assert plain.correction_lines == []


def test_no_drawn_tile_shows_a_corrected_area_with_another_label(make_datamodule, tmp_path, attach):
    plain = make_datamodule()
    plain.setup()
    path = write(tmp_path / "corrections.csv", plain, ANSWERED)
    only_jitter = {"flips": False, "rotations": False, "brightness": 0, "contrast": 0, "jitter": 12}
    made = make_datamodule(corrections=path, augment=only_jitter, tiles_per_epoch=96)
    made.setup()
    places = [Tile(f"train{n}", row, col) for n in (0, 1) for row in range(49) for col in range(65)]
    place_of = {
        pixels.numpy().tobytes(): place
        for place, pixels in zip(places, made.read_tiles(places).contiguous(), strict=True)
    }
    seen, grid = set(), {tile for tile, *_ in tables(made)["train"]}
    for epoch in range(4):
        attach(made, epoch=epoch)
        for tiles, labels in made.train_dataloader():
            for tile, label in zip(tiles.contiguous(), labels.tolist(), strict=True):
                place = place_of[tile.numpy().tobytes()]
                seen.add(place)
                if place in ANSWERED:
                    assert label == LABELS[ANSWERED[place]]
                    continue
                for other in ANSWERED:
                    near = abs(place.row - other.row) < SIZE and abs(place.col - other.col) < SIZE
                    assert not (place.scene == other.scene and near)
    assert {Tile("train0", 0, 8), Tile("train1", 3, 5)} <= seen
    assert Tile("train1", 32, 32) not in seen
    assert len(seen - grid) > 50


def test_tiles_ignored_by_hand_are_in_no_metric(corrected):
    _, made = corrected
    tiles = made.tiles_of("val")
    p = torch.linspace(0, 1, len(tiles), dtype=torch.float64)
    metrics = run_metrics(made, {"val": p}, 0.5)
    by_hand = [index for index, tile in enumerate(tiles) if tile.answer == "ignore"]
    assert len(by_hand) == 1
    for value in (0.0, 1.0):
        p[by_hand] = value
        assert run_metrics(made, {"val": p}, 0.5) == metrics
    hits = [tile.label != Label.NON_ROAD for tile in tiles if tile.answer != "ignore"]
    called = [
        q >= 0.5 for q, tile in zip(p.tolist(), tiles, strict=True) if tile.answer != "ignore"
    ]
    true_positives = sum(a and b for a, b in zip(hits, called, strict=True))
    f1 = 2 * true_positives / (sum(hits) + sum(called))
    assert metrics["val/f1_with_ignored"] == pytest.approx(f1)
    labels = torch.cat([labels for _, labels in made.val_dataloader()])
    assert labels.tolist() == [label for _, _, label, _ in tables(made)["val"] if label >= 0]


def test_masks_are_not_scored_where_road_pixels_contradict_the_label():
    def tile(label, share, answer):
        return LabelledTile(Tile("a", 0, 0), (0, 0, 1, 1), share, Label[label], "val", answer)

    tiles = [
        tile("ROAD", 0.5, ""),
        tile("ROAD", 0.02, "road"),
        tile("ROAD", 0.0, "road"),  # the road lies in its context
        tile("NON_ROAD", 0.3, "non_road"),
        tile("IGNORED", 0.3, "unsure"),
        tile("IGNORED", 0.01, ""),
    ]
    masks = np.zeros((len(tiles), 8, 8), bool)
    masks[:, 0] = True
    kept, known = where_road_is_known(tiles, masks)
    assert kept == [tiles[0], tiles[1], tiles[5]]
    assert len(known) == 3
    border = next(each for each in choose_by_share(tiles, 16) if each.name == "ignore_border")
    assert 4 not in border.indices


def test_corrections_go_through_a_file_and_a_checkpoint(corrected, make_datamodule, tmp_path):
    _, made = corrected
    corrections = made.corrections
    assert {tile: each.answer for tile, each in corrections.by_tile.items()} == ANSWERED
    corrections.write(tmp_path / "copy.csv")
    copy = Corrections.read(tmp_path / "copy.csv")
    assert copy.rows == corrections.rows
    assert copy.rows[0][3:5] == ["non_road", 'says "road",\nor not']
    again = make_datamodule(corrections=tmp_path / "gone.csv")
    again.known_corrections = Corrections.of_checkpoint(corrections.rows)
    again.setup()
    assert tables(again) == tables(made)


def test_a_file_that_a_spreadsheet_has_saved(corrected, make_datamodule, tmp_path):
    _, made = corrected
    text = (tmp_path / "corrections.csv").read_text()
    rows = list(csv.reader(text.splitlines(keepends=True)))
    with (tmp_path / "excel.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    saved = make_datamodule(corrections=tmp_path / "excel.csv")
    saved.setup()
    assert tables(saved) == tables(made)


def test_rows_without_an_answer_do_not_count(corrected, make_datamodule, tmp_path):
    plain, made = corrected
    more = ANSWERED | {Tile("train0", 24, 24): "", Tile("nowhere", -5, 0): " "}
    digests = dict.fromkeys(more, "a") | {tile: plain.tile_digests([tile])[0] for tile in ANSWERED}
    rows = [f"{t.scene},{t.row},{t.col},{answer},{digests[t]}" for t, answer in more.items()]
    path = tmp_path / "more.csv"
    path.write_text("\n".join(["scene,row,col,new_label,digest", *rows]))
    open_rows = make_datamodule(corrections=path)
    open_rows.setup()
    assert tables(open_rows) == tables(made)


HEADER = ",".join(CORRECTION_FIELDS)
BAD_FILES = {
    "empty": ("", ["cannot be read as a CSV"]),
    "no columns": ("scene,row,col\na,0,0", ["has no column new_label, digest"]),
    "no answers": (f"{HEADER}\na,0,0,,,,,,,b", ["answers nothing"]),
    "not UTF-8": (b"scene\xe4,row,col,new_label,digest\n", ["cannot be read as a CSV"]),
    "wrong rows": (
        "scene,row,col,new_label,digest\n"
        "a,0,0,raod,b\n"
        "a,1.5,0,road,b\n"
        "a,,1e3,road,b\n"
        "a,0,0,road,\n"
        "a,0,0,road,b\n"
        "a,0,0,road,b\n"
        "a,0,0,unsure,b",
        [
            "row 2 says new_label 'raod'",
            "row 3 has row '1.5' and col '0'",
            "row 4 has row '' and col '1e3'",
            "row 5 has no digest",
            "row 8 says unsure, row 6 road of the same tile",
        ],
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_wrong_file_is_refused_in_one_line_for_each_error(make_datamodule, tmp_path, name):
    content, expected = BAD_FILES[name]
    path = tmp_path / "wrong.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as error:
        make_datamodule(corrections=path).setup()
    assert len(error.value.lines) == len(expected)
    for line, text in zip(error.value.lines, expected, strict=True):
        assert line.startswith(f"{path}: ")
        assert text in line
        assert "(data.corrections)" in line


def test_tiles_that_do_not_fit_are_refused_with_the_errors_of_the_data(make_datamodule, tmp_path):
    plain = make_datamodule()
    plain.setup()
    answers = {Tile("train0", 0, 0): "road", Tile("val0", 16, 16): "ignore"}
    path = write(tmp_path / "corrections.csv", plain, answers, digest="a0")
    with path.open("a") as file:
        file.write(",".join(["nowhere", "0", "0", *[""] * 4, "road", "", "a0"]) + "\n")
        file.write(",".join(["val1", "49", "0", *[""] * 4, "road", "", "a0"]) + "\n")
        bounds = "400000.0 4999996.0 400004.0 5000000.0"
        file.write(",".join(["train0", "0", "8", bounds, *[""] * 3, "road", "", "a0"]) + "\n")
    with pytest.raises(DataError) as error:
        make_datamodule(corrections=path, road_share=1.0).setup()
    lines = [line for line in error.value.lines if "data.corrections" in line]
    assert "scene 'nowhere'" in lines[0]
    assert "row 49, column 0 of scene val1, which has 80 × 64 px" in lines[1]
    rest = "\n".join(lines[2:])
    assert "tile 0, 0 of scene train0, which is no longer the same" in rest
    assert "tile 16, 16 of scene val0, which is no longer the same" in rest
    assert "tile 0, 8 of scene train0, which had 8 px, not 16: restore data.tile_size" in rest
    assert len(lines) == 5
    assert any("road_share" in line for line in error.value.lines)


def test_a_split_that_loses_a_class_is_refused(make_datamodule):
    made = make_datamodule()
    made.setup()
    answers = {
        item.tile: Correction("ignore", "", made.tile_digests([item])[0])
        for item in made.tiles_of("val")
        if item.label == Label.ROAD
    }
    again = make_datamodule()
    again.known_corrections = Corrections(by_tile=answers)
    with pytest.raises(DataError, match="leaves no road tile in split val"):
        again.setup()


def test_the_columns_are_those_of_the_table_of_tiles(datamodule):
    scene, row, col, bounds, *_ = tile_fields(datamodule.tiles_of("val")[3])
    each = Correction("road", "", "a0", bounds)
    made = replace(Corrections(), by_tile={Tile(scene, row, col): each})
    assert made.rows == [[scene, row, col, "road", "", "a0"]]
    assert made.changed(["a0"], [], SIZE) == []
