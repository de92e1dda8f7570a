"""The rasters: georeference, nodata, types, formats, and the state after a killed process."""

import sys
import textwrap
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rio_cogeo.cogeo import cog_validate

from tests.helpers.mapping import classifier, make_maps, noise, write_scene
from tests.helpers.programs import REPOSITORY, started
from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.imagery.extent import PixelGrid
from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.files import WriteError
from vbp_lightning.scene_maps.geotiff import Placement, writing_cog
from vbp_lightning.scene_maps.scene_job import MapSettings, SceneJob, scene_job
from vbp_lightning.scene_maps.seamless import SeamlessMapper

UTM = CRS.from_epsg(32632)
PLACES = {
    "north up": (UTM, Affine(0.5, 0, 4e5, 0, -0.5, 5e6)),
    "rotated": (UTM, Affine.translation(4e5, 5e6) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)),
    "degrees": (CRS.from_epsg(4326), Affine(4.5e-6, 0, -115.2, 0, -3.6e-6, 36.1)),
    "nowhere": (None, Affine.identity()),
}
DOWNWARDS = Affine.scale(1, -1)
"""The coordinates in which QGIS shows an image without georeference."""


def read(path):
    """The values of a raster and its metadata."""
    with rasterio.open(path) as raster:
        about = SimpleNamespace(
            crs=raster.crs,
            transform=raster.transform,
            dtypes=raster.dtypes,
            scales=raster.scales,
            tags=raster.tags(),
        )
        return raster.read(1), about


@pytest.fixture(scope="module")
def model():
    return classifier()


@pytest.mark.parametrize("place", PLACES)
def test_a_bright_cross_changes_both_maps_at_its_place(tmp_path, model, place):
    """Compared with the maps of the same scene without the cross."""
    crs, transform = PLACES[place]
    row, col = 163, 121
    plain = np.full((3, 301, 253), 100, np.uint8)
    cross = plain.copy()
    cross[:, row - 10 : row + 11, col - 1 : col + 2] = 255
    cross[:, row - 1 : row + 2, col - 10 : col + 11] = 255
    maps = []
    for name, image in (("plain", plain), ("cross", cross)):
        path = write_scene(tmp_path / f"{name}.tif", image, crs=crs, transform=transform)
        (job,) = make_maps([path], tmp_path / "out", model, scaling="none")
        maps.append((read(job.mask_path), read(job.probability_path)))
    for which, least in ((0, 0.5), (1, 1e-4)):
        before, (after, raster) = maps[0][which][0], maps[1][which]
        assert raster.crs == crs
        if which == 1 and place == "nowhere":
            transform = DOWNWARDS
        change = np.nan_to_num(np.abs(after - before))
        rows, cols = np.nonzero(change > least * change.max())
        corners = [(rows.min(), cols.min()), (rows.max() + 1, cols.max() + 1)]
        (top, left), (bottom, right) = (
            (~transform @ (raster.transform @ (x, y)))[::-1] for y, x in corners
        )
        # features lie 8 px apart; their receptive fields are off-centre by half a feature
        assert abs((top + bottom) / 2 - (row + 0.5)) <= 8
        assert abs((left + right) / 2 - (col + 0.5)) <= 8
        reach = 11 if which == 0 else 11 + 48 + 8 + 8
        assert row - reach <= top < bottom <= row + reach + 1
        assert col - reach <= left < right <= col + reach + 1


@pytest.mark.parametrize("place", PLACES)
def test_the_value_at_a_coordinate_is_that_of_the_window_around_it(tmp_path, model, place):
    crs, transform = PLACES[place]
    wide = classifier(context=8)
    image = noise((200, 243))
    path = write_scene(tmp_path / "a.tif", image, crs=crs, transform=transform)
    (job,) = make_maps([path], tmp_path / "out", wide)
    probability, raster = read(job.probability_path)
    transform = DOWNWARDS if place == "nowhere" else transform
    for row, col in ((8, 8), (56, 120), (88, 136)):
        # the corner between the four pixels in the middle of the window
        across, down = ~raster.transform @ (transform @ (col + 48, row + 48))
        assert (across % 1, down % 1) == pytest.approx((0.5, 0.5), abs=1e-6)
        tile = torch.from_numpy(image[None, :, row - 8 : row + 104, col - 8 : col + 104]).float()
        with torch.no_grad():
            expected = wide(tile).sigmoid().item()
        assert probability[int(down), int(across)] == pytest.approx(expected, abs=1e-6)


