"""Stored maps and blocks are used for the image and the settings that they were computed with."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from tests.helpers.mapping import classifier, make_maps, noise, write_scene
from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.scene_maps.scene_job import SceneJob, scene_job
from vbp_lightning.scene_maps.seamless import SeamlessMapper


@pytest.fixture(scope="module")
def model():
    return classifier()


def scene(folder, seed=0):
    folder.mkdir(exist_ok=True)
    return write_scene(folder / "a.tif", noise((128, 160), seed=seed))


@pytest.fixture
def done(tmp_path, model):
    """A finished job."""
    (job,) = make_maps([scene(tmp_path / "2020")], tmp_path / "out", model)
    assert job.state() == "done"
    return job


def test_a_map_carries_the_name_of_its_image_and_the_digest(done):
    for path in (done.probability_path, done.mask_path):
        with rasterio.open(path) as raster:
            tags = raster.tags()
        assert tags["IMAGE"] == str(done.image)
        assert tags["IMAGE_SHA256"] == done.fingerprint.content
        assert len(tags["IMAGE_SHA256"]) == 64


def test_maps_of_another_image_of_the_same_name_do_not_fit(done, tmp_path):
    other = scene_job(scene(tmp_path / "2021", seed=1), done.settings)
    assert other.state() == "other"
    assert f"shows {done.image}, which is not {other.image}" in other.conflict()


def test_maps_of_a_replaced_image_do_not_fit(done):
    scene(done.image.parent, seed=1)
    again = scene_job(done.image, done.settings)
    assert again.state() == "other"
    assert f"shows {done.image} as it was before a change" in again.conflict()


def test_maps_fit_a_copy_of_the_image(done, tmp_path):
    copy = tmp_path / "copy" / "a.tif"
    shutil.copytree(done.image.parent, copy.parent)
    shutil.rmtree(done.image.parent)
    assert scene_job(copy, done.settings).state() == "done"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"reading": Reading(nodata=5)}, "INPUTS"),
        ({"reading": Reading(bands=(3, 2, 1))}, "INPUTS"),
        ({"fill": (1.0, 2.0, 3.0)}, "INPUTS"),
        ({"white_area": 300}, "INPUTS"),
        ({"step": 16}, "INPUTS"),
        ({"scaling": "none"}, "MASK_SCALING is percentile, not none"),
        ({"tags": {"CHECKPOINT_SHA256": "def", "MODE": "seamless"}}, "CHECKPOINT_SHA256 is abc"),
        ({"tags": {"CHECKPOINT_SHA256": "abc", "MODE": "tiles"}}, "MODE is seamless, not tiles"),
    ],
)
def test_maps_of_other_settings_do_not_fit(done, changes, named):
    other = scene_job(done.image, replace(done.settings, **changes))
    assert other.state() == "other"
    assert named in other.conflict()


def test_maps_without_a_fingerprint_do_not_fit(done):
    """Those of earlier versions, and files of other programs."""
    with rasterio.open(done.probability_path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        raster.update_tags(IMAGE_SHA256="", IMAGE="")
    again = scene_job(done.image, done.settings)
    assert again.state() == "other"
    done.probability_path.write_bytes(b"no raster")
    assert "an unknown image" in again.conflict()


def test_one_of_the_two_maps_is_not_enough(done):
    """A process that is killed between both leaves one; the other is computed."""
    done.probability_path.unlink()
    assert scene_job(done.image, done.settings).state() == "none"


def test_a_change_of_the_source_of_a_virtual_raster_is_seen(tmp_path, model):
    source = scene(tmp_path / "tiles")
    image = tmp_path / "a.vrt"
    rasterio.shutil.copy(source, image, driver="VRT")
    (job,) = make_maps([image], tmp_path / "out", model)
    assert scene_job(image, job.settings).state() == "done"
    scene(tmp_path / "tiles", seed=1)
    assert scene_job(image, job.settings).state() == "other"


@pytest.mark.parametrize("change", ["another image", "a replaced image", "a mask", "settings"])
def test_blocks_of_something_else_are_not_used(tmp_path, model, change):
    """As a process that was killed after all blocks leaves them."""
    path = scene(tmp_path / "2020")
    (fresh,) = make_maps([path], tmp_path / "fresh", model)
    (tmp_path / "out").mkdir()
    settings = replace(fresh.settings, output=tmp_path / "out")
    job = SceneJob("a", path, fresh.grid, settings)
    job.prepare()
    for block in job.store.blocks:
        job.compute(SeamlessMapper(model.network, 3), block)
    same = scene_job(path, settings)
    same.prepare()
    assert same.store.missing() == []

    if change == "another image":
        path = scene(tmp_path / "2021", seed=1)
    elif change == "a replaced image":
        scene(path.parent, seed=1)
    elif change == "a mask":
        mask = np.full((128, 160), 255, np.uint8)
        mask[:60] = 0
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as raster:
            raster.write_mask(mask)
    else:
        settings = replace(settings, fill=(1.0, 1.0, 1.0))
    other = scene_job(path, settings)
    assert other.state() == "none"
    other.prepare()
    assert other.store.missing() == [*range(len(other.store.blocks))]


def test_blocks_of_a_moved_image_are_used(tmp_path, model):
    path = scene(tmp_path / "2020")
    (fresh,) = make_maps([path], tmp_path / "fresh", model)
    (tmp_path / "out").mkdir()
    settings = replace(fresh.settings, output=tmp_path / "out")
    job = scene_job(path, settings)
    job.prepare()
    for block in job.store.blocks:
        job.compute(SeamlessMapper(model.network, 3), block)
    moved = tmp_path / "moved"
    path.parent.rename(moved)
    again = scene_job(moved / "a.tif", settings)
    again.prepare()
    assert again.store.missing() == []


def test_an_image_that_changes_while_it_is_mapped_is_not_written(tmp_path, model, monkeypatch):
    """The other scenes are."""
    paths = [scene(tmp_path / "2020"), scene(tmp_path / "2021")]
    paths[1] = paths[1].rename(tmp_path / "2021" / "b.tif")
    compute = SceneJob.compute

    def then_replace(job, mapper, block):
        compute(job, mapper, block)
        if job.name == "a" and block == job.store.blocks[0]:
            scene(tmp_path / "2020", seed=1)

    monkeypatch.setattr(SceneJob, "compute", then_replace)
    errors = []
    jobs = make_maps(paths, tmp_path / "out", model, errors=errors)
    assert errors == [f"{paths[0]}: changed while it was mapped (input): map it again"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "b_probability.tif",
        "b_visual_backprop.tif",
    ]
    assert jobs[1].state() == "done"
