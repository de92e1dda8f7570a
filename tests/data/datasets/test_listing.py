"""Which files of a folder are taken, and which may be opened."""

import fnmatch
import os
import socket
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbp_lightning.data.datasets.file_pattern import FilePattern
from vbp_lightning.data.datasets.labelled_images import LabelledImages
from vbp_lightning.data.datasets.listing import files_below, refuse_special
from vbp_lightning.data.datasets.pattern_scenes import PatternScenes
from vbp_lightning.data.datasets.scene import DataError, Scene, VectorLabels
from vbp_lightning.data.imagery.raster import OpenImage, Reading
from vbp_lightning.data.imagery.reading import scene_info
from vbp_lightning.data.imagery.unlabelled import image_files
from vbp_lightning.data.tiles.splits import KnownSplits

LEFTOVERS = [
    *(".a.tif", "._a.tif", ".a.tif.Xy12", ".ipynb_checkpoints/a.tif", "__MACOSX/._a.tif"),
    *("__MACOSX/a.tif", "@eaDir/a.tif", "sub/@eaDir/a.tif/thumb.tif", "$RECYCLE.BIN/a.tif"),
    *("System Volume Information/a.tif", "lost+found/a.tif", "#recycle/a.tif", ".Trash-1000/a.tif"),
    *("a.tif.part", "a.tif.crdownload", "a.tif.download/a.tif", "a.tif~", "~$a.tif", "a.tif.tmp"),
    *("Thumbs.db", "desktop.ini", ".DS_Store", "a.tif.aria2", "~snapshot/a.tif", "images_$folder$"),
    *("a.tif.aux.xml", "a.tif.ovr", "a.tif.msk", "a.tfw", "a.rrd"),
]


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


@pytest.fixture
def cluttered(tmp_path):
    for name in (*LEFTOVERS, "a.tif", "sub/b.TIF"):
        touch(tmp_path / name)
    for name in ("pipe.tif", "sub/pipe.tif"):
        os.mkfifo(tmp_path / name)
    return tmp_path


def test_folders_are_listed_without_what_other_programs_leave(cluttered):
    taken = [cluttered / "a.tif", cluttered / "sub" / "b.TIF"]
    assert image_files(cluttered) == taken
    assert [path for _, path in FilePattern("**/{name}.*").find(cluttered)] == taken
    assert [path for _, path in FilePattern("{name}.*").find(cluttered)] == taken[:1]
    (cluttered / "t.csv").write_text("image_name,tags\na,road\nsub/b,road\n")
    scenes = LabelledImages(cluttered, "t.csv", ".")()
    assert [scene.image for scene in scenes] == taken


def test_a_folder_with_leftovers_alone_holds_no_image(tmp_path):
    for name in LEFTOVERS:
        touch(tmp_path / name)
    with pytest.raises(DataError, match="holds no image"):
        image_files(tmp_path)


def test_each_real_folder_is_visited_once(tmp_path):
    real = touch(tmp_path / "z" / "real" / "a.tif")
    elsewhere = tmp_path / "elsewhere"
    touch(elsewhere / "b.tif")
    root = tmp_path / "z"
    (root / "circle").symlink_to(root)
    (root / "real" / "up").symlink_to("..")
    (root / "again").symlink_to(root / "real")
    (root / "first").symlink_to(elsewhere)
    (root / "second").symlink_to(elsewhere)
    taken = [root / "first" / "b.tif", real]
    assert image_files(root) == taken
    assert [path for _, path in FilePattern("**/{name}.tif").find(root)] == taken
    # A pattern that names the links reads each of them.
    named = [path for _, path in FilePattern("{folder}/{name}.tif").find(root)]
    assert named == [
        root / name for name in ("again/a.tif", "first/b.tif", "real/a.tif", "second/b.tif")
    ]


def test_a_link_to_a_missing_file_is_reported_with_the_others(tmp_path, write):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.tif").symlink_to(tmp_path / "gone.tif")
    write(tmp_path / "masks" / "a.tif", np.zeros((100, 100), np.uint8))
    (scene,) = PatternScenes(tmp_path)()
    with pytest.raises(DataError, match=r"images/a\.tif"):
        scene_info(scene, Reading())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_reported(tmp_path):  # pragma: no cover
    touch(tmp_path / "closed" / "a.tif")
    (tmp_path / "closed").chmod(0)
    with pytest.raises(DataError, match="closed: cannot be listed"):
        image_files(tmp_path)


