"""Reading scenes: what is valid, what is road, and that no handle stays open."""

import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window

from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.imagery.raster import OpenImage, Reading
from vbp_lightning.data.imagery.reading import OpenScene, for_each_scene
from vbp_lightning.data.imagery.white import read_white_nodata, white_nodata


def read_scenes(scenes, bands, mask_threshold, threads, progress):
    reading = Reading(None if bands is None else tuple(bands), mask_threshold=mask_threshold)

    def read(scene):
        with OpenScene(scene, reading) as opened:
            pixels = opened.read()
            opened.check()
        return SimpleNamespace(
            **vars(pixels),
            scene=opened.info.scene,
            crs=opened.info.grid.crs,
            transform=opened.info.grid.transform,
            largest_mask_value=opened.largest_mask_value,
        )

    return for_each_scene(read, scenes, "Reading", threads, progress)


def load(scene, bands=None, mask_threshold=127):
    (loaded,), lines = read_scenes([scene], bands, mask_threshold, threads=1, progress=False)
    assert lines == []
    return loaded


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(1, 255, (3, 40, 50), dtype=np.uint8)


def test_reads_what_was_written(make_scene, pixels):
    mask = np.where(np.random.default_rng(1).random((40, 50)) < 0.2, 255, 0).astype(np.uint8)
    scene = make_scene("a", image=pixels, mask=mask, crs="EPSG:32632")
    loaded = load(scene)
    assert np.array_equal(loaded.bands, pixels)
    assert loaded.bands.dtype == np.uint8
    assert np.array_equal(loaded.road, mask == 255)
    assert loaded.valid.all()
    assert loaded.crs.to_epsg() == 32632
    assert loaded.largest_mask_value == 255


def test_takes_the_chosen_bands_in_their_order(make_scene, pixels):
    loaded = load(make_scene("a", image=pixels), [3, 1])
    assert np.array_equal(loaded.bands, pixels[[2, 0]])


def test_keeps_sixteen_bits_and_floats(make_scene):
    for dtype in ("uint16", "int16", "float32", "float64"):
        image = (np.arange(1, 1 + 16 * 16).reshape(1, 16, 16) * 7).astype(dtype)
        loaded = load(make_scene(dtype, image=image))
        assert loaded.bands.dtype == dtype
        assert np.array_equal(loaded.bands, image)


def test_nodata_that_imagery_reaches_must_be_in_all_bands(make_scene, pixels):
    pixels[1, 3, 4] = 0  # a shadow
    pixels[:, 10, 10] = 0
    mask = np.full((40, 50), 255, np.uint8)
    loaded = load(make_scene("a", image=pixels, mask=mask, nodata=0))
    assert np.argwhere(~loaded.valid).tolist() == [[10, 10]]
    assert np.array_equal(loaded.road, loaded.valid)
    only_second = load(make_scene("a", image=pixels, mask=mask, nodata=0), [2])
    assert np.argwhere(~only_second.valid).tolist() == [[3, 4], [10, 10]]


def test_other_nodata_in_any_band_is_invalid(make_scene, pixels):
    image = pixels.astype(np.int16)
    image[1, 3, 4] = -9999
    image[:, 10, 10] = -9999
    mask = np.full((40, 50), 255, np.uint8)
    loaded = load(make_scene("a", image=image, mask=mask, nodata=-9999))
    assert np.argwhere(~loaded.valid).tolist() == [[3, 4], [10, 10]]


def test_a_mask_whose_nodata_is_zero_means_no_road(make_scene, write, pixels):
    scene = make_scene("a", image=pixels)
    mask = np.zeros((40, 50), np.uint8)
    mask[0, :7] = 255
    write(scene.labels, mask, nodata=0)
    loaded = load(scene)
    assert loaded.valid.all()
    assert loaded.road.sum() == 7


def test_pixels_may_have_no_label(make_scene, write, pixels):
    scene = make_scene("a", image=pixels)
    mask = np.zeros((40, 50), np.uint8)
    mask[0, :7], mask[1, :5] = 1, 255
    write(scene.labels, mask, nodata=255)
    loaded = load(scene, mask_threshold=0)
    assert (loaded.road.sum(), (~loaded.valid).sum()) == (7, 5)


