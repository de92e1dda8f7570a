"""Runs keep their splits when scenes are added, replaced or removed."""

import shutil

import numpy as np
import pytest
import rasterio
from affine import Affine


def write_scene(root, number, seed):
    rng = np.random.default_rng(seed)
    road = np.zeros((192, 192), bool)
    road[:, 30 + seed % 9 * 5 :][:, :12] = True
    image = np.where(road, 190, 90) + rng.normal(0, 12, (3, 192, 192))
    place = Affine(1, 0, 5e5 + 1000 * number, 0, -1, 5.3e6)
    for kind, bands in (("images", image), ("masks", road[None] * 255)):
        (root / kind).mkdir(parents=True, exist_ok=True)
        profile = {"dtype": "uint8", "crs": "EPSG:32632", "transform": place, "count": len(bands)}
        path = root / kind / f"s{number}.tif"
        with rasterio.open(path, "w", driver="GTiff", width=192, height=192, **profile) as raster:
            raster.write(np.clip(bands, 0, 255).astype("uint8"))


@pytest.fixture
def trained(call, tmp_path):
    """The folder of a finished run on six scenes, whose report is still to be written."""
    for number in range(6):
        write_scene(tmp_path / "data", number, number)
    settings = ("data=folder", "data.root=data", "data.batch_size=8", "data.tiles_per_epoch=16")
    settings += ("threads=1", "trainer.max_epochs=1", "trainer.accelerator=cpu")
    settings += ("callbacks.panels=null", "callbacks.scores=null")
    process = call("train.py", *settings, "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    (tmp_path / "run" / "metrics.json").unlink()
    return tmp_path / "run"


def test_a_run_goes_on_and_is_explained_with_its_own_splits(call, trained, tmp_path):
    files = ("splits.csv", "tiles.csv")
    before = {name: (trained / name).read_bytes() for name in files}
    explain = (f"ckpt={trained / 'checkpoints' / 'best.ckpt'}", "split=test", "output=out")
    shutil.copytree(tmp_path / "data", tmp_path / "old")

    for number in (6, 7):
        write_scene(tmp_path / "data", number, number)
    resumed = call("train.py", "resume=run")
    assert resumed.returncode == 0, resumed.stderr
    assert "s6, s7 (resume)" in resumed.stdout + resumed.stderr
    assert {name: (trained / name).read_bytes() for name in files} == before
    explained = call("explain.py", *explain)
    assert explained.returncode == 0, explained.stderr
    assert "s6, s7 (ckpt)" in explained.stdout + explained.stderr

    write_scene(tmp_path / "data", 2, 40)
    (tmp_path / "data" / "images" / "s3.tif").unlink()
    (tmp_path / "data" / "masks" / "s3.tif").unlink()
    (trained / "metrics.json").unlink()
    for refused in (call("train.py", "resume=run"), call("explain.py", *explain)):
        assert refused.returncode == 1
        lines = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 2, refused.stderr
        assert "its scene s3 is gone" in lines[0]
        assert "s2.tif: has changed since the run" in lines[1]
        assert all("data.root" in line and "data.split_file" in line for line in lines)

    elsewhere = call("explain.py", *explain, "data.root=old")
    assert elsewhere.returncode == 0, elsewhere.stderr
    splits = [f"s{number},{['val', 'test', 'train'][number % 3]}" for number in (0, 1, 2, 4, 5)]
    (tmp_path / "own.csv").write_text("\n".join(["scene,split", *splits, "s6,none", "s7,none"]))
    own = call("explain.py", *explain, "data.split_file=own.csv")
    assert own.returncode == 0, own.stderr
    resumed = call("train.py", "resume=run", "data.split_file=own.csv")
    assert resumed.returncode == 0, resumed.stderr
    assert "s6,0,0,0,0,none," in (trained / "splits.csv").read_text()
    (trained / "metrics.json").unlink()
    again = call("train.py", "resume=run")
    assert again.returncode == 0, again.stderr


def test_a_run_before_its_first_checkpoint_and_one_without_splits_csv(call, trained, tmp_path):
    before = (trained / "splits.csv").read_text()
    write_scene(tmp_path / "data", 6, 6)
    (trained / "splits.csv").unlink()
    assert call("train.py", "resume=run").returncode == 0
    assert (trained / "splits.csv").read_text() == before
    shutil.rmtree(trained / "checkpoints")
    (trained / "metrics.json").unlink()
    assert call("train.py", "resume=run").returncode == 0
    assert (trained / "splits.csv").read_text() == before


def test_a_resumed_run_cannot_draw_other_splits(call, trained):
    for setting in ("split_seed=3", "val_fraction=0.3", "train_fraction=0.5"):
        refused = call("train.py", "resume=run", f"data.{setting}")
        assert refused.returncode == 1
        assert f"other values of data.{setting.partition('=')[0]} (resume)" in refused.stderr
        assert "data.split_file replaces the splits" in refused.stderr


def test_scene_maps_warn_of_other_imagery(call, trained, tmp_path):
    checkpoint = f"ckpt={trained / 'checkpoints' / 'best.ckpt'}"
    image = tmp_path / "data" / "images" / "s0.tif"
    for task in ("scene", "attribution"):
        same = call("explain.py", checkpoint, f"task={task}", f"input={image}", f"output={task}")
        assert same.returncode == 0, same.stderr
        assert "in the training imagery" not in same.stdout + same.stderr
    with rasterio.open(image, "r+") as raster:
        raster.transform = Affine(0.3, 0, 5e5, 0, -0.3, 5.3e6)
    for task in ("scene", "attribution"):
        other = call("explain.py", checkpoint, f"task={task}", f"input={image}", f"output={task}2")
        assert other.returncode == 0, other.stderr
        (line,) = [line for line in other.stdout.splitlines() if "training imagery" in line]
        assert f"{image}: a pixel is 0.3 m on the ground, in the training imagery 1 m" in line
