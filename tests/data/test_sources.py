"""Data sets in archives, on web servers and in object stores."""

import contextlib
import gzip
import http.client
import os
import shutil
import tarfile
import time
import zipfile
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from torch.utils.data import DataLoader, Dataset

from tests.helpers.web_server import serving
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets import vsi
from vbp_lightning.data.datasets.labelled_images import LabelledImages
from vbp_lightning.data.datasets.pattern_scenes import PatternScenes
from vbp_lightning.data.datasets.scene import DataError, VectorLabels
from vbp_lightning.data.datasets.virtual_path import VirtualPath, source_path
from vbp_lightning.data.imagery import opening
from vbp_lightning.data.imagery.extent import PixelGrid
from vbp_lightning.data.imagery.fingerprint import fingerprint, scene_digest
from vbp_lightning.data.imagery.raster import OpenImage, Reading
from vbp_lightning.data.imagery.unlabelled import image_files
from vbp_lightning.data.imagery.vector_files import road_features
from vbp_lightning.data.imagery.vectors import road_shapes
from vbp_lightning.data.tiles.splits import KnownSplits

PLACE = {"crs": "EPSG:32633", "transform": Affine(1, 0, 5e5, 0, -1, 5e6)}
VECTORS = ["gpkg", "geojson", "shp", "fgb"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with pytest.MonkeyPatch.context() as settings:
        root, notes = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("notes")
        with serving(root, notes) as started:
            settings.setenv("AWS_S3_ENDPOINT", started.address)
            settings.setenv("CPL_GS_ENDPOINT", f"{started.url}/")
            for name, value in {
                **{"AWS_NO_SIGN_REQUEST": "YES", "GS_NO_SIGN_REQUEST": "YES", "AWS_HTTPS": "NO"},
                **{"AWS_VIRTUAL_HOSTING": "FALSE", "GDAL_HTTP_RETRY_DELAY": "0.01"},
                **{"GDAL_HTTP_LOW_SPEED_TIME": "1", "GDAL_HTTP_MAX_RETRY": "1"},
            }.items():
                settings.setenv(name, value)
            settings.setattr(time, "sleep", lambda _: None)
            yield started


@pytest.fixture
def served(server):
    """The server, with nothing kept of earlier requests."""
    server.behave()
    opening._ask.cache_clear()
    for system in (b"/vsicurl/http", b"/vsis3/", b"/vsigs/"):
        vsi._gdal().VSICurlPartialClearCache(system)
    yield server
    server.behave()


@pytest.fixture(scope="module")
def dataset(server):
    """A bucket with images, road masks, vector files and lists of scenes, and archives of it."""
    bucket = server.root / "bucket"
    rng = np.random.default_rng(0)
    for number, driver in enumerate(["GTiff", "PNG", "GTiff", "GTiff", "JPEG"]):
        suffix = {"GTiff": "tif", "PNG": "png", "JPEG": "jpg"}[driver]
        place = PLACE | {"transform": PLACE["transform"] @ Affine.translation(300 * number, 0)}
        mask = np.zeros((1, 100, 200), np.uint8)
        mask[:, :, 50:60] = 255
        for folder, bands in (("masks", mask), ("images", rng.integers(0, 255, (3, 100, 200)))):
            path = bucket / folder / f"a{number}.{suffix if folder == 'images' else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = {"count": len(bands), "height": 100, "width": 200, "dtype": "uint8"}
            kind = driver if folder == "images" else "PNG"
            with rasterio.open(path, "w", driver=kind, **shape, **place) as raster:
                raster.write(bands.astype(np.uint8))
    line = shapely.LineString([(5e5, 5e6 - 60), (5e5 + 140, 5e6 - 70)])
    for suffix in VECTORS:
        geopandas.GeoDataFrame(geometry=[line], crs="EPSG:32633").to_file(bucket / f"r.{suffix}")
    names = [f"a{number}" for number in range(5)]
    splits = ["train", "train", "train", "val", "test"]
    lines = "\n".join(map(",".join, zip(names, splits, strict=True)))
    (bucket / "splits.csv").write_text(f"scene,split\n{lines}\n")
    (bucket / "t.csv").write_text("image_name,tags\na0,road\na1,x\n")
    files = [path for path in bucket.rglob("*") if path.is_file()]
    with zipfile.ZipFile(server.root / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.relative_to(bucket))
        archive.writestr("__MACOSX/images/._a0.tif", b"x")
    with tarfile.open(server.root / "d.tgz", "w:gz") as archive:
        archive.add(bucket, ".")
    return bucket


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a/b.tif", "a/b.tif"),
        ("file:///a/b.tif", "/a/b.tif"),
        ("zip://a.zip!b/c.tif", "/vsizip//here/a.zip/b/c.tif"),
        ("zip:///x/a.zip!b.tif", "/vsizip//x/a.zip/b.tif"),
        ("/vsizip/a.zip/b.tif", "/vsizip//here/a.zip/b.tif"),
        ("/vsizip//x/a.zip/b.tif", "/vsizip//x/a.zip/b.tif"),
        ("/vsizip/{/x/a.dat}/b.tif", "/vsizip/{/x/a.dat}/b.tif"),
        ("tar://x/a.tar!b.tif", "/vsitar//here/x/a.tar/b.tif"),
        ("https://host:80/a.tif?b=c", "/vsicurl/https://host:80/a.tif?b=c"),
        ("s3://bucket/a.tif", "/vsis3/bucket/a.tif"),
        ("gs://bucket/a.tif", "/vsigs/bucket/a.tif"),
        ("zip+https://host/a.zip!b.tif", "/vsizip/vsicurl/https://host/a.zip/b.tif"),
        ("/vsizip//vsicurl/https://host/a.zip/b.tif", "/vsizip/vsicurl/https://host/a.zip/b.tif"),
        ("zip+s3://bucket/a.zip!b.tif", "/vsizip/vsis3/bucket/a.zip/b.tif"),
        ("/vsizip/vsitar//x/a.tar/b.zip/c", "/vsizip/vsitar//x/a.tar/b.zip/c"),
    ],
)
def test_names_of_gdal_and_rasterio_are_understood(given, expected, monkeypatch):
    monkeypatch.setattr(os, "getcwd", lambda: "/here")
    path = source_path(given)
    assert str(path) == os.fspath(path) == str(source_path(str(path))) == expected
    assert isinstance(path, VirtualPath) == expected.startswith("/vsi")
    assert path.suffix in (".tif", "")
    assert str(path / "x").startswith(expected)
    assert str(path.parent) == expected.rpartition("/")[0]


