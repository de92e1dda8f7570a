"""The digest of a scene follows its content, not its place, name, age or statistics."""

import os
import shutil

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine

from tests.helpers.changed_images import add_nodata_in_a_sidecar, change_pixel
from vbp_lightning.data.datasets.scene import DataError, ImageLabel, VectorLabels
from vbp_lightning.data.imagery import fingerprint
from vbp_lightning.data.imagery.fingerprint import scene_digest
from vbp_lightning.files import file_digest

PLACE = {"crs": "EPSG:32632", "transform": Affine(0.5, 0, 4e5, 0, -0.5, 5e6)}


@pytest.fixture
def image(write, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 40, 50), dtype=np.uint8)
    return write(tmp_path / "image.tif", pixels, **PLACE)


def add_mask(path):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as raster:
        raster.write_mask(np.arange(2000).reshape(40, 50) < 7)


@pytest.mark.parametrize("change", [change_pixel, add_mask, add_nodata_in_a_sidecar])
def test_content_counts(image, change):
    before = scene_digest(image)
    change(image)
    assert scene_digest(image) != before


def test_a_world_file_counts(image, write, tmp_path):
    rasterio.shutil.copy(image, tmp_path / "plain.png", driver="PNG", WORLDFILE=True)
    before = scene_digest(tmp_path / "plain.png")
    (tmp_path / "plain.wld").write_text("1\n0\n0\n-1\n5\n5\n")
    (tmp_path / "plain.png.aux.xml").unlink(missing_ok=True)
    assert scene_digest(tmp_path / "plain.png") != before


def test_name_folder_and_age_do_not_count(image, tmp_path):
    before = scene_digest(image)
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(image, tmp_path / "elsewhere" / "copy.tif")
    os.utime(image, (0, 0))
    assert scene_digest(image) == scene_digest(copy) == before


def test_statistics_and_overviews_of_viewers_do_not_count(image):
    before = scene_digest(image)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(image, "r+") as raster:
        raster.build_overviews([2])
    image.with_name(f"{image.name}.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><Histograms><HistItem><HistMin>0</HistMin></HistItem>'
        '</Histograms><Metadata><MDI key="STATISTICS_MEAN">9</MDI></Metadata></PAMRasterBand>'
        "</PAMDataset>"
    )
    assert sorted(path.suffix for path in image.parent.iterdir()) == [".ovr", ".tif", ".xml"]
    assert scene_digest(image) == before


def test_the_source_of_a_virtual_raster_counts(image, tmp_path):
    rasterio.shutil.copy(image, tmp_path / "virtual.vrt", driver="VRT")
    before = scene_digest(tmp_path / "virtual.vrt")
    change_pixel(image)
    assert scene_digest(tmp_path / "virtual.vrt") != before


def test_an_archive_counts(image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digests = []
    for change in (lambda _: None, change_pixel):
        change(image)
        shutil.make_archive("scenes", "zip", tmp_path, image.name)
        digests.append(scene_digest(type(image)("/vsizip/scenes.zip/image.tif")))
        os.utime("scenes.zip", (0, len(digests)))
    assert digests[0] != digests[1]


def test_labels_count(image, write, tmp_path):
    roads = tmp_path / "roads.geojson"
    roads.write_text('{"type": "FeatureCollection", "features": []}')
    mask = write(tmp_path / "mask.tif", np.zeros((40, 50), np.uint8), **PLACE)
    kinds = [None, ImageLabel(True), ImageLabel(False), mask, VectorLabels(roads)]
    before = [scene_digest(image, labels) for labels in kinds]
    assert len(set(before)) == len(kinds)
    write(mask, np.ones((40, 50), np.uint8), **PLACE)
    roads.write_text('{"type": "FeatureCollection", "features":  []}')
    after = [scene_digest(image, labels) for labels in kinds]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("name", "beside", "counts"),
    [
        ("roads.shp", "roads.dbf", True),
        ("roads.shp", "roads.prj", True),
        ("roads.shp", "roads.cpg", True),
        ("roads.SHP", "roads.DBF", True),
        ("roads.gml", "roads.gfs", True),
        ("roads.gpkg", "roads.gpkg-wal", True),
        ("roads.shp", "roads.qmd", False),  # QGIS
        ("roads.shp", "other.dbf", False),
        ("roads.geojson", "roads.prj", False),
    ],
)
def test_files_beside_vectors_count(image, tmp_path, name, beside, counts):
    (tmp_path / name).write_text("roads")
    before = scene_digest(image, VectorLabels(tmp_path / name))
    (tmp_path / beside).write_text("one")
    added = scene_digest(image, VectorLabels(tmp_path / name))
    (tmp_path / beside).write_text("two")
    changed = scene_digest(image, VectorLabels(tmp_path / name))
    assert len({before, added, changed}) == (3 if counts else 1)


def test_files_are_digested_again_only_where_they_changed(image, tmp_path, monkeypatch):
    roads = [tmp_path / name for name in ("a.geojson", "b.geojson")]
    for path in roads:
        path.write_text("roads")
    digested = []

    def digest(path):
        digested.append(path.name)
        return file_digest(path)

    monkeypatch.setattr(fingerprint, "file_digest", digest)
    now = fingerprint.time.time_ns
    monkeypatch.setattr(fingerprint.time, "time_ns", lambda: now() + 10**10)
    before = [scene_digest(image, VectorLabels(path)) for path in roads]
    assert digested == ["image.tif", "a.geojson", "b.geojson"]
    roads[1].write_text("others")
    after = [scene_digest(image, VectorLabels(path)) for path in roads]
    assert digested[3:] == ["b.geojson"]
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_a_damaged_image_is_one_line(tmp_path):
    (tmp_path / "broken.tif").write_bytes(b"no raster")
    with pytest.raises(DataError, match=r"broken\.tif: cannot be read"):
        scene_digest(tmp_path / "broken.tif")