def test_maps_of_a_scene_without_georeference_lie_on_it_in_qgis(tmp_path, model):
    """QGIS gives images without a transform, to which GDAL gives none either, rows downwards."""
    path = write_scene(tmp_path / "a.tif", noise((200, 243)))
    (job,) = make_maps([path], tmp_path / "out", model)
    tags = []
    for name in (path, job.mask_path, job.probability_path):
        with Image.open(name) as picture:
            tags.append({tag: picture.tag_v2.get(tag) for tag in (33550, 33922, 34264)})
    assert tags[0] == tags[1] == {33550: None, 33922: None, 34264: None}
    assert tags[2][33550][:2] == (8, 8)
    assert tags[2][33922] == (0, 0, 0, -4, 4, 0)


def test_maps_have_the_control_points_of_their_scene(tmp_path, model):
    path = write_scene(tmp_path / "a.tif", noise((200, 243)))
    points = [
        GroundControlPoint(row, col, 4e5 + col / 2, 5e6 - row / 2 - col / 8)
        for row, col in ((0, 0), (0, 243), (200, 0), (200, 243))
    ]
    with rasterio.open(path, "r+") as raster:
        raster.gcps = (points, UTM)
    (job,) = make_maps([path], tmp_path / "out", model)
    for name, corner, step in ((job.mask_path, 0, 1), (job.probability_path, -4, 8)):
        with rasterio.open(name) as raster:
            found, crs = raster.gcps
        assert crs == UTM
        for own, scene in zip(found, points, strict=True):
            assert (own.x, own.y) == (scene.x, scene.y)
            assert own.row * step + corner == scene.row
            assert own.col * step + corner == scene.col


def test_cells_have_the_rational_polynomials_of_their_scene():
    """Offsets count from the centre of the first pixel: cell 2 is centred 20 px from the corner."""
    coefficients = [1.0] + [0.0] * 19
    scene = RPC(
        height_off=0, height_scale=1, lat_off=42, lat_scale=1, long_off=-71, long_scale=1,
        line_off=15.5, line_scale=400, samp_off=23.5, samp_scale=80,
        line_num_coeff=coefficients, line_den_coeff=coefficients,
        samp_num_coeff=coefficients, samp_den_coeff=coefficients,
    )  # fmt: skip
    cells = Placement(rpcs=scene).of_cells(-4, 8).rpcs
    assert (cells.line_off, cells.line_scale) == (2.0, 50)
    assert (cells.samp_off, cells.samp_scale) == (3.0, 10)
    assert (scene.line_off, cells.lat_off) == (15.5, 42)