def read(root, **settings):
    """What a data module learns from a data set."""
    source = {"_target_": "vbp_lightning.data.PatternScenes", **settings}
    made = RoadTileDataModule(source, root=root, split_file=f"{root}/splits.csv", augment=None)
    made.setup()
    return made.scene_digests, made.mean, made.std, made.counts


@pytest.mark.parametrize(
    ("root", "same_digests"),
    [
        ("zip://{}/d.zip", True),
        ("tar://{}/d.tgz", True),
        ("zip+http://{}/d.zip", True),
        ("s3://bucket", False),
    ],
)
def test_data_sets_are_the_same_wherever_they_are(dataset, served, root, same_digests):
    place = served.address if "http" in root else served.root
    found, expected = read(root.format(place)), read(str(dataset))
    assert found[1:] == expected[1:]
    assert (found[0] == expected[0]) is same_digests
    assert read(root.format(place))[0] == found[0]


@pytest.mark.parametrize("suffix", VECTORS)
def test_vector_files_are_read_from_everywhere(dataset, served, suffix):
    grid = PixelGrid(130, 140, PLACE["transform"], rasterio.CRS.from_epsg(32633))
    (expected,) = road_shapes(VectorLabels(dataset / f"r.{suffix}"), grid)
    places = [f"zip://{served.root}/d.zip!", f"{served.url}/bucket/", "s3://bucket/"]
    for place in places:
        path = source_path(f"{place}r.{suffix}")
        (found,) = road_shapes(VectorLabels(path), grid)
        assert found.equals(expected)
    behaviours = [{"code": 500}, {"code": 503, "only": f".{suffix}"}, {"cut": 100}]
    for behaviour in behaviours:
        served.behave(**behaviour)
        with pytest.raises(DataError) as caught:
            road_shapes(
                VectorLabels(source_path(f"{served.url}/bucket/r.{suffix}?{behaviour}")), grid
            )
        (line,) = caught.value.lines
        assert f"{served.url}/bucket/r.{suffix}" in line


