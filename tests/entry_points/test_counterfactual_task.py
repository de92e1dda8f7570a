"""``task=counterfactual`` end to end, on a network that answers by a mark."""

import csv

import numpy as np
import pytest
import rasterio
from PIL import Image

from tests.helpers.checkpoints import saved
from tests.helpers.mark_detector import mark_detector
from vbp_lightning.data.tiles.tile import Label, Tile

SIDE = 288
MARK = np.s_[100:112, 20:32]


@pytest.fixture
def here(tmp_path):
    """Overrides: a network whose P(road) is high where any pixel is bright, and a dark scene."""
    pixels = np.random.default_rng(0).integers(20, 60, (3, SIDE, SIDE)).astype(np.uint8)
    pixels[:, MARK[0], MARK[1]] = 250
    transform = rasterio.transform.from_origin(500_000, 5_400_000, 1, 1)
    profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "dtype": "uint8"}
    with rasterio.open(
        tmp_path / "scene.tif", "w", **profile, count=3, crs="EPSG:32632", transform=transform
    ) as raster:
        raster.write(pixels)
    return (
        *(
            "explain.py",
            f"ckpt={saved(tmp_path / 'a.ckpt', mark_detector())}",
            "task=counterfactual",
        ),
        *("input=scene.tif", "output=out"),
    )


def painted(path):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[MARK] = 1
    Image.fromarray(mask).save(path)


def test_a_painted_area(call, here, tmp_path):
    painted(tmp_path / "area.png")
    process = call(*here, "area=area.png", "replacements=3")
    assert process.returncode == 0, process.stderr
    assert "the area accounts for" in process.stdout
    arrays = np.load(tmp_path / "out" / "counterfactual.npz")
    assert arrays["areas"].shape == (1, 96, 96)
    assert arrays["areas"][0, 4:16, 20:32].all()
    assert arrays["areas"].sum() == 144
    assert arrays["probabilities"][0] > 0.9
    assert (arrays["probabilities_replaced"] < 0.1).all()
    assert (arrays["probabilities_elsewhere"] > 0.9).all()
    assert (arrays["overlaps"] == 0).all()
    # the replacing pixels are those at the same place of the tile that is named
    with rasterio.open(tmp_path / "scene.tif") as raster:
        scene = raster.read()
    before, after = arrays["tiles"][0], arrays["tiles_replaced"][0]
    donors = zip(arrays["donor_rows"][0], arrays["donor_cols"][0], strict=True)
    others = [scene[:, row : row + 96, col : col + 96] for row, col in donors]
    assert any(np.array_equal(after[:, 4:16, 20:32], each[:, 4:16, 20:32]) for each in others)
    assert np.array_equal(after[:, 40:], before[:, 40:])
    with (tmp_path / "out" / "counterfactual.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["replaced"]) == pytest.approx(
        arrays["probabilities_replaced"].mean(), rel=1e-4
    )
    assert (row["scene"], row["row"], row["col"]) == ("scene", "96", "0")
    with Image.open(tmp_path / "out" / "counterfactual.png") as sheet:
        assert min(sheet.size) > 200


def test_the_road_of_labelled_tiles(call, here, own_data, tmp_path):
    data, path = own_data
    process = call(*here[:1], f"ckpt={path}", here[2], "output=out", "tiles=3", "replacements=2")
    assert process.returncode == 0, process.stderr
    assert "with the road replaced" in process.stdout
    arrays = np.load(tmp_path / "out" / "counterfactual.npz")
    tiles = {tile.tile: tile for tile in data.tiles_of("val")}
    own = [
        Tile(*place) for place in zip(arrays["scenes"], arrays["rows"], arrays["cols"], strict=True)
    ]
    assert [tiles[place].label for place in own] == [Label.ROAD] * 3
    assert np.array_equal(arrays["areas"], data.read_road_masks(own).numpy())
    donors = zip(
        *(arrays[f"donor_{name}"].ravel() for name in ("scenes", "rows", "cols")), strict=True
    )
    assert {tiles[Tile(*place)].label for place in donors} == {Label.NON_ROAD}


def test_no_area_and_no_tile_without_road_are_one_line(call, here, tmp_path):
    Image.fromarray(np.ones((SIDE, SIDE), np.uint8)).save(tmp_path / "full.png")
    for override, words in (("area=null", "draw or paint"), ("area=full.png", "no tile without")):
        process = call(*here, override)
        assert process.returncode == 1
        assert words in process.stderr
        assert len(process.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()
