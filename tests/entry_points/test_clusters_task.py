"""``task=clusters`` end to end, on a network that decides by a mark beside the road."""

import csv

import numpy as np
import pytest
from PIL import Image

from tests.helpers.checkpoints import saved
from tests.helpers.mark_detector import mark_detector
from vbp_lightning import RoadTileDataModule
from vbp_lightning.data import PatternScenes

TILES = 5


def marked_scenes(folder, on_road=True):
    """A mark detector, and its data: every second tile has a road.

    Marks lie beside all roads, or in all tiles without road.
    """
    rng = np.random.default_rng(0)
    for number, split in enumerate(("train", "val", "test")):
        pixels = rng.integers(20, 60, (96 * TILES, 96 * TILES, 3)).astype(np.uint8)
        road = np.zeros(pixels.shape[:2], np.uint8)
        for place in range(TILES**2):
            row, col = 96 * (place // TILES), 96 * (place % TILES)
            has_road = place % 2 == 0
            if has_road:
                road[row + 40 : row + 52, col : col + 96] = 255
            if has_road == on_road:
                top, left = row + rng.integers(60, 84), col + rng.integers(4, 84)
                pixels[top : top + 9, left : left + 9] = 250
        pixels[road > 0] = 110
        for name, values in (("images", pixels), ("masks", road)):
            (folder / name / split).mkdir(parents=True)
            Image.fromarray(values).save(folder / name / split / f"scene_{number}.png")
    data = RoadTileDataModule(
        PatternScenes(str(folder), "images/{split}/{name}.png", "masks/{split}/{name}.png")
    )
    data.setup()
    model = mark_detector(data=data.data_config, splits=data.scene_splits)
    return saved(folder / "a.ckpt", model)


@pytest.fixture
def checkpoint(tmp_path):
    """Of a mark detector, with marks beside every road."""
    return marked_scenes(tmp_path)


def test_the_marks_are_found(call, checkpoint, tmp_path):
    process = call(
        *("explain.py", f"ckpt={checkpoint}", "task=clusters", "output=out"),
        *("replacements=1", "typical=3"),
    )
    assert process.returncode == 0, process.stderr
    assert "SUSPICIOUS: 1 of 1 clusters, 13 of 13 tiles" in process.stdout
    arrays = np.load(tmp_path / "out" / "clusters.npz")
    assert (arrays["labels"] == 1).all()
    assert (arrays["probabilities"] > 0.9).all()
    assert (arrays["probabilities_replaced"] < 0.1).all()
    assert (arrays["probabilities_elsewhere"] > 0.5).mean() > 0.7
    assert not arrays["areas"][:, 37:55].any()  # neither the road nor 3 px around it
    assert (arrays["overlaps"] < 0.2).all()
    with (tmp_path / "out" / "clusters.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["suspicious"], row["tiles"], float(row["errors"])) == ("True", "13", 0)
    assert float(row["px_off_road"]) > 8
    assert float(row["p_value"]) <= 0.01
    drop = (arrays["probabilities_elsewhere"] - arrays["probabilities_replaced"]).mean()
    assert float(row["drop"]) == pytest.approx(drop, rel=1e-4)
    with Image.open(tmp_path / "out" / "clusters.png") as sheet:
        assert min(sheet.size) > 200


def test_too_few_tiles_are_no_verdict(call, checkpoint):
    process = call(
        *("explain.py", f"ckpt={checkpoint}", "task=clusters", "output=out"),
        *("replacements=1", "tiles=6"),
    )
    assert process.returncode == 0, process.stderr
    assert "Not decided: each cluster of 1 (6 tiles) is too small for p ≤ 0.01" in process.stdout


def test_areas_that_cannot_be_avoided_are_told(call, checkpoint):
    process = call(
        *("explain.py", f"ckpt={checkpoint}", "task=clusters", "output=out"),
        *("replacements=1", "share=0.7"),
    )
    assert process.returncode == 0, process.stderr
    assert "of the equal areas elsewhere lie on what the mask shows: give a" in process.stdout


def test_marks_on_tiles_without_road_alone_are_found(call, tmp_path):
    checkpoint = marked_scenes(tmp_path, on_road=False)
    process = call(
        *("explain.py", f"ckpt={checkpoint}", "task=clusters", "output=out", "replacements=1")
    )
    assert process.returncode == 0, process.stderr
    assert "SUSPICIOUS: 1 of 1 clusters, 12 of 12 tiles" in process.stdout


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("share=0.00001", "share=1e-05: is less than one pixel of a tile"),
        ("input=images", "images have no road pixels"),
        ("method=[visual_backprop,saliency]", "give one method"),
    ],
)
def test_wrong_settings_are_one_line(call, checkpoint, override, words):
    process = call("explain.py", f"ckpt={checkpoint}", "task=clusters", override)
    assert process.returncode == 1
    assert words in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1
