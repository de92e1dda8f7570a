"""Fingerprints of images: equal for copies, different for every change of what is read."""

import os
import shutil
import zipfile

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine

from tests.helpers.changed_images import add_nodata_in_a_sidecar, change_pixel
from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.imagery import fingerprint as module
from vbp_lightning.data.imagery.fingerprint import Fingerprint, fingerprint

UTM = {"crs": "EPSG:32632", "transform": Affine(1, 0, 500_000, 0, -1, 5_300_000)}


def write(path, seed=0, **profile):
    pixels = np.random.default_rng(seed).integers(1, 255, (3, 64, 48), dtype=np.uint8)
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": 64, "width": 48} | profile
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(pixels)
    return path


def add_mask(path, value):
    """Writes the mask of an image to a ``.msk`` file; 0 marks a corner as nodata."""
    mask = np.full((64, 48), 255, np.uint8)
    mask[:8, :8] = value
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as raster:
        raster.write_mask(mask)
    assert path.with_name(f"{path.name}.msk").exists()


def change_place(path):
    with rasterio.open(path, "r+") as raster:
        raster.transform = Affine(2, 0, 0, 0, -2, 0)


def change_name_of_band(path):
    with rasterio.open(path, "r+") as raster:
        raster.set_band_description(2, "infrared")


def change_colour(path):
    with rasterio.open(path, "r+") as raster:
        raster.colorinterp = [rasterio.enums.ColorInterp.gray] * 3


CHANGES = (
    change_pixel,
    change_place,
    add_nodata_in_a_sidecar,
    change_name_of_band,
    change_colour,
    lambda path: add_mask(path, 0),
    lambda path: path.with_suffix(".tfw").write_text("3\n0\n0\n-3\n9\n9\n"),
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_what_is_read_changes_the_content(tmp_path, change):
    path = write(tmp_path / "a.tif")
    before = fingerprint(path)
    assert fingerprint(path) == before
    change(path)
    after = fingerprint(path, before)
    assert after.content != before.content
    assert after.files != before.files


def test_the_mask_of_a_file_is_a_part_of_its_content(tmp_path):
    path = write(tmp_path / "a.tif")
    add_mask(path, 0)
    before = fingerprint(path)
    add_mask(path, 255)
    assert fingerprint(path, before).content != before.content


def test_a_copy_in_another_folder_or_of_another_age_has_the_same_content(tmp_path):
    path = write(tmp_path / "a.tif", **UTM)
    add_mask(path, 0)
    before = fingerprint(path)
    shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}_copy"))
    copy = fingerprint(tmp_path.with_name(f"{tmp_path.name}_copy") / "a.tif", before)
    assert copy.content == before.content
    assert copy.files != before.files
    os.utime(path, (1, 1))
    assert fingerprint(path, before).content == before.content
    assert fingerprint(path, before).files != before.files


def test_statistics_and_overviews_leave_the_content(tmp_path):
    """Programs that show an image write both."""
    path = write(tmp_path / "a.tif")
    before = fingerprint(path)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as raster:
        raster.build_overviews([2])
    path.with_name("a.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">5</MDI>'
        "</Metadata></PAMRasterBand></PAMDataset>"
    )
    assert len(list(tmp_path.iterdir())) == 3
    assert fingerprint(path).content == before.content


def test_unchanged_files_are_not_digested_again(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif")
    known = Fingerprint("known", fingerprint(path).files)
    monkeypatch.setattr(module, "file_digest", None)
    assert fingerprint(path, known) is known


def test_another_file_of_the_same_size_and_time_is_digested(tmp_path):
    """As ``cp -p`` and ``rsync -t`` leave it."""
    path, other = write(tmp_path / "a.tif"), write(tmp_path / "b.tif", seed=1)
    before = fingerprint(path)
    time = path.stat().st_mtime_ns
    assert path.stat().st_size == other.stat().st_size
    shutil.copyfile(other, path)
    os.utime(path, ns=(time, time))
    assert path.stat().st_mtime_ns == time
    assert fingerprint(path, before).content == fingerprint(other).content != before.content


def virtual(target, source):
    """Writes a virtual raster of a source; returns its path."""
    rasterio.shutil.copy(source, target, driver="VRT")
    return target


@pytest.mark.parametrize("change", CHANGES[:1] + CHANGES[5:6])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_sources_of_a_virtual_raster_are_a_part_of_its_content(tmp_path, change, depth):
    folder = tmp_path / "tiles"
    folder.mkdir()
    source = inner = write(folder / "a.tif", **UTM)
    for level in range(depth):
        inner = virtual(tmp_path / f"level{level}.vrt", inner)
    text = inner.read_text()
    before = fingerprint(inner)
    assert fingerprint(inner, before) == before
    moved = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}_moved"))
    assert fingerprint(moved / inner.name).content == before.content
    change(source)
    assert inner.read_text() == text
    assert fingerprint(inner, before).content != before.content


def test_pixels_inside_an_archive_are_compared(tmp_path):
    archive = tmp_path / "a.zip"
    found = []
    for seed in (0, 1, 0):
        write(tmp_path / "a.tif", seed)
        with zipfile.ZipFile(archive, "w") as file:
            file.write(tmp_path / "a.tif", "a.tif")
        path = virtual(tmp_path / "a.vrt", f"/vsizip/{archive}/a.tif")
        found.append(fingerprint(path, found[-1] if found else None))
    assert found[0].content == found[2].content != found[1].content


def test_a_missing_source_is_an_error_that_names_the_image(tmp_path):
    source = write(tmp_path / "a.tif")
    path = virtual(tmp_path / "a.vrt", source)
    source.unlink()
    with pytest.raises(DataError, match=r"a\.vrt: cannot be read"):
        fingerprint(path)
