"""``task=scene``: georeferenced maps of whole scenes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import Field, StrictBool, StrictInt
from pydantic.dataclasses import dataclass
from pytorch_lightning.utilities import rank_zero_only

from vbp_lightning.cli import quiet_lightning
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.imagery.unlabelled import image_files
from vbp_lightning.errors import UserError, plain
from vbp_lightning.explaining.image_inputs import CutImages
from vbp_lightning.explaining.imagery import warn_of_other_imagery
from vbp_lightning.explaining.scene_extras import (
    write_hardest,
    write_quick_look,
    write_road_areas,
    write_styles,
)
from vbp_lightning.explaining.settings import ExplainSettings
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.explaining.tile_sources import own_data
from vbp_lightning.models import RoadClassifier
from vbp_lightning.records import RECORD, Count, PositiveCount
from vbp_lightning.scene_maps.block_maps import Mapper
from vbp_lightning.scene_maps.mapping import SceneMapping
from vbp_lightning.scene_maps.scene_job import MapSettings, SceneJob, scene_job
from vbp_lightning.scene_maps.seamless import SeamlessMapper
from vbp_lightning.scene_maps.split_network import NotConvolutionalError
from vbp_lightning.scene_maps.tile_errors import scored_tiles
from vbp_lightning.scene_maps.tilewise import TileMapper
from vbp_lightning.scene_maps.views import probabilities_of
from vbp_lightning.settings import TrainerSettings


@dataclass(frozen=True, config=RECORD)
class Options(ExplainSettings):
    """The settings of the task, with their ranges."""

    mode: Literal["seamless", "tiles"]
    stride: Annotated[StrictInt, Field(ge=2, multiple_of=2)]
    blend: Literal["mean", "centre"]
    block: Annotated[StrictInt, Field(ge=8, multiple_of=8)]
    scaling: Literal["percentile", "extremes", "none"]
    overwrite: StrictBool
    quick_look: StrictBool
    roads: StrictBool
    hardest: Count
    threads: PositiveCount | None
    trainer: TrainerSettings


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Writes the maps of all scenes that have none yet.

    Args:
        cfg: The composed config of ``explain.py`` with ``task=scene``.
        subject: A road classifier.

    Yields:
        The files of each scene.

    Raises:
        UserError: A setting is wrong, or, at the end, some of the scenes could not be read.
    """
    classifier = subject.classifier
    if classifier is None or not isinstance(subject.reader, CutImages):
        raise UserError("task=scene needs a road classifier (ckpt=RUN/checkpoints/best.ckpt)")
    if cfg.input is not None and cfg.hardest:
        raise UserError(
            f"hardest={cfg.hardest}: an image has no labels (input): leave input=null, and the "
            "scenes of the run's own split are mapped"
        )
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    mapper = _mapper(cfg, classifier, subject.reader, len(subject.fill))
    seamless = isinstance(mapper, SeamlessMapper)
    mode = "seamless" if seamless else "tiles"
    note = _note(mapper, classifier)
    settings = MapSettings(
        Path(cfg.output),
        subject.reader.reading,
        subject.fill,
        mapper.window,
        mapper.step,
        -(-cfg.block // mapper.step) * mapper.step if seamless else cfg.block,
        cfg.scaling if seamless else "extremes",
        _tags(cfg, subject, classifier, mode, note),
        subject.reader.white_area,
    )
    datamodule = own_data(classifier, cfg.data) if cfg.input is None else None
    jobs, errors = _jobs(_scenes(cfg, settings, datamodule), settings)
    todo = _todo(cfg, jobs)
    if datamodule is None:
        images = [job.image for job in jobs]
        warn_of_other_imagery(images, subject.reader, classifier.hparams["imagery"])
    if todo:
        mapping = SceneMapping(mapper, classifier, todo, cfg.scale == "shared")
        with quiet_lightning():
            trainer = instantiate(cfg.trainer)
            trainer.predict(mapping, return_predictions=False)
        errors += mapping.errors
        if not trainer.is_global_zero:
            return
        print(f"{mapping.speed:.2f} Mpx/s")
    done = [job for job in jobs if job.state() == "done"]
    threshold = float(classifier.threshold)
    title = f"{mode}, VisualBackProp {cfg.upsampling.name}"
    for job in done:
        yield job.probability_path
        yield job.mask_path
        yield from write_styles(job, threshold, is_new=job in todo)
        if cfg.quick_look:
            yield write_quick_look(job, threshold, title, f"Network {note}.")
    if cfg.roads:
        path = settings.output / "roads.geojson"
        errors += write_road_areas(path, done, threshold)
        yield path
    if cfg.hardest and datamodule is not None:
        maps = {job.name: (job.cells, probabilities_of(job.probability_path)) for job in done}
        tiles = scored_tiles(datamodule.tiles_of(cfg.split), maps)
        yield from write_hardest(settings.output, tiles, datamodule, cfg.hardest)
    if errors:
        raise UserError(*errors)


def _mapper(cfg: DictConfig, classifier: RoadClassifier, reader: CutImages, bands: int) -> Mapper:
    """The mapper of the mode; of tiles too if the network cannot run over a whole scene."""
    max_invalid = (classifier.hparams["data"] or {}).get("max_invalid", 0.25)
    shared = {
        "upsampling": cfg.upsampling.name,
        "max_invalid": max_invalid,
        "tta": classifier.hparams["tta"],
        "context": reader.context,
        "window": reader.tile_size,
    }
    if cfg.mode == "seamless":
        try:
            return SeamlessMapper(classifier.network, bands, **shared)
        except NotConvolutionalError as error:
            rank_zero_only(print)(
                f"mode=seamless: {plain(str(error))}; so the map is computed window by window "
                "(mode=tiles)"
            )
    return TileMapper(classifier, cfg.stride, cfg.blend, **shared)


def _tags(
    cfg: DictConfig, subject: Subject, classifier: RoadClassifier, mode: str, note: str
) -> dict[str, str]:
    """The settings that the maps depend on, for the tags of the files."""
    tags = {
        "CHECKPOINT_SHA256": subject.fingerprint,
        "MODE": mode,
        "CONTEXT": note,
        "UPSAMPLING": cfg.upsampling.name,
        "MASK_SCALE": cfg.scale,
        "PRECISION": str(cfg.trainer.precision),
        "THRESHOLD": f"{float(classifier.threshold):.6f}",
    }
    if classifier.hparams["tta"]:
        tags["TTA"] = "true"
    if mode == "tiles":
        tags |= {"STRIDE": str(cfg.stride), "BLEND": cfg.blend}
    return tags


def _note(mapper: Mapper, classifier: RoadClassifier) -> str:
    """The note about the network's padding: whether seamless maps equal those of tiles."""
    if context := classifier.hparams["context"]:
        return (
            f"trained with {context} px of real pixels around each tile: "
            "seamless probabilities are those of its tiles"
        )
    if isinstance(mapper, SeamlessMapper) and mapper.exact:
        return "without padding: seamless probabilities are those of its tiles"
    return (
        "trained on tiles with zero padding around them: "
        "seamless probabilities differ from those of its tiles"
    )


def _scenes(
    cfg: DictConfig, settings: MapSettings, datamodule: RoadTileDataModule | None
) -> list[tuple[str, Path]]:
    """Names and files of the scenes: of the input, or of a split of the run's own data."""
    if datamodule is not None:
        tiles = datamodule.tiles_of(cfg.split)
        numbers = np.unique(tiles.positions[:, 0]).tolist()
        scenes = [tiles.infos[number].scene for number in numbers]
        return [(scene.name.replace("/", "_"), scene.image) for scene in scenes]
    output = settings.output.resolve()
    files = image_files(str(cfg.input))
    return [(path.stem, path) for path in files if output not in path.resolve().parents]


def _jobs(
    scenes: list[tuple[str, Path]], settings: MapSettings
) -> tuple[list[SceneJob], list[str]]:
    """The scenes that can be mapped, and one line for each that cannot."""
    jobs: list[SceneJob] = []
    errors: list[str] = []
    names: dict[str, Path] = {}
    for name, path in scenes:
        if name in names:
            errors.append(
                f"{path}: has the same name as {names[name]}, and so would its maps (input): "
                "map the folders one by one, each to its own output"
            )
            continue
        names[name] = path
        try:
            jobs.append(scene_job(path, settings, name))
        except UserError as error:
            errors += error.lines
    if not jobs:
        raise UserError(*errors or ["input: holds no scene outside of the output (input, output)"])
    return jobs, errors


def _todo(cfg: DictConfig, jobs: list[SceneJob]) -> list[SceneJob]:
    """The scenes whose maps have to be computed."""
    conflicts = [conflict for job in jobs if (conflict := job.conflict())]
    if conflicts and not cfg.overwrite:
        remedy = " (output): give another folder, or overwrite=true"
        raise UserError(*(conflict + remedy for conflict in conflicts))
    states = [job.state() for job in jobs]
    every = cfg.overwrite
    if cfg.scale == "shared":
        # The shared scale changes with an added scene; maps of several runs differ in it.
        every |= set(states) != {"done"} or len({job.limits() for job in jobs}) > 1
    return [job for job, state in zip(jobs, states, strict=True) if every or state != "done"]
