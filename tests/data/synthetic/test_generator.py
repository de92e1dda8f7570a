"""The files of the procedural scenes: written once, re-used, and completed after damage."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import rasterio

from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.synthetic import generator as module
from vbp_lightning.data.synthetic.generator import SyntheticScenes
from vbp_lightning.records import made


def source(root, **settings):
    return SyntheticScenes(root, **{"seed": 0, "scenes": 3, "size": 192, **settings})


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    made = source(tmp_path_factory.mktemp("synthetic"))
    made()
    return made


@pytest.fixture
def rendered(monkeypatch):
    """Numbers of the scenes that were rendered since the test began."""
    numbers = []
    render = module.render_scene

    def counted(seed, index, size):
        numbers.append(index)
        return render(seed, index, size)

    monkeypatch.setattr(module, "render_scene", counted)
    return numbers


def test_same_seed_same_bytes(written, tmp_path):
    again = source(tmp_path, workers=1)
    again()
    assert contents(again.folder) == contents(written.folder)


def test_other_seed_other_pixels_in_another_folder(written):
    other = replace(written, seed=1)
    scenes = zip(written(), other(), strict=True)
    assert other.folder != written.folder
    for one, two in scenes:
        assert one.image.read_bytes() != two.image.read_bytes()
        assert one.labels.read_bytes() != two.labels.read_bytes()


def test_a_scene_does_not_depend_on_how_many_there_are(written, tmp_path):
    more = source(tmp_path, scenes=4)()
    for one, two in zip(written(), more, strict=False):
        assert one.image.read_bytes() == two.image.read_bytes()


def test_images_are_tiled_compressed_and_in_metres(written):
    for scene in written():
        with rasterio.open(scene.image) as image:
            assert image.crs.is_projected
            assert image.crs.linear_units == "metre"
            assert image.res[0] == image.res[1]
            assert 0.5 <= image.res[0] <= 1.0
            assert image.profile["tiled"]
            assert image.compression.name == "deflate"
            assert image.dtypes == ("uint8",) * 3
            assert [interp.name for interp in image.colorinterp] == ["red", "green", "blue"]
            assert image.shape == (192, 192)


def test_masks_lie_on_the_grid_of_their_images(written):
    for scene in written():
        with rasterio.open(scene.image) as image, rasterio.open(scene.labels) as mask:
            assert (mask.crs, mask.transform, mask.shape) == (
                image.crs,
                image.transform,
                image.shape,
            )
            assert mask.count == 1
            assert mask.compression.name == "deflate"
            assert set(np.unique(mask.read())) == {0, 255}


def test_scenes_do_not_overlap_on_the_map(written):
    boxes = []
    for scene in written():
        with rasterio.open(scene.image) as image:
            boxes.append(image.bounds)
    for index, one in enumerate(boxes):
        for two in boxes[index + 1 :]:
            assert rasterio.coords.disjoint_bounds(one, two)


def test_splits_are_fixed_and_about_60_20_20():
    splits = [SyntheticScenes("unused", scenes=50)._scene(index).split for index in range(50)]
    assert {split: splits.count(split) for split in splits} == {"train": 30, "val": 10, "test": 10}
    assert set(splits[:3]) == {"train", "val", "test"}


def test_whole_scenes_are_re_used(written, rendered):
    before = {path: path.stat().st_mtime_ns for path in written.folder.iterdir()}
    written()
    assert rendered == []
    assert {path: path.stat().st_mtime_ns for path in written.folder.iterdir()} == before


def test_an_interrupted_run_is_completed(written, tmp_path, monkeypatch, rendered):
    expected = contents(written.folder)
    killed = source(tmp_path, workers=1)
    write = module._write_raster

    def dying(path, *arguments):
        if path.name == "scene_001_roads.tif":
            raise KeyboardInterrupt
        write(path, *arguments)

    monkeypatch.setattr(module, "_write_raster", dying)
    with pytest.raises(KeyboardInterrupt):
        killed()
    assert not (killed.folder / "scene_001_roads.tif").exists()

    monkeypatch.setattr(module, "_write_raster", write)
    finished = set(json.loads(killed.manifest.read_text())["scenes"])
    assert "scene_001" not in finished
    rendered.clear()
    killed()
    assert {f"scene_{index:03d}" for index in rendered} == {
        "scene_000",
        "scene_001",
        "scene_002",
    } - finished
    assert contents(killed.folder) == expected


PROCESSES = """
import os, signal, sys
from pathlib import Path
from vbp_lightning.data.synthetic.generator import SyntheticScenes

