"""Images of all types: palettes, nodata, other ground sampling distances."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.imagery.raster import OpenImage, Reading, without_place


@pytest.fixture(autouse=True)
def quiet():
    with without_place():
        yield


def read(path, window=None, resize=None, **reading):
    with OpenImage(path, Reading(**reading), resize) as image:
        return image.read(window)


def error_of(path, resize=None, **reading):
    with pytest.raises(DataError) as caught, OpenImage(path, Reading(**reading), resize) as image:
        image.read()
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: ")
    assert "data." in line
    return line


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
)
def test_every_type_is_kept(tmp_path, write, dtype):
    pixels = np.arange(2 * 20 * 30).reshape(2, 20, 30).astype(dtype)
    path = write(tmp_path / "a.tif", pixels)
    bands, valid = read(path)
    assert bands.dtype == dtype
    assert np.array_equal(bands, pixels)
    assert valid.all()


def test_bands_by_number_description_and_colour(tmp_path, write):
    pixels = np.arange(4 * 6).reshape(4, 2, 3).astype(np.uint16)
    path = write(tmp_path / "a.tif", pixels, photometric="MINISBLACK")
    with rasterio.open(path, "r+") as raster:
        raster.descriptions = ("B02", "B03", "B04", "Near IR")
        raster.colorinterp = (
            ColorInterp.blue,
            ColorInterp.green,
            ColorInterp.red,
            ColorInterp.undefined,
        )
    assert np.array_equal(read(path, bands=("red", "GREEN", "blue"))[0], pixels[[2, 1, 0]])
    assert np.array_equal(read(path, bands=("near ir", 1, "b04"))[0], pixels[[3, 0, 2]])
    assert "has no band nir: data.bands may name 1 to 4 or B02, B03, B04, Near IR" in error_of(
        path, bands=("nir",)
    )


def palette_image(path, colours, pixels):
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=4, width=5, dtype="uint8", photometric="PALETTE"
    ) as raster:
        raster.write(pixels, 1)
        raster.write_colormap(1, colours)
    return path


def test_palettes_become_colours(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 3, (4, 5)).astype(np.uint8)
    colours = {0: (10, 20, 30, 255), 1: (200, 100, 0, 255), 2: (7, 8, 9, 255)}
    path = palette_image(tmp_path / "a.tif", colours, pixels)
    bands, valid = read(path)
    assert np.array_equal(
        bands, np.array([colours[i][:3] for i in range(3)])[pixels].transpose(2, 0, 1)
    )
    assert (bands.dtype, valid.all()) == (np.uint8, True)
    assert np.array_equal(read(path, bands=("blue", 1))[0], bands[[2, 0]])


def test_files_without_bands_or_of_complex_numbers_are_refused(tmp_path, write):
    path = write(tmp_path / "c.tif", np.ones((1, 4, 4), np.complex64))
    assert "complex numbers" in error_of(path)
    container = tmp_path / "two.gpkg"  # a file of two images
    for name, append in (("first", "NO"), ("second", "YES")):
        with rasterio.open(
            container,
            "w",
            driver="GPKG",
            count=3,
            height=256,
            width=256,
            dtype="uint8",
            raster_table=name,
            append_subdataset=append,
            crs="EPSG:32632",
            transform=Affine(1, 0, 5e5, 0, -1, 5e6),
        ) as raster:
            raster.write(np.ones((3, 256, 256), np.uint8))
    line = error_of(container)
    assert "holds no band: give one of its 2 subdatasets" in line


def test_transparent_pixels_are_nodata_and_alpha_is_no_band(tmp_path, write):
    pixels = np.full((4, 6, 6), 9, np.uint8)
    pixels[3] = 255
    pixels[3, 2, 1:3] = 0
    path = write(tmp_path / "a.tif", pixels, photometric="RGB", alpha="YES")
    bands, valid = read(path)
    assert len(bands) == 3
    assert np.argwhere(~valid).tolist() == [[2, 1], [2, 2]]
    chosen, all_valid = read(path, bands=(1, 4))  # who names it takes it for a band
    assert np.array_equal(chosen, pixels[[0, 3]])
    assert all_valid.all()


@pytest.mark.parametrize("internal", [True, False])
def test_masks_inside_and_beside_the_file_mark_nodata(tmp_path, write, internal):
    mask = np.full((6, 6), 255, np.uint8)
    mask[1:3, 4] = 0
    path = tmp_path / "a.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        write(path, np.full((3, 6, 6), 9, np.uint8))
        with rasterio.open(path, "r+") as raster:
            raster.write_mask(mask)
    assert (tmp_path / "a.tif.msk").exists() != internal
    assert np.array_equal(read(path)[1], mask > 0)


@given(
    st.sampled_from(["uint8", "uint16", "int16", "float32"]),
    st.sampled_from([0, 7, 255, -99]),
    st.integers(0, 99),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_nodata_against_every_pixel(tmp_path, write, dtype, nodata, seed):
    dtype = np.dtype(dtype)
    if dtype.kind == "u" and nodata < 0:
        return
    rng = np.random.default_rng(seed)
    pixels = np.where(rng.random((2, 7, 9)) < 0.4, nodata, rng.integers(1, 100, (2, 7, 9)))
    pixels = pixels.astype(dtype)
    if dtype.kind == "f":
        pixels[1, 0, :4] = [np.nan, np.inf, -np.inf, 5]
    declared = write(tmp_path / "a.tif", pixels, nodata=nodata)
    undeclared = write(tmp_path / "b.tif", pixels)
    everywhere = dtype.kind in "ui" and nodata in (0, np.iinfo(dtype).max)
    expected = np.zeros((7, 9), bool)
    for row in range(7):
        for col in range(9):
            missing = [value == nodata for value in pixels[:, row, col]]
            gone = all(missing) if everywhere else any(missing)
            expected[row, col] = not gone and all(np.isfinite(pixels[:, row, col]))
    assert np.array_equal(read(declared)[1], expected)
    assert np.array_equal(read(undeclared, nodata=nodata)[1], expected)


def test_nan_may_be_the_nodata_value(tmp_path, write):
    pixels = np.ones((2, 3, 4), np.float32)
    pixels[0, 1, 2] = np.nan
    path = write(tmp_path / "a.tif", pixels, nodata=np.nan)
    assert np.argwhere(~read(path)[1]).tolist() == [[1, 2]]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 20), st.integers(1, 20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_windows_are_parts_of_the_whole(tmp_path, write, row, col, height, width):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 60, 60), np.uint8)
    path = write(tmp_path / "a.tif", pixels, nodata=0, tiled=True, blockxsize=16, blockysize=16)
    bands, valid = read(path, Window(col, row, width, height))
    inside = np.s_[row : row + height, col : col + width]
    assert np.array_equal(bands, pixels[:, *inside])
    assert np.array_equal(valid, read(path)[1][inside])


# Other ground sampling distances


def smooth(height, width):
    rows, cols = np.mgrid[0:height, 0:width]
    return (100 + 50 * np.sin(rows / 9) + 40 * np.cos(cols / 11)).astype(np.float32)[None]


@pytest.mark.parametrize(
    ("crs", "pixel", "units"), [("EPSG:32632", 0.5, 1.0), ("EPSG:2263", 2.0, 0.3048006096)]
)
def test_metres_and_feet_are_resampled_to_one_ground_sampling_distance(
    tmp_path, write, crs, pixel, units
):
    image = smooth(120, 200)
    x, y = (4e5, 5.4e6) if crs == "EPSG:32632" else (1e6, 2e5)
    path = write(tmp_path / "a.tif", image, crs=crs, transform=Affine(pixel, 0, x, 0, -pixel, y))
    size = pixel * units
    with OpenImage(path, Reading(resolution=4 * size)) as opened:
        assert opened.grid.shape == (30, 50)
        assert opened.grid.transform.almost_equals(Affine(4 * pixel, 0, x, 0, -4 * pixel, y), 1e-3)
        bands, valid = opened.read()
    assert valid.all()
    means = image.reshape(1, 30, 4, 50, 4).mean(axis=(2, 4))  # averages of 4 × 4 pixels
    assert np.abs(bands - means).max() < 0.5


def test_degrees_get_metres(tmp_path, write):
    # At 60° north a degree of longitude is half as long as one of latitude.
    step = 1e-5
    path = write(
        tmp_path / "a.tif",
        smooth(100, 200),
        crs="EPSG:4326",
        transform=Affine(step, 0, 10, 0, -step, 60),
    )
    with OpenImage(path, Reading(resolution=1.0)) as opened:
        assert abs(opened.grid.width - 200 * step * 55_800) < 3
        assert abs(opened.grid.height - 100 * step * 111_412) < 3
        assert opened.grid.crs.is_projected
        assert opened.read()[1].mean() > 0.95


def test_web_mercator_is_no_ground_distance(tmp_path, write):
    path = write(
        tmp_path / "a.tif",
        smooth(100, 100),
        crs="EPSG:3857",
        transform=Affine(2, 0, 0, 0, -2, 8.4e6),
    )
    with OpenImage(path, Reading(resolution=1.0)) as opened:
        # cos(60°) is about a half: a pixel of "2 m" covers about one.
        assert 95 < opened.grid.width < 130


def test_an_image_of_the_wanted_resolution_is_not_resampled(tmp_path, write):
    image = smooth(40, 50)
    path = write(
        tmp_path / "a.tif", image, crs="EPSG:32632", transform=Affine(0.5, 0, 5e5, 0, -0.5, 5e6)
    )
    assert np.array_equal(read(path, resolution=0.5)[0], image)


@pytest.mark.parametrize("nodata", [0, 200])
def test_nodata_has_no_weight_when_resampled(tmp_path, write, nodata):
    image = np.full((2, 80, 80), 100, np.uint8)
    image[:, :, 37:] = nodata
    path = write(
        tmp_path / "a.tif",
        image,
        nodata=nodata,
        crs="EPSG:32632",
        transform=Affine(0.5, 0, 5e5, 0, -0.5, 5e6),
    )
    for resolution in (2.0, 0.2):
        bands, valid = read(path, resolution=resolution)
        assert set(np.unique(bands[:, valid])) == {100}
        assert abs(valid.mean() - 37 / 80) <= 1 / valid.shape[1]


def test_windows_of_a_resampled_image_are_parts_of_the_whole(tmp_path, write):
    image = np.random.default_rng(0).integers(1, 255, (3, 150, 170), np.uint8)
    path = write(
        tmp_path / "a.tif", image, crs="EPSG:4326", transform=Affine(1e-5, 0, 10, 0, -1e-5, 50)
    )
    with OpenImage(path, Reading(resolution=0.8)) as opened:
        bands, valid = opened.read()
        for row, col in ((0, 0), (31, 17), (60, 40)):
            part, seen = opened.read(Window(col, row, 40, 50))
            assert np.abs(part.astype(int) - bands[:, row : row + 50, col : col + 40]).max() <= 1
            assert np.array_equal(seen, valid[row : row + 50, col : col + 40])


def test_resampling_needs_a_georeferenced_image(tmp_path, write):
    path = write(tmp_path / "a.tif", smooth(20, 20))
    assert "has no CRS" in error_of(path, resolution=1.0)
    points = [
        GroundControlPoint(r, c, 10 + c / 1e4, 50 - r / 1e4) for r in (0, 20) for c in (0, 20)
    ]
    with rasterio.open(
        tmp_path / "g.tif",
        "w",
        driver="GTiff",
        count=1,
        height=20,
        width=20,
        dtype="float32",
        gcps=points,
        crs="EPSG:4326",
    ) as raster:
        raster.write(smooth(20, 20))
    assert "ground control points" in error_of(tmp_path / "g.tif", resolution=1.0)
    assert np.array_equal(read(tmp_path / "g.tif")[0], smooth(20, 20))


def test_resizing_makes_any_image_one_tile(tmp_path, write):
    image = smooth(64, 128)
    path = write(tmp_path / "a.tif", image)
    bands, valid = read(path, resize=32)
    assert bands.shape == (1, 32, 32)
    assert np.abs(bands - image.reshape(1, 32, 2, 32, 4).mean(axis=(2, 4))).max() < 1e-3
    assert valid.all()
    assert np.array_equal(read(path, Window(3, 5, 7, 9), resize=32)[0], bands[:, 5:14, 3:10])
    assert read(path, resize=96)[0].shape == (1, 96, 96)


# Damage


def variants():
    """Ways of storing the same pixels."""
    return [
        {},
        {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16},
        {"compress": "lzw", "predictor": 2},
        {"compress": "jpeg", "photometric": "YCBCR"},
    ]


@pytest.mark.parametrize("profile", variants(), ids=lambda each: each.get("compress", "raw"))
def test_truncated_and_flipped_files_end_in_a_line_or_in_an_image(tmp_path, write, profile):
    pixels = np.random.default_rng(1).integers(0, 255, (3, 48, 48), np.uint8)
    path = write(tmp_path / "a.tif", pixels, **profile)
    content = path.read_bytes()
    rng = np.random.default_rng(2)
    damaged = Path(tmp_path / "b.tif")
    outcomes = {"error": 0, "image": 0}
    for trial in range(60):
        broken = bytearray(content)
        if trial % 2:
            del broken[int(rng.integers(0, len(broken))) :]
        else:
            for place in rng.integers(0, len(broken), int(rng.integers(1, 6))):
                broken[place] ^= 1 << int(rng.integers(0, 8))
        damaged.write_bytes(broken)
        with rasterio.Env(GDAL_ERROR_ON_LIBJPEG_WARNING=True):
            try:
                bands, valid = read(damaged)
            except DataError as error:
                (line,) = error.lines
                assert line.startswith(f"{damaged}: ")
                outcomes["error"] += 1
            else:
                assert bands.shape[1:] == valid.shape
                outcomes["image"] += 1
    assert outcomes["error"] > 10


# Resampling with nodata that GDAL does not know


PLACE = {"crs": "EPSG:32632", "transform": Affine(0.5, 0, 5e5, 0, -0.5, 5e6)}


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("float32", -9999), ("float32", -3.4e38), ("int16", -9999), ("uint8", 7)]
)
def test_nodata_of_one_band_stays_nodata_when_resampled(tmp_path, write, dtype, nodata):
    image = np.full((3, 60, 60), 100).astype(dtype)
    image[1, :, :21] = nodata
    path = write(tmp_path / "a.tif", image, nodata=nodata, **PLACE)
    for bands in (None, (2,)):
        pixels, valid = read(path, bands=bands, resolution=2.0)
        assert set(np.unique(pixels[:, valid])) == {100}
        assert abs(valid.mean() - 39 / 60) <= 1 / valid.shape[1]


def test_nodata_is_that_of_the_chosen_bands(tmp_path, write):
    image = np.full((4, 60, 60), 100, np.uint16)
    image[:3, :28] = 0
    path = write(tmp_path / "a.tif", image, nodata=0, **PLACE)
    for resolution in (None, 2.0):
        assert read(path, bands=(1, 2, 3), resolution=resolution)[1].mean() == 32 / 60
        assert read(path, bands=(4,), resolution=resolution)[1].all()


@pytest.mark.parametrize("resolution", [None, 2.0])
def test_nodata_and_a_mask_both_invalidate(tmp_path, write, resolution):
    image = np.full((1, 60, 60), 100, np.int16)
    image[:, :, :20] = -9999
    image[:, :, 20:40] = 55
    path = tmp_path / "a.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write(path, image, nodata=-9999, **PLACE)
        with rasterio.open(path, "r+") as raster:
            mask = np.full((60, 60), 255, np.uint8)
            mask[:30] = 0
            raster.write_mask(mask)
    pixels, valid = read(path, nodata=55, resolution=resolution)
    assert set(np.unique(pixels[:, valid])) == {100}
    assert valid.mean() == pytest.approx(1 / 6, abs=0.05)


def test_a_named_alpha_band_is_a_band_when_resampled(tmp_path, write):
    image = np.full((4, 60, 60), 100, np.uint8)
    image[3, :30] = 0  # infrared of water, which GDAL takes for transparency
    path = write(tmp_path / "a.tif", image, photometric="RGB", alpha="YES", **PLACE)
    for settings_of in ({"resolution": 2.0}, {"resize": 32}):
        pixels, valid = read(path, bands=(1, 2, 3, 4), **settings_of)
        assert valid.all()
        assert (pixels[:3] == 100).all()
        assert set(np.unique(pixels[3])) >= {0, 100}


def test_nodata_has_no_weight_when_resized(tmp_path, write):
    image = np.full((1, 64, 64), 100, np.uint8)
    image[:, :, :31] = 7
    pixels, valid = read(write(tmp_path / "a.tif", image), nodata=7, resize=32)
    assert set(np.unique(pixels[:, valid])) == {100}
    assert abs(valid.mean() - 33 / 64) <= 1 / 32


def test_a_number_is_the_number_of_a_band_even_if_it_describes_another(tmp_path, write):
    pixels = np.arange(3 * 4).reshape(3, 2, 2).astype(np.uint16)
    path = write(tmp_path / "a.tif", pixels, photometric="MINISBLACK")
    with rasterio.open(path, "r+") as raster:
        raster.descriptions = ("3", "2", "1")
    assert np.array_equal(read(path, bands=(1,))[0], pixels[:1])
    assert np.array_equal(read(path, bands=("1",))[0], pixels[2:])