@pytest.mark.parametrize(
    "shape", [(96, 96), (97, 131), (397, 397), (128, 520)], ids=lambda s: f"{s[0]}x{s[1]}"
)
@pytest.mark.parametrize("mode", ["seamless", "tiles"])
def test_scenes_of_any_size(tmp_path, model, shape, mode):
    path = write_scene(tmp_path / "a.tif", noise(shape))
    options = {"stride": 32} if mode == "tiles" else {}
    (job,) = make_maps([path], tmp_path / "out", model, mode=mode, block=256, **options)
    probability, _ = read(job.probability_path)
    step = 32 if mode == "tiles" else 8
    assert np.isfinite(probability).sum() == np.prod([(size - 96) // step + 1 for size in shape])
    mask, _ = read(job.mask_path)
    assert mask.shape == shape
    if mode == "seamless":
        assert (mask != 255).all()


def test_a_scene_of_95_px_is_refused_by_name(tmp_path):
    path = write_scene(tmp_path / "small.tif", noise((95, 300)))
    settings = MapSettings(tmp_path, Reading(), (0.0,) * 3, 96, 8, 256, "extremes")
    with pytest.raises(DataError, match=r"small\.tif: is 300 × 95 px, smaller than a tile of 96"):
        scene_job(path, settings)


def test_nodata_pixels_are_nodata_in_both_maps(tmp_path, model):
    image = noise((320, 320))
    image[:, 120:220, 140:190] = 0
    path = write_scene(tmp_path / "a.tif", image, nodata=0)
    (job,) = make_maps([path], tmp_path / "out", model)
    with rasterio.open(job.mask_path) as raster:
        seen = raster.read_masks(1) > 0
    assert np.array_equal(seen, image[0] > 0)
    with rasterio.open(job.probability_path) as raster:
        inside = raster.read_masks(1)
        assert inside[21, 20] == 0  # no valid pixel around (168, 160)
        assert inside[10, 10] == 255
        assert np.array_equal(inside > 0, np.isfinite(raster.read(1)))


@pytest.mark.parametrize("mode", ["seamless", "tiles"])
def test_white_areas_are_nodata_for_every_block_size(tmp_path, model, mode):
    """A white area larger than any block of 64 px shows, beside a smaller white roof."""
    image = noise((136, 200))
    image[:, 40:44, 20:180] = 255
    image[:, 96:116, 120:140] = 255
    path = write_scene(tmp_path / "a.tif", image)
    options = {"stride": 32, "batch": 1} if mode == "tiles" else {}
    found = []
    for block, white_area in ((64, 500), (256, 500), (256, 0)):
        (job,) = make_maps(
            [path], tmp_path / f"{block}_{white_area}", model, mode=mode, block=block,
            white_area=white_area, scaling="none", **options,
        )  # fmt: skip
        found.append((read(job.mask_path)[0], read(job.probability_path)[0]))
    (one, its), (other, others), (plain, plains) = found
    white = np.zeros(image.shape[1:], bool)
    white[40:44, 20:180] = True
    seen = np.isfinite(plain)
    assert np.array_equal(np.isfinite(one), seen & ~white)
    np.testing.assert_allclose(one, other, rtol=1e-5)
    np.testing.assert_allclose(its, others, atol=1e-6)
    assert seen[white].any()
    assert np.nanmax(np.abs(plains - others)) > 1e-4


def test_four_bands_of_sixteen_bits(tmp_path):
    model = classifier(bands=4)
    path = write_scene(tmp_path / "a.tif", noise((200, 200), 4, np.uint16, top=2047))
    (job,) = make_maps([path], tmp_path / "out", model)
    assert np.isfinite(read(job.probability_path)[0]).sum() == 14 * 14
    three = MapSettings(tmp_path, Reading(), (0.0,) * 3, 96, 8, 256, "extremes")
    with pytest.raises(DataError, match=r"a\.tif: has 4 bands, the checkpoint was trained with 3"):
        scene_job(path, three)


def test_files_are_cloud_optimised_with_overviews_tags_and_descriptions(tmp_path, model):
    path = write_scene(
        tmp_path / "a.tif", noise((600, 1100)), crs=UTM, transform=PLACES["north up"][1]
    )
    (job,) = make_maps([path], tmp_path / "out", model, block=512)
    expected = (
        (job.mask_path, "uint8", "VisualBackProp: where features are active, for any class"),
        (job.probability_path, "float32", "P(road) of the 96 px window around each position"),
    )
    for map_path, dtype, description in expected:
        valid, errors, warnings = cog_validate(map_path)
        assert (valid, errors, warnings) == (True, [], [])
        with rasterio.open(map_path) as raster:
            assert raster.dtypes == (dtype,)
            assert raster.compression.name == "deflate"
            assert raster.profile["tiled"]
            assert raster.descriptions == (description,)
            assert raster.tags()["CHECKPOINT_SHA256"] == "abc"
            assert raster.tags()["MODE"] == "seamless"
    with rasterio.open(job.mask_path) as raster:
        assert raster.overviews(1)
        assert raster.scales == (1 / 254,)
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "a_probability.tif",
        "a_visual_backprop.tif",
    ]


def test_scaled_masks_follow_from_the_raw_ones(tmp_path, model):
    path = write_scene(tmp_path / "a.tif", noise((200, 200)))
    (raw,) = make_maps([path], tmp_path / "raw", model, scaling="none")
    values, raster = read(raw.mask_path)
    assert raster.dtypes == ("float32",)
    for scaling, high in (("extremes", values.max()), ("percentile", np.percentile(values, 99.5))):
        (job,) = make_maps([path], tmp_path / scaling, model, scaling=scaling)
        stored, raster = read(job.mask_path)
        expected = np.clip((values - values.min()) / (high - values.min()), 0, 1)
        assert np.abs(stored * raster.scales[0] - expected).max() <= 0.5 / 254 + 1e-4
        assert float(raster.tags["MASK_HIGH"]) == pytest.approx(high)


def test_a_shared_scale_is_the_same_for_all_scenes(tmp_path, model):
    paths = [
        write_scene(tmp_path / f"{top}.tif", noise((128, 128), top=top)) for top in (20, 120, 250)
    ]
    jobs = make_maps(paths, tmp_path / "out", model, shared=True)
    tags = [read(job.mask_path)[1].tags for job in jobs]
    assert len({(each["MASK_LOW"], each["MASK_HIGH"]) for each in tags}) == 1
    alone = make_maps(paths, tmp_path / "alone", model)
    tags = [read(job.mask_path)[1].tags for job in alone]
    assert len({(each["MASK_LOW"], each["MASK_HIGH"]) for each in tags}) == 3


def test_a_killed_job_leaves_no_partial_file_and_resumes(tmp_path, model):
    """After SIGKILL in the middle of a scene, stored blocks are not computed again."""
    for name in "ab":
        write_scene(tmp_path / f"{name}.tif", noise((136, 264), seed=ord(name)))
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
        import time
        from pathlib import Path
        from tests.helpers.mapping import classifier, make_maps
        from vbp_lightning.scene_maps.scene_job import SceneJob
        compute = SceneJob.compute
        def slowly(self, mapper, block):
            compute(self, mapper, block)
            if self.name == "b":
                time.sleep(5)
        SceneJob.compute = slowly
        folder = Path({str(tmp_path)!r})
        make_maps([folder / "a.tif", folder / "b.tif"], folder / "out", classifier())
        """
        )
    )
    child = started(tmp_path, script, PYTHONPATH=str(REPOSITORY)).process
    done = tmp_path / "out" / ".b.blocks" / "0_0.npz"
    deadline = time.monotonic() + 120
    while not done.exists() and time.monotonic() < deadline and child.is_alive():
        time.sleep(0.05)
    child.kill()
    child.join()
    assert done.exists()
    assert not list((tmp_path / "out").glob("b*.tif"))
    before = done.stat().st_mtime_ns

    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    settings = MapSettings(
        tmp_path / "out", Reading(), (100.0,) * 3, 96, 8, 128, "percentile",
        {"CHECKPOINT_SHA256": "abc", "MODE": "seamless"},
    )  # fmt: skip
    job = scene_job(paths[1], settings)
    job.prepare()
    assert 0 not in job.store.missing()
    assert job.store.missing()
    assert done.stat().st_mtime_ns == before

    for name in (".b_probability.7.tmp.plain.tif", ".b_probability.7.tmp.tif.ovr.tmp"):
        (tmp_path / "out" / name).touch()  # a process that is killed while it writes leaves these
    resumed = make_maps(paths, tmp_path / "out", model)
    afresh = make_maps(paths, tmp_path / "fresh", model)
    for one, other in zip(resumed, afresh, strict=True):
        assert one.state() == "done"
        assert one.mask_path.read_bytes() == other.mask_path.read_bytes()
        assert one.probability_path.read_bytes() == other.probability_path.read_bytes()
    names = [sorted(path.name for path in (tmp_path / each).iterdir()) for each in ("out", "fresh")]
    assert names[0] == names[1]


def test_a_job_killed_before_writing_writes_when_resumed(tmp_path, model):
    """All blocks are stored, so nothing is left to compute."""
    path = write_scene(tmp_path / "a.tif", noise((128, 160)))
    (fresh,) = make_maps([path], tmp_path / "fresh", model)
    (tmp_path / "out").mkdir()
    job = SceneJob("a", path, fresh.grid, replace(fresh.settings, output=tmp_path / "out"))
    job.prepare()
    for block in job.store.blocks:
        job.compute(SeamlessMapper(model.network, 3), block)
    assert job.state() == "none"
    (again,) = make_maps([path], tmp_path / "out", model)
    assert again.state() == "done"
    assert again.mask_path.read_bytes() == fresh.mask_path.read_bytes()


def test_blocks_of_other_settings_are_deleted(tmp_path, model):
    path = write_scene(tmp_path / "a.tif", noise((128, 128)))
    (job,) = make_maps([path], tmp_path / "out", model)
    assert job.state() == "done"
    other = MapSettings(
        tmp_path / "out", Reading(), (100.0,) * 3, 96, 8, 128, "extremes",
        {"CHECKPOINT_SHA256": "def"},
    )  # fmt: skip
    changed = scene_job(path, other)
    assert changed.state() == "other"
    job.prepare()
    (job.store.folder / "0_0.npz").write_bytes(b"old")
    changed.prepare()
    assert changed.store.missing() == [0]
    (changed.store.folder / "0_0.npz").write_bytes(b"old")
    changed.prepare()
    assert changed.store.missing() == []
    larger = scene_job(path, replace(other, block=256))
    larger.prepare()
    assert larger.store.missing() == [0]


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files by resource")
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("size", [60, 700])
def test_a_disk_that_is_full_leaves_no_raster(tmp_path, capfd, share, size):
    """GDAL keeps small rasters in memory until it closes them, and then ignores errors."""
    import resource

    path = tmp_path / "map.tif"
    values = np.random.default_rng(0).random((size, size), dtype=np.float32)
    grid = PixelGrid(size, size, Affine(2, 0, 0, 0, -2, 0), CRS.from_epsg(32632))

    def write_all():
        with writing_cog(path, grid, "noise", {}, as_bytes=False) as write:
            for row in range(0, size, 512):
                write(row, 0, values[row : row + 512])

    write_all()
    whole = path.read_bytes()
    plain = 4 * (-(-size // 512) * 512) ** 2
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * plain), before[1]))
    try:
        with pytest.raises(WriteError, match="File too large") as caught:
            write_all()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == whole
    assert [file.name for file in tmp_path.iterdir()] == ["map.tif"]
    assert capfd.readouterr().err == ""
