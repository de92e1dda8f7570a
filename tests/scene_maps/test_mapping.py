"""Blocks distributed among two processes (gloo), compared with one process."""

import textwrap

import numpy as np
import pytest
import rasterio
import torch

from tests.helpers.mapping import classifier, make_maps, noise, trainer, write_scene
from tests.helpers.programs import REPOSITORY, started
from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.scene_maps.mapping import SceneMapping
from vbp_lightning.scene_maps.scene_job import MapSettings, SceneJob, scene_job
from vbp_lightning.scene_maps.seamless import SeamlessMapper

_SCRIPT = """
import sys, torch
from pathlib import Path
from pytorch_lightning.strategies import DDPStrategy
from tests.helpers.mapping import classifier, make_maps, trainer
from tests.helpers import mapping
from vbp_lightning.scene_maps.scene_job import SceneJob

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    compute = SceneJob.compute
    def noted(self, mapper, block):
        with open(folder / "computed.txt", "a") as log:
            rank = torch.distributed.get_rank()
            log.write(f"{rank} {self.name} {block.row} {block.col}\\n")
        compute(self, mapper, block)
    SceneJob.compute = noted
    strategy = DDPStrategy(process_group_backend="gloo")
    mapping.trainer = lambda: trainer(devices=2, strategy=strategy)
    errors = []
    paths = [folder / f"{name}.tif" for name in "abc"]
    make_maps(paths, folder / "out_2", classifier(), errors=errors)
    (folder / "errors.txt").write_text("\\n".join(errors))
"""


def test_two_processes_write_what_one_does_and_compute_no_block_twice(tmp_path, monkeypatch):
    """Both report the scene that cannot be read, whose only block the second process gets."""
    for name, shape in (("a", (300, 260)), ("b", (128, 400)), ("c", (128, 128))):
        write_scene(tmp_path / f"{name}.tif", noise(shape, seed=ord(name)), compress="deflate")
    damaged = tmp_path / "c.tif"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(_SCRIPT))
    ended = started(tmp_path, script, str(tmp_path), PYTHONPATH=str(REPOSITORY)).finished()
    assert ended.returncode == 0, ended.stderr
    done = [line.split() for line in (tmp_path / "computed.txt").read_text().splitlines()]
    blocks = [tuple(line[1:]) for line in done]
    assert {line[0] for line in done} == {"0", "1"}
    assert len(blocks) == len(set(blocks)) == 3 * 3 + 4 + 1

    alone, errors = [], []
    compute = SceneJob.compute

    def noted(job, mapper, block):
        alone.append((job.name, str(block.row), str(block.col)))
        compute(job, mapper, block)

    monkeypatch.setattr(SceneJob, "compute", noted)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        paths = [tmp_path / f"{name}.tif" for name in "abc"]
        make_maps(paths, tmp_path / "out_1", classifier(), errors=errors)
    finally:
        torch.set_num_threads(threads)
    assert sorted(alone) == sorted(blocks)
    assert (tmp_path / "errors.txt").read_text().splitlines() == errors
    assert errors[0].startswith(f"{damaged}: cannot be read")
    names = sorted(path.name for path in (tmp_path / "out_1").glob("*.tif"))
    assert len(names) == 4
    for name in names:
        one, two = (tmp_path / f"out_{count}" / name for count in (1, 2))
        assert one.read_bytes() == two.read_bytes()


def test_a_scene_that_cannot_be_read_to_its_end_does_not_stop_the_others(tmp_path):
    paths = [
        write_scene(tmp_path / f"{name}.tif", noise((256, 256), seed=1), compress="deflate")
        for name in "ab"
    ]
    model = classifier()
    mapper = SeamlessMapper(model.network, 3)
    (tmp_path / "out").mkdir()
    settings = MapSettings(
        tmp_path / "out", Reading(), (100.0,) * 3, 96, 8, 128, "extremes", {"MODE": "seamless"}
    )
    jobs = [scene_job(path, settings) for path in paths]
    content = paths[0].read_bytes()
    paths[0].write_bytes(content[: len(content) // 2])
    mapping = SceneMapping(mapper, model, jobs, shared_scale=False)
    trainer().predict(mapping, return_predictions=False)
    assert [job.state() for job in jobs] == ["none", "done"]
    assert any("a.tif: cannot be read" in line for line in mapping.errors)


@pytest.mark.parametrize("mode", ["seamless", "tiles"])
def test_the_block_size_leaves_the_files_as_they_are(tmp_path, mode):
    """Up to rounding."""
    path = write_scene(tmp_path / "a.tif", noise((300, 260), seed=3))
    options = {"stride": 32, "batch": 1} if mode == "tiles" else {}
    found = []
    for block in (64, 512):
        (job,) = make_maps(
            [path], tmp_path / str(block), classifier(), mode=mode, block=block, **options
        )
        with rasterio.open(job.probability_path) as raster:
            found.append(raster.read(1))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
