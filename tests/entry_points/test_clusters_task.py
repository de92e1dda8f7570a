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


@pytest.fixture
def checkpoint(tmp_path):
    """A mark detector, and its data: every second tile has a road with a mark beside it."""
    rng = np.random.default_rng(0)
    for number, split in enumerate(("train", "val", "test")):
        pixels = rng.integers(20, 60, (96 * TILES, 96 * TILES, 3)).astype(np.uint8)
        road = np.zeros(pixels.shape[:2], np.uint8)
        for place in range(0, TILES**2, 2):
            row, col = 96 * (place // TILES), 96 * (place % TILES)
            road[row + 40 : row + 52, col : col + 96] = 255
            top, left = row + rng.integers(60, 84), col + rng.integers(4, 84)
            pixels[top : top + 9, left : left + 9] = 250
        pixels[road > 0] = 110
        for folder, values in (("images", pixels), ("masks", road)):
            (tmp_path / folder / split).mkdir(parents=True)
            Image.fromarray(values).save(tmp_path / folder / split / f"scene_{number}.png")
    data = RoadTileDataModule(
        PatternScenes(str(tmp_path), "images/{split}/{name}.png", "masks/{split}/{name}.png")
    )
    data.setup()
    model = mark_detector(data=data.data_config, splits=data.scene_splits)
    return saved(tmp_path / "a.ckpt", model)


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
    with (tmp_path / "out" / "clusters.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["suspicious"], row["tiles"], float(row["errors"])) == ("True", "13", 0)
    assert float(row["px_off_road"]) > 8
    assert float(row["p_value"]) <= 0.01
    drop = (arrays["probabilities_elsewhere"] - arrays["probabilities_replaced"]).mean()
    assert float(row["drop"]) == pytest.approx(drop, rel=1e-4)
    with Image.open(tmp_path / "out" / "clusters.png") as sheet:
        assert min(sheet.size) > 200


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("input=images", "images have no road pixels"),
        ("method=[visual_backprop,saliency]", "give one method"),
    ],
)
def test_wrong_settings_are_one_line(call, checkpoint, override, words):
    process = call("explain.py", f"ckpt={checkpoint}", "task=clusters", override)
    assert process.returncode == 1
    assert words in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1
