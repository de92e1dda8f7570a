"""Unlabelled images: cut into tiles, or resized whole."""

import numpy as np
import pytest
import rasterio
import torch

from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.data.imagery.unlabelled import image_files, opened_filled
from vbp_lightning.explaining.image_inputs import CutImages, ResizedImages


def write(path, pixels, **stored):
    count, height, width = pixels.shape
    shape = {"width": width, "height": height, "count": count}
    with rasterio.open(path, "w", driver="GTiff", dtype=pixels.dtype, **shape, **stored) as raster:
        raster.write(pixels)
    return path


def test_tiles_are_cut_at_their_places_and_reach_every_corner(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4000, (4, 50, 71)).astype(np.uint16)
    path = write(tmp_path / "scene.tif", pixels)
    reader = CutImages(Reading((4, 1)), (0.0, 0.0), 16)
    places = reader.places(path)
    for tile, place in zip(reader.read(path, places).numpy(), places, strict=True):
        expected = pixels[[3, 0], place.row : place.row + 16, place.col : place.col + 16]
        np.testing.assert_array_equal(tile, expected)
    assert {(0, 0), (34, 0), (0, 55), (34, 55)} <= {(place.row, place.col) for place in places}
    assert {place.scene for place in places} == {"scene"}


def test_nodata_is_filled_with_the_mean(tmp_path):
    pixels = np.full((2, 32, 32), 7, np.float32)
    pixels[0, 3, 5] = np.nan
    pixels[1, 9, 9] = -1
    path = write(tmp_path / "scene.tif", pixels)
    reader = CutImages(Reading(nodata=-1), (50.0, 60.0), 32)
    (tile,) = reader.read(path, reader.places(path))
    for row, col in ((3, 5), (9, 9)):
        assert tile[:, row, col].tolist() == [50.0, 60.0]
    assert (tile == 7).sum() == 2 * 32 * 32 - 4


def test_white_areas_are_filled_as_in_the_training_data(tmp_path):
    """A white area of which each tile shows less than of a roof, and a roof."""
    pixels = np.full((2, 32, 48), 7, np.uint8)
    pixels[:, 14:18, 12:36] = 255  # 96 pixels, at most 32 of them in a tile of 16
    pixels[:, 2:8, 2:8] = 255  # 36 pixels
    pixels[1, 14, 12] = 240  # frayed
    path = write(tmp_path / "scene.tif", pixels)
    filled = np.where(pixels == 7, 7.0, np.array([50, 60])[:, None, None])
    filled[:, 2:8, 2:8] = 255
    reader = CutImages(Reading(), (50.2, 59.9), 16, white_area=90)
    plain = CutImages(Reading(), (50.2, 59.9), 16)
    places = reader.places(path)
    for image, images in ((filled, reader), (pixels, plain)):
        for tile, place in zip(images.read(path, places).numpy(), places, strict=True):
            window = np.s_[:, place.row : place.row + 16, place.col : place.col + 16]
            np.testing.assert_array_equal(tile, image[window])
    real = write(tmp_path / "real.tif", pixels.astype(np.float32))
    np.testing.assert_array_equal(reader.read(real, places), plain.read(real, places))


@pytest.mark.parametrize("stored", [{}, {"tiled": True, "blockxsize": 64, "blockysize": 64}])
def test_white_areas_of_an_image_that_is_read_in_windows(tmp_path, monkeypatch, stored):
    monkeypatch.setattr("vbp_lightning.data.imagery.white._WINDOW", 512)
    pixels = np.random.default_rng(0).integers(0, 200, (1, 600, 700), np.uint8)
    pixels[:, 240:530, 500:520] = pixels[:, 300:320, 505:] = 255
    path = write(tmp_path / "scene.tif", pixels, **stored)
    with opened_filled(path, Reading(), (99.0,), 3600) as read:
        for row, col in ((230, 450), (-10, -10), (500, 480), (290, 640)):
            bands, valid = read(row, col, 100, 100)
            window = np.pad(pixels[0], 100, constant_values=255)[row + 100 :, col + 100 :]
            expected = window[:100, :100] < 255
            assert np.array_equal(valid, expected)
            assert np.array_equal(bands[0], np.where(expected, window[:100, :100], 99))


def test_an_image_that_is_too_large_to_be_searched_for_white_areas(tmp_path):
    path = tmp_path / "large.tif"
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "sparse_ok": True}
    with rasterio.open(path, "w", height=8001, width=8000, **profile):
        pass
    with pytest.raises(DataError, match=r"64 million pixels \(input\): .*nearblack -white"):
        opened_filled(path, Reading(), (99.0,), 3600).__enter__()
    with opened_filled(path, Reading(), (99.0,)) as read:
        assert read(-1, 0, 2, 1)[0].tolist() == [[[99.0], [0.0]]]


def test_images_that_cannot_be_explained_are_named(tmp_path):
    def said(path, bands, fill, size=16):
        with pytest.raises(DataError) as caught:
            CutImages(Reading(bands), fill, size).places(path)
        (line,) = caught.value.lines
        assert line.startswith(f"{path}: ")
        assert "(input)" in line
        return line

    small = write(tmp_path / "small.tif", np.zeros((3, 95, 96), np.uint8))
    three = (0.0, 0.0, 0.0)
    assert "is 96 × 95 px, smaller" in said(small, None, three, 96)
    assert "has 3 bands, the checkpoint was trained with 4" in said(small, None, (*three, 0.0))
    assert "has no band 4: the checkpoint was trained with it" in said(small, (1, 2, 4), three)
    assert "cannot be read" in said(tmp_path / "none.tif", None, three)
    (tmp_path / "text.tif").write_text("no raster")
    assert "cannot be read" in said(tmp_path / "text.tif", None, three)


def test_a_photo_is_resized_by_its_shorter_side_and_cropped_at_its_centre(tmp_path):
    ramp = np.broadcast_to(np.arange(80, dtype=np.float32), (3, 40, 80)).copy()
    path = write(tmp_path / "photo.tif", ramp)
    whole = ResizedImages((1, 2, 3), (0.0,) * 3, None, None)
    (place,) = whole.places(path)
    assert torch.equal(whole.read(path, [place])[0], torch.from_numpy(ramp))
    photo = ResizedImages((3, 1, 2), (0.0,) * 3, 20, 16).read(path, [place])
    assert photo.shape == (1, 3, 16, 16)
    # halved: new pixel i averages about old 2i + 0.5; 12 of 40 columns lie left of the crop
    expected = 2 * (np.arange(16) + 12) + 0.5
    np.testing.assert_allclose(photo[0, 0, 3], expected, atol=1e-4)
    with pytest.raises(DataError, match=r"is 80 × 40 px, smaller than the 64 px"):
        ResizedImages((1, 2, 3), (0.0,) * 3, None, 64).read(path, [place])


def test_the_images_of_a_folder(tmp_path):
    for name in ("b.PNG", "a.tif", "notes.txt", "a.tif.aux.xml", "in/c.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path)]
    assert names == ["a.tif", "b.PNG", "in/c.jpeg"]
    assert image_files(tmp_path / "a.tif") == [tmp_path / "a.tif"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        image_files(tmp_path / "empty")
    with pytest.raises(DataError, match="no such file or folder"):
        image_files(tmp_path / "missing")