def test_nan_and_infinity_are_invalid(make_scene):
    image = np.ones((2, 16, 16), np.float32)
    image[0, 1, 2], image[1, 3, 4] = np.nan, np.inf
    loaded = load(make_scene("a", image=image))
    assert np.argwhere(~loaded.valid).tolist() == [[1, 2], [3, 4]]


def test_an_alpha_band_marks_valid_pixels_unless_it_is_a_chosen_band(make_scene, pixels):
    alpha = np.full((1, 40, 50), 255, np.uint8)
    alpha[0, 5, 6] = 0
    scene = make_scene("a", image=np.concatenate([pixels, alpha]), photometric="rgb", alpha="yes")
    loaded = load(scene)
    assert loaded.bands.shape[0] == 3
    assert np.argwhere(~loaded.valid).tolist() == [[5, 6]]
    named = load(scene, [1, 4])
    assert np.array_equal(named.bands[1], alpha[0])
    assert named.valid.all()


def test_large_white_areas_are_nodata_and_small_ones_are_not():
    bands = np.full((3, 40, 40), 90, np.uint8)
    bands[:, :, :9] = 255  # 360 saturated pixels
    bands[:, ::2, 9] = 244  # frayed by compression
    bands[:, 1::2, 9] = 239  # too dark to be of it
    bands[:, 20:30, 20:30] = 255  # a roof of 100
    bands[:2, :, 35:] = 255  # yellow, not white
    expected = np.zeros((40, 40), bool)
    expected[:, :9] = True
    expected[::2, 9] = True
    assert np.array_equal(white_nodata(bands, 256), expected)
    assert white_nodata(bands, 100)[25, 25]
    assert not white_nodata(bands, 361).any()
    assert not white_nodata(bands, 0).any()
    assert not white_nodata(np.full((3, 40, 40), 250, np.uint8), 1).any()
    wide = (bands.astype(np.uint16) + 1) * 256 - 1  # 65535 is white, 240 of 255 of it nearly
    assert np.array_equal(white_nodata(wide, 256), expected)


def specks(height, width, share, seed):
    """Two bands of noise, about ``share`` of it white, some of it nearly."""
    rng = np.random.default_rng(seed)
    bands = np.where(rng.random((2, height, width)) < np.sqrt(share), 255, 9).astype(np.uint8)
    bands[:, rng.random((height, width)) < 0.2] = 245
    return bands


def filled_white_areas(bands, least):
    """White areas by flood fill, pixel by pixel."""
    light = (bands >= 240).all(axis=0)
    found = np.zeros(light.shape, bool)
    while light.any():
        todo, area = [tuple(np.argwhere(light)[0])], []
        while todo:
            row, col = todo.pop()
            if 0 <= row < light.shape[0] and 0 <= col < light.shape[1] and light[row, col]:
                light[row, col] = False
                area.append((row, col))
                todo += [(row + 1, col), (row - 1, col), (row, col + 1), (row, col - 1)]
        rows, cols = np.transpose(area)
        if (bands[:, rows, cols] == 255).all(axis=0).sum() >= least:
            found[rows, cols] = True
    return found


@given(
    st.integers(1, 25),
    st.integers(1, 25),
    st.integers(1, 30),
    st.floats(0.2, 0.8),
    st.integers(0, 999),
)
@settings(max_examples=40)
def test_white_areas_are_those_of_a_flood_fill(height, width, least, share, seed):
    bands = specks(height, width, share, seed)
    assert np.array_equal(white_nodata(bands, least), filled_white_areas(bands, least))


@pytest.mark.parametrize("stored", [{}, {"tiled": True, "blockxsize": 64, "blockysize": 64}])
@pytest.mark.parametrize("pixels_of_a_window", [1, 1 << 22])
def test_white_areas_do_not_depend_on_the_windows_that_are_read(
    tmp_path, write, monkeypatch, stored, pixels_of_a_window
):
    monkeypatch.setattr("vbp_lightning.data.imagery.white._WINDOW", pixels_of_a_window)
    bands = specks(600, 1100, 0.55, 0)
    write(tmp_path / "scene.tif", bands, **stored)
    with OpenImage(tmp_path / "scene.tif", Reading()) as image:
        found = read_white_nodata(image, 9)
    assert np.array_equal(found, white_nodata(bands, 9))
    assert 0.1 < found.mean() < 0.9


