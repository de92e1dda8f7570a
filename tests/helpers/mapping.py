"""A small classifier, scenes as files, and maps of the scenes by the classifier."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import rasterio
import torch

from tests.helpers.nets import with_statistics
from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.models import RoadClassifier
from vbp_lightning.scene_maps.mapping import SceneMapping
from vbp_lightning.scene_maps.scene_job import MapSettings, scene_job
from vbp_lightning.scene_maps.seamless import SeamlessMapper
from vbp_lightning.scene_maps.tilewise import TileMapper


def noise(shape, bands=3, dtype=np.uint8, seed=0, top=200):
    """An image (bands, h, w) of random values from 1 to ``top`` - 1."""
    return np.random.default_rng(seed).integers(1, top, (bands, *shape)).astype(dtype)


def write_scene(path: Path, image: np.ndarray, **profile: object) -> Path:
    """Writes (bands, h, w) as a GeoTIFF with the given profile; returns the path."""
    profile = {"driver": "GTiff", "dtype": image.dtype, "count": len(image)} | profile
    height, width = image.shape[1:]
    with rasterio.open(path, "w", height=height, width=width, **profile) as raster:
        raster.write(image)
    return path


def classifier(bands: int = 3, context: int = 0, architecture: str = "strided") -> RoadClassifier:
    """A classifier in eval mode whose batch norms are no identity."""
    torch.manual_seed(0)
    model = RoadClassifier(architecture, mean=[100.0] * bands, std=[50.0] * bands, context=context)
    return with_statistics(model)


def trainer(**options: object) -> pl.Trainer:
    """A trainer on the CPU without files and progress bars."""
    return pl.Trainer(
        accelerator="cpu",
        **{
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
        }
        | options,
    )


def make_maps(paths, output, model, *, mode="seamless", block=128, scaling="percentile", **options):
    """Maps scenes with a trainer and returns the jobs; errors are appended to ``errors``."""
    errors = options.pop("errors", None)
    shared, white_area = options.pop("shared", False), options.pop("white_area", 0)
    if mode == "seamless":
        mapper = SeamlessMapper(
            model.network, len(model.hparams["mean"]), context=model.hparams["context"], **options
        )
    else:
        mapper = TileMapper(model, **options)
    output.mkdir(exist_ok=True)
    settings = MapSettings(
        output,
        Reading(),
        tuple(model.hparams["mean"]),
        mapper.window,
        mapper.step,
        block,
        scaling,
        {"CHECKPOINT_SHA256": "abc", "MODE": mode},
        white_area,
    )
    jobs = [scene_job(path, settings) for path in paths]
    mapping = SceneMapping(mapper, model, jobs, shared)
    trainer().predict(mapping, return_predictions=False)
    if errors is None:
        assert not mapping.errors
    else:
        errors += mapping.errors
    return jobs