PARTS = st.lists(st.sampled_from(["a", "b", "ab", "A"]), min_size=1, max_size=4)
SEGMENTS = st.lists(st.sampled_from(["a", "*", "a*", "?", "**"]), max_size=3)


@given(st.lists(PARTS, max_size=8), SEGMENTS, st.sampled_from(["*.x", "a.x", "?.*", "*"]))
def test_patterns_find_what_a_slow_matcher_finds(tmp_path_factory, paths, folders, last):
    root = tmp_path_factory.mktemp("tree")
    files = {PurePosixPath(*parts[:-1], f"{parts[-1]}.x") for parts in paths}
    for file in files:
        touch(root / file)

    def matches(parts, segments):
        if not segments:
            return not parts
        if segments[0] == "**":
            later = bool(parts[1:]) and matches(parts[1:], segments)
            return later or matches(parts, segments[1:])
        return (
            bool(parts)
            and fnmatch.fnmatch(parts[0].lower(), segments[0].lower())
            and matches(parts[1:], segments[1:])
        )

    found = [path for _, path in FilePattern("/".join([*folders, last])).find(root)]
    expected = {root / file for file in files if matches(file.parts, [*folders, last])}
    assert set(found) == expected
    assert len(found) == len(expected)


def special_files(folder):
    os.mkfifo(folder / "fifo.tif")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "socket.tif"))
    (folder / "link.tif").symlink_to(folder / "fifo.tif")
    return [folder / "fifo.tif", folder / "socket.tif", folder / "link.tif", Path("/dev/zero")]


def test_only_regular_files_are_opened(tmp_path, monkeypatch):
    """Nothing waits for a FIFO, wherever it is named."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "fifo.zip")
    for name in ("zip://fifo.zip!a.tif", "zip://fifo.zip"):
        for attempt in (image_files, lambda name: PatternScenes(name)()):
            with pytest.raises(DataError, match=r"fifo\.zip: is a FIFO"):
                attempt(name)
    for path in special_files(tmp_path):
        opens = [
            lambda path=path: image_files(path),
            lambda path=path: OpenImage(path, Reading()),
            lambda path=path: KnownSplits.read(path),
            lambda path=path: LabelledImages(tmp_path, str(path), ".")(),
            lambda path=path: scene_info(Scene("a", path, VectorLabels(None)), Reading()),
        ]
        for attempt in opens:
            with pytest.raises(DataError) as caught:
                attempt()
            (line,) = caught.value.lines
            assert str(path) in line
            assert "not a file" in line


def test_files_beside_an_image_and_sources_of_virtual_rasters_are_regular_too(tmp_path, write):
    image = write(tmp_path / "a.tif", np.ones((20, 20), np.uint8))
    OpenImage(image, Reading()).close()
    os.mkfifo(tmp_path / "b.tif")
    source = '<SourceFilename relativeToVRT="1">{}</SourceFilename>'
    band = '<VRTRasterBand dataType="Byte" band="1"><SimpleSource>{}</SimpleSource></VRTRasterBand>'
    head = '<VRTDataset rasterXSize="20" rasterYSize="20">{}</VRTDataset>'
    for name, inner in (("outer", "inner.vrt"), ("inner", "b.tif")):
        (tmp_path / f"{name}.vrt").write_text(head.format(band.format(source.format(inner))))
    with pytest.raises(DataError, match=r"b\.tif: is a FIFO"):
        OpenImage(tmp_path / "outer.vrt", Reading())
    os.mkfifo(tmp_path / "a.tif.msk")
    with pytest.raises(DataError, match=r"a\.tif\.msk: is a FIFO"):
        OpenImage(image, Reading())


def test_a_virtual_raster_that_names_itself_ends(tmp_path):
    path = tmp_path / "a.vrt"
    path.write_text("<SourceFilename relativeToVRT='1'>a.vrt</SourceFilename>")
    refuse_special(path, "input")


def test_files_are_ordered_by_folder_and_name(tmp_path):
    names = ["b.x", "a/c.x", "a.x", "a/b/d.x", "a!/e.x"]
    for name in names:
        touch(tmp_path / name)
    listed = [str(path) for path in files_below(tmp_path, "input")]
    assert listed == ["a.x", "b.x", "a/c.x", "a/b/d.x", "a!/e.x"]
