"""Tiles of unlabelled rasters."""

import numpy as np
import pytest
import rasterio

from vbp_lightning.data import DataError, image_tiles


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
    tiles, places = image_tiles(path, [4, 1], tile_size=16, count=100)
    for tile, place in zip(tiles.numpy(), places, strict=True):
        expected = pixels[[3, 0], place.row : place.row + 16, place.col : place.col + 16]
        np.testing.assert_array_equal(tile, expected)
    assert {(0, 0), (34, 0), (0, 55), (34, 55)} <= {(place.row, place.col) for place in places}
    assert {place.scene for place in places} == {"scene"}


def test_a_few_tiles_are_spread_over_the_image(tmp_path):
    path = write(tmp_path / "scene.tif", np.zeros((1, 64, 64), np.uint8))
    tiles, places = image_tiles(path, [1], tile_size=16, count=3)
    assert tiles.shape == (3, 1, 16, 16)
    assert [(place.row, place.col) for place in places] == [(0, 0), (32, 0), (48, 48)]


def test_what_cannot_be_explained_is_named(tmp_path):
    small = write(tmp_path / "small.tif", np.zeros((3, 95, 96), np.uint8))
    with pytest.raises(DataError, match=r"small\.tif: is 96 × 95 px, smaller .*\(input\)"):
        image_tiles(small, [1, 2, 3], 96, 4)
    with pytest.raises(DataError, match=r"small\.tif: has 3 bands, .* 1, 2, 4 \(input\)"):
        image_tiles(small, [1, 2, 4], 16, 4)
    with pytest.raises(DataError, match=r"none\.tif: cannot be read .*\(input\)"):
        image_tiles(tmp_path / "none.tif", [1], 16, 4)
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(DataError, match=r"text\.tif: cannot be read .*\(input\)"):
        image_tiles(tmp_path / "text.tif", [1], 16, 4)
