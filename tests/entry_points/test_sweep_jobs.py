"""The jobs of a sweep: each has its own folder and is done only with its own settings."""

import csv
import json

import numpy as np
import pytest
import rasterio
from affine import Affine

TINY = (
    *("data=folder", "trainer.max_epochs=1", "data.tiles_per_epoch=16", "data.batch_size=16"),
    *("threads=1", "trainer.accelerator=cpu", "callbacks.panels=null", "hydra.sweep.dir=sweep"),
    "callbacks.summary=null",
)


def write_scenes(root, count, seed):
    """Scenes of noise with a bright road, in ``images`` and ``masks``."""
    chance = np.random.default_rng(seed)
    profile = {"driver": "GTiff", "width": 192, "height": 192, "dtype": "uint8"}
    for index in range(count):
        place = {"crs": "EPSG:32632", "transform": Affine(1, 0, index * 1000, 0, -1, 5_300_000)}
        road = np.zeros((1, 192, 192), np.uint8)
        road[:, :, 40:52] = 255
        image = chance.integers(1, 150, (3, 192, 192), dtype=np.uint8) + road // 3
        for folder, pixels in (("images", image), ("masks", road)):
            path = root / folder / f"s{index}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            with rasterio.open(path, "w", count=len(pixels), **profile, **place) as raster:
                raster.write(pixels)


@pytest.fixture
def sweep(tmp_path, call):
    """Runs a sweep over two data folders whose names differ by ``/`` and ``_``; gives its rows."""
    write_scenes(tmp_path / "v" / "1", count=6, seed=0)
    write_scenes(tmp_path / "v_1", count=9, seed=1)

    def start(*overrides):
        process = call("train.py", "-m", *TINY, "data.root=v/1,v_1", *overrides)
        with (tmp_path / "sweep" / "summary.csv").open() as file:
            return process, {row["data.root"]: row for row in csv.DictReader(file)}

    return start


def test_jobs_have_their_own_folders_and_are_done_with_their_own_settings(sweep, tmp_path):
    process, rows = sweep()
    assert process.returncode == 0, process.stderr
    folders = {root: tmp_path / row["path"] for root, row in rows.items()}
    assert len({*folders.values()}) == len(rows) == 2
    for root, count in (("v/1", 6), ("v_1", 9)):
        tiles = csv.DictReader((folders[root] / "tiles.csv").read_text().splitlines())
        assert {row["scene"] for row in tiles} == {f"s{index}" for index in range(count)}
        metrics = json.loads((folders[root] / "metrics.json").read_text())
        for name in ("threshold", "explanation/relevance_mass"):
            assert float(rows[root][name]) == pytest.approx(metrics[name], rel=1e-5)
    assert rows["v/1"]["threshold"] != rows["v_1"]["threshold"]
    page = tmp_path / "sweep" / "sweep.html"
    assert f"Page: {page.relative_to(tmp_path)}\n" in process.stdout
    assert "2 jobs: 2 done" in page.read_text().replace("\n", "")

    def times():
        return [(path / "metrics.json").stat().st_mtime_ns for path in folders.values()]

    before = times()
    again, same = sweep()
    assert again.returncode == 0
    assert again.stdout.count("nothing to do") == 2
    assert same == rows

    other, refused = sweep("trainer.max_epochs=2")
    assert other.returncode == 1
    assert "nothing to do" not in other.stdout
    for root, folder in folders.items():
        line = f"error: {folder}: holds a run with other settings, trainer.max_epochs was 1, not 2"
        assert line in other.stderr
        assert refused[root]["status"] == "failed"
        assert not refused[root].get("threshold")

    back, rows_again = sweep("optimized_metric=test/auroc")
    assert back.returncode == 0
    assert [row["status"] for row in rows_again.values()] == ["done", "done"]
    assert [row["threshold"] for row in rows_again.values()] == [
        row["threshold"] for row in rows.values()
    ]
    assert times() == before

    write_scenes(tmp_path / "v" / "1", count=1, seed=7)
    write_scenes(tmp_path / "v_1", count=9, seed=1)
    changed, rows_now = sweep()
    assert changed.returncode == 1
    assert {root: row["status"] for root, row in rows_now.items()} == {
        "v/1": "failed",
        "v_1": "done",
    }
    image = tmp_path / "v" / "1" / "images" / "s0.tif"
    assert f"error: {image}: has changed since the run" in changed.stderr
    assert times() == before