def test_labels_may_lie_elsewhere(dataset, served):
    archive = f"zip://{served.root}/d.zip"
    scenes = PatternScenes(dataset, masks=f"{archive}!masks/{{name}}.*")()
    assert [str(scene.labels) for scene in scenes] == [
        f"/vsizip/{served.root}/d.zip/masks/a{number}.png" for number in range(5)
    ]
    url = f"{served.url}/bucket"
    (scene,) = PatternScenes(dataset, f"{url}/images/a0.tif", labels=f"{url}/r.gpkg")()
    assert (scene.name, scene.image) == ("a0", source_path(f"{url}/images/a0.tif"))
    (listed,) = LabelledImages(archive, "t.csv", "images", road="x")()[1:]
    assert (listed.image.name, listed.labels.is_road) == ("a1.png", True)
    assert KnownSplits.read(source_path(f"{url}/splits.csv")).parts["a3"][0][2] == "val"


def test_an_image_or_a_folder_that_explain_names(dataset, served):
    for root in (f"zip://{served.root}/d.zip!", "s3://bucket/", "gs://bucket/"):
        files = image_files(f"{root}images")
        assert [path.name for path in files] == ["a0.tif", "a1.png", "a2.tif", "a3.tif", "a4.jpg"]
        assert image_files(f"{root}images/a0.tif") == files[:1]
    (path,) = image_files(f"{served.url}/bucket/images/a0.tif?token=1")
    assert (path.stem, path.suffix) == ("a0", ".tif")
    for name, reason in (
        (f"{served.url}/bucket/none.tif", "no such file"),
        (f"zip://{served.root}/d.zip!none.tif", "no such file"),
        (f"zip://{served.root}/none.zip!a.tif", "no such file"),
        ("s3://none/a", "NoSuchBucket"),
    ):
        with pytest.raises(DataError, match=reason) as caught:
            image_files(name)
        assert len(caught.value.lines) == 1


def test_folders_of_web_servers_are_refused_and_others_named(dataset, served):
    for root in (f"{served.url}/bucket", f"zip://{served.root}/none.zip", f"{served.root}/d.zip"):
        with pytest.raises(DataError, match=r"data\.root") as caught:
            PatternScenes(root)()
        assert len(caught.value.lines) == 1


def test_a_listing_that_breaks_off_is_no_short_list(dataset, served):
    """GDAL returns the pages that came before."""
    for behaviour in ({"failing_page": 2}, {"failing_page": 0}, {"code": 503}, {"code": 403}):
        served.behave(**behaviour)
        for name in ("s3://bucket/images", "gs://bucket/images"):
            with pytest.raises(DataError, match="cannot be listed"):
                image_files(name) if "code" not in behaviour else PatternScenes(name)()


@pytest.mark.parametrize("name", ["a0.tif", "a1.png", "a4.jpg"])
def test_faults_of_a_server_are_one_line(dataset, served, name):
    with OpenImage(dataset / "images" / name, Reading()) as image:
        expected = image.read()[0]
    path = source_path(f"{served.url}/bucket/images/{name}")

    def pixels():
        vsi._gdal().VSICurlPartialClearCache(str(path).encode())
        with OpenImage(path, Reading(), key="input") as image:
            return image.read()[0]

    for first in ([], [503], [429]):  # the request is repeated
        served.behave(first=first)
        assert (pixels() == expected).all()
    behaviours = [{"code": code} for code in (403, 404, 500, 503)]
    for behaviour in (*behaviours, {"cut": 1000}, {"cut": 5000}, {"pause": 3}):
        served.behave(**behaviour)
        start = time.monotonic()
        with pytest.raises(DataError) as caught:
            pixels()
        (line,) = caught.value.lines
        assert str(path) in line
        assert "(input)" in line
        assert time.monotonic() - start < 15
    served.behave(code=503, only=".msk")  # GDAL opens the image without its mask then
    opening._ask.cache_clear()
    with pytest.raises(DataError, match="503"):
        pixels()


def test_servers_that_are_not_there_are_one_line():
    for name in ("http://127.0.0.1:9/a.tif", "http://nowhere.invalid/a.tif"):
        with pytest.raises(DataError) as caught:
            OpenImage(source_path(name), Reading())
        assert len(caught.value.lines) == 1


def test_a_window_of_a_large_image_takes_a_small_part_of_its_bytes(served):
    path = served.root / "large.tif"
    tiling = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    shape = {"count": 3, "height": 1024, "width": 1024, "dtype": "uint8"}
    pixels = np.random.default_rng(0).integers(0, 255, (3, 1024, 1024), np.uint8)
    with rasterio.open(path, "w", driver="GTiff", **shape, **tiling) as raster:
        raster.write(pixels)
    url = source_path(f"{served.url}/large.tif")
    with OpenImage(url, Reading()) as image:
        window = rasterio.windows.Window(500, 300, 64, 64)
        assert (image.read(window)[0] == pixels[:, 300:364, 500:564]).all()
    digest = fingerprint(url)
    assert sum(size for *_, size in served.requests) < path.stat().st_size / 10
    assert fingerprint(url, digest) is digest


