"""Runs of the entry points, as from a command line, in a temporary folder."""

import logging
import runpy
import sys

import numpy as np
import pytest
import rasterio
import torch

from tests.helpers.checkpoints import saved
from tests.helpers.programs import REPOSITORY, Finished, started
from vbp_lightning import RoadClassifier, RoadTileDataModule
from vbp_lightning.data.synthetic.generator import SyntheticScenes

TINY = (
    *("data.source.scenes=8", "data.source.size=288", "data.tiles_per_epoch=64"),
    *("data.batch_size=16", "threads=1", "trainer.max_epochs=1", "trainer.accelerator=cpu"),
)
"""Overrides for a run that takes seconds."""


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """The folder of the procedural scenes, which all tiny runs share."""
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture
def run(tmp_path):
    """Runs an entry point in a process of its own, in an empty folder."""

    def start(script, *overrides, **environment):
        return started(tmp_path, script, *overrides, **environment).finished()

    return start


@pytest.fixture
def tiny(scenes):
    """Overrides of a tiny run of one epoch without pictures, which take most of its time."""
    pictures = (f"callbacks.{name}=null" for name in ("panels", "scores", "summary"))
    return (*TINY, *pictures, "gallery=false", f"data.root={scenes}")


@pytest.fixture
def with_masks(scenes):
    """Overrides of a tiny run of one epoch with panels and scores of masks."""
    return (*TINY, "callbacks.panels.tiles=4", f"data.root={scenes}")


@pytest.fixture
def image(tmp_path):
    """A scene of noise, three bands of 200 × 200 px."""
    pixels = np.random.default_rng(0).integers(0, 255, (3, 200, 200), dtype=np.uint8)
    path = tmp_path / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=200, height=200, count=3, dtype="uint8"
    ) as raster:
        raster.write(pixels)
    return path


@pytest.fixture
def own_data(scenes, tmp_path):
    """Procedural scenes, set up, and the checkpoint of an untrained network that names them."""
    data = RoadTileDataModule(SyntheticScenes(str(scenes / "benchmark"), scenes=8, size=288))
    data.prepare_data()
    data.setup()
    torch.manual_seed(0)
    model = RoadClassifier(
        "strided", mean=data.mean, std=data.std, data=data.data_config, splits=data.scene_splits
    )
    return data, saved(tmp_path / "own.ckpt", model)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Runs an entry point in an empty folder in this process, which saves seconds of imports."""

    def start(script, *overrides):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(REPOSITORY / script), *overrides])
        capsys.readouterr()
        code, handlers = 0, list(logging.root.handlers)
        threads = torch.get_num_threads()
        try:
            runpy.run_path(str(REPOSITORY / script), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        finally:
            # Hydra's handlers write to this test's output, which is closed after it
            logging.root.handlers[:] = handlers
            torch.set_num_threads(threads)  # other tests compare with results of other processes
        return Finished(code, *capsys.readouterr())

    return start