def test_scenes_beyond_64_megapixels_must_mark_white_areas_by_a_mask(tmp_path, write, make_scene):
    scene = make_scene("a")
    profile = {"driver": "GTiff", "height": 8000, "count": 1, "dtype": "uint8", "sparse_ok": True}
    for width, masked, refused in ((8001, False, True), (8000, False, False), (8001, True, False)):
        image, mask = tmp_path / f"{width}{masked}.tif", tmp_path / f"{width}.png"
        with rasterio.open(image, "w", width=width, **profile) as raster:
            raster.write(np.full((1, 9, 9), 255, np.uint8), window=Window(0, 0, 9, 9))
            if masked:
                shown = np.arange(81).reshape(9, 9) > 0
                raster.write_mask(shown, window=Window(0, 0, 9, 9))
        with rasterio.open(mask, "w", width=width, **profile | {"driver": "GTiff"}):
            pass
        large = replace(scene, image=image, labels=mask, white_area=50)
        if refused:
            with pytest.raises(DataError) as caught:
                OpenScene(large, Reading())
            (line,) = caught.value.lines
            assert line.startswith(f"{image}: is 8001 × 8000 px, and white areas (data.source.whi")
            assert "up to 64 million pixels (data.root)" in line
            assert "nearblack -white -setmask" in line
            continue
        with OpenScene(large, Reading()) as opened:
            valid = opened.read(Window(0, 0, 9, 9)).valid
        assert np.array_equal(valid, shown if masked else np.zeros((9, 9), bool))


@pytest.mark.parametrize(
    "profile",
    [
        {},
        {"compress": "lzw"},
        {"compress": "deflate", "tiled": True, "blockxsize": 32, "blockysize": 32},
        {"compress": "jpeg", "photometric": "ycbcr"},
    ],
    ids=["raw", "lzw", "deflate tiles", "jpeg"],
)
def test_a_truncated_file_is_reported_or_read_whole(make_scene, profile):
    image = np.random.default_rng(0).integers(0, 255, (3, 64, 64), dtype=np.uint8)
    scene = make_scene("a", image=image, interleave="pixel", **profile)
    whole = load(scene).bands
    content = scene.image.read_bytes()
    reported = 0
    for length in range(0, len(content), max(1, len(content) // 25)):
        scene.image.write_bytes(content[:length])
        loaded, lines = read_scenes([scene], None, 127, 1, progress=False)
        if lines:
            reported += 1
            assert len(lines) == 1
            assert str(scene.image) in lines[0]
            assert "cannot be read" in lines[0]
        else:
            assert np.array_equal(loaded[0].bands, whole)
    assert reported > 12


def test_scenes_are_returned_in_order_with_all_errors(make_scene):
    scenes = [make_scene(f"s{i}", seed=i) for i in range(6)]
    scenes[1].image.write_bytes(b"no raster")
    scenes[4].labels.unlink()
    for threads in (1, 3):
        loaded, lines = read_scenes(scenes, None, 127, threads, progress=False)
        assert [item.scene.name for item in loaded] == ["s0", "s2", "s3", "s5"]
        assert [str(scenes[1].image) in lines[0], str(scenes[4].labels) in lines[1]] == [True, True]


def test_no_file_stays_open_and_no_warning_filter_is_left(make_scene):
    scenes = [make_scene(f"s{i}") for i in range(4)]
    scenes[3].image.write_bytes(scenes[3].image.read_bytes()[:2000])
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        read_scenes(scenes, None, 127, 2, progress=False)
        assert warnings.filters == before
    assert warnings.filters == filters
    assert not caught
    opened = {Path(file.path) for file in psutil.Process().open_files()}
    assert not opened & {path for scene in scenes for path in (scene.image, scene.labels)}


def test_errors_of_both_files_of_a_scene_are_reported(make_scene):
    scene = make_scene("a")
    scene.image.write_bytes(b"")
    scene.labels.write_bytes(b"")
    loaded, lines = read_scenes([scene], None, 127, 1, progress=False)
    assert (loaded, len(lines)) == ([], 2)
