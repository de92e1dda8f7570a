"""Tiles of unlabelled rasters."""

import numpy as np
import pytest
import rasterio

from vbp_lightning.data import DataError, Reading, image_tiles


def write(path, pixels):
    count, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=count, dtype=pixels.dtype
    ) as raster:
        raster.write(pixels)
    return path


def test_tiles_are_cut_where_they_say_and_reach_every_corner(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4000, (4, 50, 71)).astype(np.uint16)
    path = write(tmp_path / "scene.tif", pixels)
    tiles, places = image_tiles(path, Reading((4, 1)), [0.0, 0.0], tile_size=16, count=100)
    for tile, place in zip(tiles.numpy(), places, strict=True):
        expected = pixels[[3, 0], place.row : place.row + 16, place.col : place.col + 16]
        np.testing.assert_array_equal(tile, expected)
    assert {(0, 0), (34, 0), (0, 55), (34, 55)} <= {(place.row, place.col) for place in places}
    assert {place.scene for place in places} == {"scene"}


def test_a_few_tiles_are_spread_over_the_image(tmp_path):
    path = write(tmp_path / "scene.tif", np.zeros((1, 64, 64), np.uint8))
    tiles, places = image_tiles(path, Reading((1,)), [0.0], tile_size=16, count=3)
    assert tiles.shape == (3, 1, 16, 16)
    assert [(place.row, place.col) for place in places] == [(0, 0), (32, 0), (48, 48)]


def test_gaps_are_filled_with_the_mean(tmp_path):
    pixels = np.full((2, 32, 32), 7, np.float32)
    pixels[0, 3, 5] = np.nan
    pixels[1, 9, 9] = -1
    path = write(tmp_path / "scene.tif", pixels)
    (tile,), _ = image_tiles(path, Reading(nodata=-1), [50.0, 60.0], 32, 1)
    for row, col in ((3, 5), (9, 9)):
        assert tile[:, row, col].tolist() == [50.0, 60.0]
    assert (tile == 7).sum() == 2 * 32 * 32 - 4


def test_what_cannot_be_explained_is_named(tmp_path):
    def said(path, bands, mean, size=16):
        with pytest.raises(DataError) as caught:
            image_tiles(path, Reading(bands), mean, size, 4)
        (line,) = caught.value.lines
        assert line.startswith(f"{path}: ")
        assert "(input)" in line
        return line

    small = write(tmp_path / "small.tif", np.zeros((3, 95, 96), np.uint8))
    three = [0.0, 0.0, 0.0]
    assert "is 96 × 95 px, smaller" in said(small, None, three, 96)
    assert "has 3 bands, the checkpoint was trained with 4" in said(small, None, [*three, 0.0])
    assert "has no band 4: the checkpoint was trained with it" in said(small, (1, 2, 4), three)
    assert "cannot be read" in said(tmp_path / "none.tif", None, three)
    (tmp_path / "text.tif").write_text("no raster")
    assert "cannot be read" in said(tmp_path / "text.tif", None, three)
