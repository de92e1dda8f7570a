"""Damaged files end in one line; no pixel differs where length or checksum show the damage."""

import logging
import sqlite3
import zipfile
import zlib
from contextlib import nullcontext

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.windows import Window

from vbp_lightning.data.datasets.scene import DataError, Scene
from vbp_lightning.data.datasets.virtual_path import source_path
from vbp_lightning.data.imagery.mask_values import MaskValues
from vbp_lightning.data.imagery.raster import OpenImage, Reading, readable, without_place
from vbp_lightning.data.imagery.road_mask import open_roads
from vbp_lightning.data.imagery.unlabelled import opened_filled
from vbp_lightning.data.imagery.windows import scan_windows

DRIVERS = {
    "png": ("PNG", {}),
    "jpg": ("JPEG", {}),
    "jp2": ("JP2OpenJPEG", {}),
    "webp": ("WEBP", {}),
    "bmp": ("BMP", {}),
    "gif": ("GIF", {}),
    "img": ("ENVI", {}),
    "bil": ("EHdr", {}),
    "nc": ("netCDF", {"format": "NC"}),
    "pix": ("PCIDSK", {}),
    "mbtiles": ("MBTiles", {}),
    "tif": ("GTiff", {"compress": "deflate"}),
    "cog.tif": ("COG", {"compress": "zstd"}),
}


@pytest.fixture(autouse=True)
def quiet():
    with without_place():
        yield


def pixels_of(bands=1, height=96, width=80):
    noise = np.random.default_rng(0).integers(20, 60, (bands, height, width))
    return (noise + np.arange(width)).astype(np.uint8)


def read(path):
    with OpenImage(path, Reading()) as image:
        return image.read()[0]


def line_of(path, act=read):
    with pytest.raises(DataError) as caught:
        act(path)
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line


@pytest.fixture
def stored(tmp_path, write):
    """Stores a picture by a driver."""

    def store(suffix, bands=1):
        bands = 3 if suffix == "webp" else bands
        driver, options = DRIVERS[suffix]
        place = {"crs": "EPSG:3857", "transform": rasterio.Affine(100, 0, 0, 0, -100, 0)}
        plain = write(tmp_path / "plain.tif", pixels_of(bands), **place)
        path = tmp_path / f"a.{suffix}"
        rasterio.shutil.copy(plain, path, driver=driver, **options)
        return path

    return store


@pytest.mark.parametrize("suffix", DRIVERS)
def test_truncated_files_of_every_driver_are_refused(stored, suffix):
    path = stored(suffix)
    content = path.read_bytes()
    assert len(read(path))
    for part in (0.2, 0.5, 0.9, 0.99):
        path.unlink()
        path.write_bytes(content[: int(part * len(content))])
        line = line_of(path)
        assert line.startswith(f"{path}: cannot be read")
        assert line.endswith("replace it (data.root)")


def test_a_png_without_its_end_is_refused_as_image_mask_and_input(stored, write, tmp_path):
    path = stored("png", 3)
    path.write_bytes(path.read_bytes()[:-12])
    assert "IEND" in line_of(path)

    def explain(damaged):
        with opened_filled(damaged, Reading(), (0.0, 0.0, 0.0)) as opened:
            opened(0, 0, 10, 10)

    assert "IEND" in line_of(path, explain)

    def label(damaged):
        with OpenImage(tmp_path / "plain.tif", Reading()) as image:
            scene = Scene("a", tmp_path / "plain.tif", damaged)
            with open_roads(scene, image.grid, image.grid, MaskValues()):
                pass

    assert "IEND" in line_of(path, label)


@pytest.mark.parametrize("profile", [{}, {"interleave": "band"}, {"predictor": 2}])
@pytest.mark.parametrize("compress", ["deflate", "lzma"])
def test_no_flipped_bit_of_a_block_with_a_checksum_changes_a_pixel(
    tmp_path, write, compress, profile
):
    # 40 rows of tiles of 16: the last tiles reach beyond the image
    whole = pixels_of(3, 40, 40)
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    path = write(tmp_path / "a.tif", whole, compress=compress, **tiles, **profile)
    content = path.read_bytes()
    with rasterio.open(path) as raster:
        start = int(raster.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    rng = np.random.default_rng(1)
    for place in rng.integers(start, len(content), 100).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            assert np.array_equal(read(path), whole), place
        except DataError:
            continue


def test_checksums_are_compared_where_pixels_are_read(tmp_path, write):
    whole = pixels_of(1, 64, 64)
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}
    path = write(tmp_path / "a.tif", whole, **tiles)
    with rasterio.open(path) as raster:
        start, size = (
            int(raster.get_tag_item(f"BLOCK_{what}_3_3", "TIFF", bidx=1))
            for what in ("OFFSET", "SIZE")
        )
    content = bytearray(path.read_bytes())
    content[start + size - 1] ^= 1
    path.write_bytes(content)
    with OpenImage(path, Reading()) as image:
        assert np.array_equal(image.read(Window(0, 0, 48, 64))[0], whole[:, :, :48])
        with pytest.raises(DataError, match="checksum"):
            image.read(Window(48, 47, 16, 2))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("depth", [1, 2])