root, fatal = Path(sys.argv[1]), int(sys.argv[2])
replace = Path.replace
names = os.open(root / "names", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def renamed(path, target):
    global fatal
    if target.parent.name.startswith("seed"):
        fatal -= 1
        if fatal == 0:
            try:
                os.close(os.open(root / "killed", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
    os.write(names, f"{target.name}\\n".encode())
    return replace(path, target)

Path.replace = renamed
for _ in range(4):
    if not os.fork():
        scenes = SyntheticScenes(root, seed=0, scenes=3, size=192, workers=1)()
        os.write(1, (" ".join(scene.image.name for scene in scenes) + "\\n").encode())
        os._exit(0)
codes = sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(4))
print(codes)
"""
"""Four processes write the same scenes; the first that renames so many files is killed there."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts the processes by fork")
@pytest.mark.parametrize("fatal", [0, 2, 5])
def test_one_of_several_processes_writes_and_the_others_wait(written, tmp_path, fatal):
    command = [sys.executable, "-c", PROCESSES, str(tmp_path), str(fatal)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    lines = ended.stdout.splitlines()
    whole = 4 - (fatal > 0)
    assert lines[:-1] == ["scene_000.tif scene_001.tif scene_002.tif"] * whole
    assert lines[-1] == str([-9] * (fatal > 0) + [0] * whole)
    assert contents(source(tmp_path).folder) == contents(written.folder)
    names = (tmp_path / "names").read_text().split()
    # at most the scene at which a process was killed is written again
    twice = {name for name in names if names.count(name) > 1} - {"manifest.json"}
    assert twice == {0: set(), 2: {"scene_000.tif"}, 5: {"scene_001.tif"}}[fatal]
    assert all(names.count(name) <= 2 for name in twice)


@pytest.mark.parametrize("damage", ["deleted", "truncated", "changed"])
def test_a_damaged_file_is_replaced(tmp_path, rendered, damage):
    made = source(tmp_path)
    victim = made()[1].labels
    expected = contents(made.folder)
    rendered.clear()
    content = victim.read_bytes()
    if damage == "deleted":
        victim.unlink()
    elif damage == "truncated":
        victim.write_bytes(content[:100])
    else:
        victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    made()
    assert rendered == [1]
    assert contents(made.folder) == expected


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"settings": {}, "scenes": []}', "other"])
def test_files_without_a_matching_manifest_are_written_again(tmp_path, rendered, manifest):
    made = source(tmp_path)
    made()
    expected = contents(made.folder)
    if manifest == "other":
        record = json.loads(made.manifest.read_text())
        record["settings"]["generator"] -= 1
        manifest = json.dumps(record)
    made.manifest.write_text(manifest)
    rendered.clear()
    made()
    assert sorted(rendered) == [0, 1, 2]
    assert contents(made.folder) == expected


def test_no_temporary_file_remains(written):
    assert {path.name for path in written.folder.iterdir()} == {
        "manifest.json",
        *(f"scene_{index:03d}.tif" for index in range(3)),
        *(f"scene_{index:03d}_roads.tif" for index in range(3)),
    }


def test_all_bad_settings_are_named_at_once(tmp_path):
    _, lines = made(
        SyntheticScenes,
        "data.source",
        {"root": tmp_path, "seed": -1, "scenes": 2, "size": 191, "workers": 0},
    )
    assert lines == [
        "data.source.seed=-1: must be at least 0",
        "data.source.scenes=2: must be at least 3",
        "data.source.size=191: must be at least 192",
        "data.source.workers=0: must be at least 1",
    ]


def test_an_unwritable_root_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="file"):
        source(tmp_path / "file")()
