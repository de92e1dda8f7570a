"""``task=scene``: georeferenced maps of whole scenes."""

from collections.abc import Iterator
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from vbp_lightning.data import CutImages, image_files
from vbp_lightning.errors import UserError
from vbp_lightning.models import RoadClassifier
from vbp_lightning.models.networks import TOTAL_STRIDE
from vbp_lightning.plotting import to_rgb
from vbp_lightning.plotting.quick_look import quick_look
from vbp_lightning.runs.arrays import write_picture
from vbp_lightning.runs.subject import Subject
from vbp_lightning.scene_maps.maps import Mapper
from vbp_lightning.scene_maps.prediction import SceneMapping
from vbp_lightning.scene_maps.scenes import MapSettings, SceneJob, scene_job
from vbp_lightning.scene_maps.seamless import SeamlessMapper
from vbp_lightning.scene_maps.tilewise import TileMapper
from vbp_lightning.scene_maps.views import (
    probabilities_of,
    reduced_image,
    reduced_mask,
    reduction,
)

_LONGEST = 1200
"""Pixels, the longer side of a scene in its quick-look."""


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Writes the maps of all scenes that are not done yet.

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
    _refuse_wrong_settings(cfg)
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    mapper = _mapper(cfg, classifier)
    settings = MapSettings(
        Path(cfg.output),
        subject.reader.reading,
        subject.fill,
        mapper.window,
        mapper.step,
        cfg.block,
        cfg.scaling if cfg.mode == "seamless" else "extremes",
        _tags(cfg, subject, classifier),
    )
    jobs, faults = _jobs(cfg, settings)
    todo = _todo(cfg, jobs)
    if todo:
        settings.output.mkdir(parents=True, exist_ok=True)
        trainer = instantiate(cfg.trainer)
        mapping = SceneMapping(mapper, classifier, todo, cfg.scale == "shared")
        trainer.predict(mapping, return_predictions=False)
        faults += mapping.faults
        if not trainer.is_global_zero:
            return
        print(f"{mapping.speed:.2f} Mpx/s")
    for job in jobs:
        if job.state() != "done":
            continue
        yield job.probability_path
        yield job.mask_path
        if cfg.quick_look:
            yield _draw(cfg, job, classifier)
    if faults:
        raise UserError(*faults)


def _refuse_wrong_settings(cfg: DictConfig) -> None:
    choices = {
        "mode": ("seamless", "tiles"),
        "blend": ("mean", "max", "centre"),
        "scaling": ("percentile", "extremes", "none"),
        "scale": ("each", "shared"),
    }
    lines = [
        f"{key}={cfg[key]}: choose {', '.join(known)}"
        for key, known in choices.items()
        if cfg[key] not in known
    ]
    for key, unit in (("block", TOTAL_STRIDE), ("stride", 2)):
        value = cfg[key]
        if not isinstance(value, int) or value < 1 or value % unit:
            lines.append(f"{key}={value}: give a multiple of {unit} px")
    if cfg.input is None:
        lines.append("input is not given: name a scene or a folder of scenes (input=…)")
    if lines:
        raise UserError(*lines)


def _mapper(cfg: DictConfig, classifier: RoadClassifier) -> Mapper:
    data = classifier.hparams["data"] or {}
    max_invalid = data.get("max_invalid", 0.25)
    if cfg.mode == "seamless":
        return SeamlessMapper(classifier.network, cfg.upsampling.name, max_invalid)
    return TileMapper(
        classifier,
        cfg.stride,
        cfg.blend,
        data.get("tile_size", 96),
        classifier.hparams["context"],
        upsampling=cfg.upsampling.name,
        max_invalid=max_invalid,
    )


def _tags(cfg: DictConfig, subject: Subject, classifier: RoadClassifier) -> dict[str, str]:
    """What the maps depend on."""
    tags = {
        "CHECKPOINT_SHA256": subject.fingerprint,
        "MODE": cfg.mode,
        "CONTEXT": context_note(classifier.hparams["context"]),
        "UPSAMPLING": cfg.upsampling.name,
        "THRESHOLD": f"{float(classifier.threshold):.6f}",
    }
    if cfg.mode == "tiles":
        tags |= {"STRIDE": str(cfg.stride), "BLEND": cfg.blend}
    return tags


def context_note(context: int) -> str:
    """What a map must say of its network: whether tiles and seamless maps mean the same to it."""
    if context:
        return (
            f"trained with {context} px of real pixels around each tile: "
            "seamless probabilities are those of its tiles"
        )
    return (
        "trained on tiles with zero padding around them: "
        "seamless probabilities differ from those of its tiles"
    )


def _jobs(cfg: DictConfig, settings: MapSettings) -> tuple[list[SceneJob], list[str]]:
    """The scenes of the input, and one line for each that cannot be used."""
    output = settings.output.resolve()
    files = [path for path in image_files(Path(cfg.input)) if output not in path.resolve().parents]
    jobs: list[SceneJob] = []
    faults: list[str] = []
    names: dict[str, Path] = {}
    for path in files:
        if path.stem in names:
            faults.append(
                f"{path}: has the name of {names[path.stem]}, and so would its maps (input): "
                "map the folders one by one, each to an output of its own"
            )
            continue
        names[path.stem] = path
        try:
            jobs.append(scene_job(path, settings))
        except UserError as error:
            faults += error.lines
    if not jobs:
        raise UserError(*faults or [f"{cfg.input}: holds no scene outside of {output} (input)"])
    return jobs, faults


def _todo(cfg: DictConfig, jobs: list[SceneJob]) -> list[SceneJob]:
    """The scenes whose maps are to be made."""
    states = [job.state() for job in jobs]
    others = [job for job, state in zip(jobs, states, strict=True) if state == "other"]
    if others and not cfg.overwrite:
        raise UserError(
            f"{others[0].probability_path}: is there already and comes from another checkpoint or"
            " other settings (output): give another folder, or overwrite=true"
        )
    all_anew = cfg.overwrite or (cfg.scale == "shared" and set(states) != {"done"})
    return [job for job, state in zip(jobs, states, strict=True) if all_anew or state != "done"]


def _draw(cfg: DictConfig, job: SceneJob, classifier: RoadClassifier) -> Path:
    """The quick-look of a scene whose maps are there."""
    factor = reduction(job.grid.shape, _LONGEST)
    image = to_rgb(reduced_image(job, factor)[None])[0]
    cells, (rows, cols) = job.cells, job.cells.cells
    start = cells.first - cells.step / 2
    picture = quick_look(
        image,
        job.grid.shape,
        probabilities_of(job.probability_path),
        (start, start + cols * cells.step, start + rows * cells.step, start),
        reduced_mask(job.mask_path, image.shape[:2]),
        float(classifier.threshold),
        f"{job.name}: {cfg.mode}, VisualBackProp {cfg.upsampling.name}",
        f"Network {context_note(classifier.hparams['context'])}.",
    )
    return write_picture(job.settings.output / f"{job.name}_quick_look.png", picture)