@pytest.mark.parametrize("etag", [True, False])
def test_a_changed_file_of_a_server_has_another_digest(dataset, served, etag):
    path = served.root / f"changed_{etag}.tif"
    shutil.copy(dataset / "images" / "a0.tif", path)
    raw = path.read_bytes()
    served.behave(etag=etag)
    url = source_path(f"{served.url}/{path.name}")
    first = fingerprint(url)
    assert fingerprint(url).content == first.content == scene_content(url, first)
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))  # within the same second
    second = fingerprint(url, first)
    assert second.content != first.content
    path.write_bytes(raw)
    assert fingerprint(url, second).content == first.content
    assert (first.content == fingerprint(path).content) is not etag


def test_a_vector_file_of_a_server_is_not_asked_for_by_each_scene(dataset, served):
    shutil.copy(dataset / "r.geojson", served.root / "shared.geojson")
    labels = VectorLabels(source_path(f"{served.url}/shared.geojson"))
    first = road_features(labels)
    asked = len(served.requests)
    assert all(road_features(labels) is first for _ in range(20))
    assert len(served.requests) <= asked + 4  # once more, if 10 seconds end meanwhile


def scene_content(path, known):
    assert scene_digest(path) == scene_digest(path)
    return known.content


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("name", ["images/a0.tif", "images/a1.png", "r.geojson"])
def test_members_of_zip_files_are_compared_with_their_checksums(dataset, tmp_path, method, name):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", method) as written:
        written.write(dataset / name, name)
    raw = archive.read_bytes()
    grid = PixelGrid(130, 140, PLACE["transform"], rasterio.CRS.from_epsg(32633))

    def use(path):
        if path.suffix == ".geojson":
            return len(road_shapes(VectorLabels(path), grid))
        with OpenImage(path, Reading()) as image:
            return image.read()[0].sum()

    path = source_path(f"zip://{archive}!{name}")
    assert use(path) == use(dataset / name)
    for place in (len(raw) // 3, len(raw) // 2):
        archive.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        with pytest.raises(DataError, match=str(archive)):
            use(path)
    archive.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match=str(archive)):
        use(path)


def test_compressed_files_and_archives_are_compared_with_their_checksums(dataset, served, tmp_path):
    image = dataset / "images" / "a0.tif"
    packed = tmp_path / "a.tif.gz"
    packed.write_bytes(gzip.compress(image.read_bytes(), mtime=0))
    shutil.copy(served.root / "d.tgz", tmp_path / "d.tgz")
    for archive, name in ((packed, f"gzip://{packed}"), (tmp_path / "d.tgz", "")):
        path = source_path(name or f"tar://{archive}!images/a0.tif")
        with OpenImage(path, Reading()) as opened, OpenImage(image, Reading()) as plain:
            assert (opened.read()[0] == plain.read()[0]).all()
        raw = archive.read_bytes()
        archive.write_bytes(raw[:-8] + bytes([raw[-8] ^ 1]) + raw[-7:])
        with pytest.raises(DataError, match=str(archive)):
            OpenImage(path, Reading())


class Windows(Dataset):
    """Rows of an image on a server, opened for each."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 64

    def __getitem__(self, number):
        window = rasterio.windows.Window(0, 16 * number, 1024, 16)
        with OpenImage(self.path, Reading()) as image:
            return image.read(window)[0].sum(dtype=np.int64)


def test_workers_do_not_share_the_connections_of_the_process_that_starts_them(served):
    test_a_window_of_a_large_image_takes_a_small_part_of_its_bytes(served)
    windows = Windows(source_path(f"{served.url}/large.tif"))
    expected = [windows[number] for number in range(8)]
    loader = DataLoader(windows, batch_size=4, num_workers=2)
    sums = [each for batch in loader for each in batch.tolist()]
    assert sums[:8] == expected
    local = Windows(served.root / "large.tif")
    assert sums == [local[number] for number in range(64)]


def test_the_server_of_these_tests_knows_ranges(dataset, served):
    with contextlib.closing(http.client.HTTPConnection(served.address)) as connection:
        connection.request("GET", "/bucket/r.gpkg", headers={"Range": "bytes=5-9"})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (206, (dataset / "r.gpkg").read_bytes()[5:10])
    assert Path(served.root / "d.zip").is_file()