def test_damaged_and_missing_sources_of_a_virtual_raster(stored, tmp_path, suffix, depth):
    source = stored(suffix)
    for number in range(depth):
        path = tmp_path / f"{number}.vrt"
        rasterio.shutil.copy(
            tmp_path / f"{number - 1}.vrt" if number else source, path, driver="VRT"
        )
    assert np.array_equal(read(path), pixels_of())
    content = bytearray(source.read_bytes())
    source.write_bytes(content[: len(content) // 2])
    assert "cannot be read" in line_of(path)
    with rasterio.open(tmp_path / "plain.tif"):
        content[len(content) // 2] ^= 4
    source.write_bytes(content)
    assert "cannot be read" in line_of(path)
    source.unlink()
    assert "cannot be read" in line_of(path)


def test_a_chunk_of_a_png_with_another_checksum_is_refused(stored):
    path = stored("png")
    content = bytearray(path.read_bytes())
    text = zlib.crc32(b"tEXtk\0v").to_bytes(4, "big")
    note = (3).to_bytes(4, "big") + b"tEXtk\0v" + text
    path.write_bytes(content[:-12] + note + content[-12:] + b"further bytes")
    assert np.array_equal(read(path), pixels_of())
    path.write_bytes(content[:-12] + note[:-1] + b"\0" + content[-12:])
    assert "checksum of its 'tEXt' chunk" in line_of(path)


def test_a_damaged_database_is_refused(stored):
    path = stored("mbtiles", 3)
    with sqlite3.connect(path) as database:
        (page,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    content = bytearray(path.read_bytes())
    content[page : page + 40] = bytes(40)
    path.write_bytes(content)
    assert "cannot be read" in line_of(path)


# Reports of GDAL


def test_what_gdal_reports_while_it_reads_is_the_line(stored, tmp_path, write):
    path = write(
        tmp_path / "a.tif", pixels_of(3), compress="jpeg", photometric="YCBCR", interleave="pixel"
    )
    whole, content = read(path), path.read_bytes()
    rng, reported = np.random.default_rng(0), 0
    logger, records = logging.getLogger("rasterio._err"), []
    listener = logging.Handler(logging.WARNING)
    listener.emit = records.append
    logger.addHandler(listener)
    for place in rng.integers(600, len(content), 60).tolist():
        changed = bytearray(content)
        changed[place] ^= 16
        path.write_bytes(changed)
        records.clear()
        try:
            with rasterio.open(path) as raster:
                raster.read()
        except rasterio.errors.RasterioError:
            continue
        if records:
            assert "JPEG" in line_of(path)
            assert len(records) == 1, "it is not logged beside the error"
            reported += 1
    logger.removeHandler(listener)
    assert reported > 3
    path.write_bytes(content)
    assert np.array_equal(read(path), whole)


@pytest.mark.parametrize(
    ("logger", "report", "is_damage"),
    [
        (
            "rasterio._env",
            "CPLE_AppDefined in a.tif: GeoTIFF tags apparently corrupt, ignored",
            True,
        ),
        ("rasterio._env", "CPLE_AppDefined in a.tif: Unknown something", False),
        ("rasterio._env", "CPLE_AppDefined in a.png: libpng: known incorrect sRGB profile", False),
        ("rasterio._err", "CPLE_AppDefined in a.tif: Unknown something", True),
        ("rasterio._err", 'x: ASCII value for tag "DateTime" does not end in null byte', False),
    ],
)
def test_reports_about_metadata_are_no_damage(tmp_path, caplog, logger, report, is_damage):
    expected = pytest.raises(DataError) if is_damage else nullcontext()
    with expected as caught, readable(tmp_path / "a.tif"):
        logging.getLogger(logger).warning(report)
    assert (report in caplog.text) != is_damage
    if is_damage:
        (line,) = caught.value.lines
        assert report.partition("in ")[2] in line
        assert "CPLE" not in line


# Sizes


VIRTUAL = """<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{bands}</VRTDataset>"""
BAND = """<VRTRasterBand dataType="Byte" band="{band}"/>"""


@pytest.mark.parametrize(
    ("width", "height", "bands", "said"),
    [
        (2**31 - 1, 3, 1, "declares 2147483647 × 3 px"),
        (2**31, 3, 1, "Invalid dataset dimensions"),
        (10**6, 10**6, 3, "declares 1000000 × 1000000 px in 3 bands, more than files of"),
        (
            64,
            64,
            10_000,
            "has 10000 bands, and at most 1000 can be read: choose some with data.band",
        ),
    ],
)
def test_implausible_sizes_are_refused_before_anything_is_read(
    tmp_path, width, height, bands, said
):
    path = tmp_path / "a.vrt"
    inner = "".join(BAND.format(band=number + 1) for number in range(bands))
    path.write_text(VIRTUAL.format(width=width, height=height, bands=inner))
    assert said in line_of(path)
    if bands > 1000:
        with OpenImage(path, Reading((7, 9))) as image:
            assert image.read()[0].shape == (2, 64, 64)


def test_the_rows_of_an_absurdly_wide_image_are_read_in_parts():
    windows = list(scan_windows((300, 1 << 24), True, 1000))
    assert max(window.width * window.height for window in windows) <= 1 << 23
    assert sum(window.width * window.height for window in windows) == 300 << 24
    assert list(scan_windows((300, 30_000), True, 1000)) == [
        Window(0, 0, 30_000, 256),
        Window(0, 256, 30_000, 44),
    ]


def test_an_image_whose_transform_cannot_be_inverted_is_refused(tmp_path, write):
    path = write(tmp_path / "a.tif", pixels_of(), transform=rasterio.Affine(0, 1, 5, 0, 2, 5))
    assert "cannot be inverted" in line_of(path)


def mosaic(path, source, height=40, width=40):
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename>{source}'
        f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band in (1, 2, 3)
    )
    path.write_text(
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{bands}</VRTDataset>'
    )
    return path


def read_with_mask(path):
    with OpenImage(source_path(path), Reading()) as image:
        return image.read()


@pytest.mark.parametrize("place", ["file", "archive", "mosaic of an archive"])
def test_no_flipped_bit_changes_a_pixel_or_the_mask_wherever_the_file_is(tmp_path, write, place):
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}
    path = write(tmp_path / "a.tif", pixels_of(3, 40, 40), **tiles)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as raster:
        raster.write_mask(np.random.default_rng(0).random((40, 40)) > 0.2)
    content = path.read_bytes()
    with rasterio.open(path) as raster, rasterio.open(f"GTIFF_DIR:2:{path}") as mask:
        spans = [
            [
                int(each.get_tag_item(f"BLOCK_{what}_2_2", "TIFF", bidx=1))
                for what in ("OFFSET", "SIZE")
            ]
            for each in (raster, mask)
        ]

    def stored(number, data):
        if place == "file":
            own = tmp_path / f"{number}.tif"
            own.write_bytes(data)
            return own
        archive = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(archive, "w") as written:  # its own checksum is that of the damage
            written.writestr("a.tif", data)
        if place == "archive":
            return f"zip://{archive}!a.tif"
        return mosaic(tmp_path / f"{number}.vrt", f"/vsizip/{archive}/a.tif")

    whole = read_with_mask(stored("whole", content))
    refused = 0
    for start, size in spans:
        for at in range(start, start + size, max(1, size // 12)):
            damaged = bytearray(content)
            damaged[at] ^= 4
            try:
                found = read_with_mask(stored(at, bytes(damaged)))
            except DataError:
                refused += 1
            else:
                assert all(map(np.array_equal, found, whole))
    assert refused > 20


def test_a_truncated_png_of_an_archive_is_named_without_the_folder_of_its_copy(stored, tmp_path):
    path = stored("png", 3)
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr("a.png", path.read_bytes()[:-12])
    inner = source_path(f"zip://{archive}!a.png")
    assert f"{inner}: cannot be read (a.png: ends before its IEND chunk)" in line_of(inner)
    line = line_of(mosaic(tmp_path / "a.vrt", inner, 96, 80))
    assert f"({inner}: ends before its IEND chunk)" in line
