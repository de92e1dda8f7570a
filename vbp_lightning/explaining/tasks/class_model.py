"""``task=class_model``: an image that maximises the score of a class or of a unit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import DictConfig
from pydantic import StrictStr
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from vbp_lightning.attribution.scores import class_scores
from vbp_lightning.cli import shown_progress
from vbp_lightning.data.datasets.scene import Split
from vbp_lightning.data.tiles.tile import Label
from vbp_lightning.explaining.options import option_as_user_error
from vbp_lightning.explaining.outputs import write_results
from vbp_lightning.explaining.settings import ExplainSettings
from vbp_lightning.explaining.subject import Subject, class_of, layer_name
from vbp_lightning.explaining.tile_sources import compared_tiles, in_batches, open_tiles
from vbp_lightning.inspection.class_model import Ascent, ScoreModel, Standardised, ascend
from vbp_lightning.inspection.layers import UnitScore, resolve_layer
from vbp_lightning.plotting.curves import figure_to_array
from vbp_lightning.plotting.display import standardised_to_rgb
from vbp_lightning.plotting.inspection_figures import Curves, step_curves
from vbp_lightning.plotting.picture_grid import GridRow, below_each_other, picture_grid
from vbp_lightning.records import RECORD, Count, PositiveCount, Size


@dataclass(frozen=True, config=RECORD)
class Options(ExplainSettings):
    """The settings of the task, with their ranges."""

    layer: StrictStr | None
    unit: Count
    position: tuple[Count, Count] | None
    start: Literal["mean", "zero", "noise"]
    penalty: Size
    steps: PositiveCount
    step: Size
    jitter: Count
    blur: Size
    snapshots: PositiveCount
    seed: Count
    tiles_of: Split


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws the image during gradient ascent, and its score and λ‖I‖² with the scores of tiles.

    Args:
        cfg: The composed config of ``explain.py``: ``target``, or ``layer``, ``unit`` and
            ``position``; ``penalty``, ``steps``, ``step``, ``start``, ``jitter``, ``blur``,
            ``snapshots``, ``seed``; ``tiles_of``.
        subject: The network.

    Yields:
        ``class_model.png``, ``class_model.npz``.

    Raises:
        UserError: A setting is wrong.
    """
    model = subject.standardised
    start = _start(cfg, subject, model)
    with option_as_user_error():
        score, name = _score(cfg, subject, model, start)
        ascent = ascend(
            score,
            start,
            shown_progress(range(cfg.steps), "Gradient ascent"),
            cfg.steps,
            cfg.penalty,
            cfg.step,
            cfg.jitter,
            cfg.blur,
            snapshots=cfg.snapshots,
            seed=cfg.seed,
        )
    known = _tile_scores(cfg, subject) if cfg.layer is None else np.zeros(0, np.float32)
    levels = {}
    notes = [
        f"Start: {cfg.start}; λ = {cfg.penalty:g}; jitter {cfg.jitter} px; blur {cfg.blur:g} px. "
        "I is the difference from the mean in standard deviations of each band.",
        f"Final score {ascent.scores[-1]:.4g}, λ‖I‖² {ascent.penalties[-1]:.4g}.",
    ]
    if len(known):
        levels["99th percentile of the tiles' scores"] = float(np.percentile(known, 99))
        levels["highest score of a tile"] = float(known.max())
        of = cfg.tiles_of if cfg.input is None else "given"
        share = float((known < ascent.scores[-1]).mean())
        notes.append(
            f"The final score is above {share:.2%} of {len(known)} {of} tiles "
            f"(highest {known.max():.4g})."
        )
        print(notes[-1])
    curves = [
        Curves("score", {"score": ascent.scores}, levels),
        Curves("λ‖I‖²", {"λ‖I‖²": ascent.penalties}, {}),
        Curves("score − λ‖I‖²", {"both": ascent.scores - ascent.penalties}, {}),
    ]
    figure = figure_to_array(step_curves(curves, f"Gradient ascent on {name}"))
    sheet = picture_grid([_snapshots(ascent)], f"An image that maximises {name}", notes, side=192)
    yield from write_results(
        cfg,
        "class_model",
        below_each_other([sheet, figure]),
        image=model.raw(ascent.image[None])[0].cpu().numpy(),
        image_standardised=ascent.image.cpu().numpy(),
        scores=ascent.scores,
        penalties=ascent.penalties,
        snapshots=torch.stack(list(ascent.snapshots.values())).cpu().numpy(),
        snapshot_steps=list(ascent.snapshots),
        tile_scores=known,
    )


def _start(cfg: DictConfig, subject: Subject, model: Standardised) -> Tensor:
    """The first image in standardised units: the mean, zero in raw units, or noise."""
    mean = torch.zeros(subject.input_shape, device=subject.device)
    if cfg.start == "mean":
        return mean
    if cfg.start == "zero":
        return model.standardised(mean[None])[0]
    generator = torch.Generator().manual_seed(cfg.seed)
    return 0.1 * torch.randn(mean.shape, generator=generator).to(mean)


def _score(
    cfg: DictConfig, subject: Subject, model: Standardised, start: Tensor
) -> tuple[nn.Module, str]:
    """The score of the class or unit that the config names, and its name for titles."""
    if cfg.layer is None:
        target = subject.one_class(cfg.target)
        return ScoreModel(model, target), f"the score of {subject.class_name(target)}"
    layer = resolve_layer(subject.model, cfg.layer, model.raw(start[None]))
    position = None if cfg.position is None else (cfg.position[0], cfg.position[1])
    name = f"unit {cfg.unit} of {layer_name(layer)}"
    return UnitScore(model, f"model.{layer}", cfg.unit, position), name


def _tile_scores(cfg: DictConfig, subject: Subject) -> npt.NDArray[np.float32]:
    """Scores of the class for labelled tiles of ``tiles_of`` or all tiles of ``input``."""
    if cfg.input is None and not subject.knows_its_data:
        return np.zeros(0, np.float32)
    source = open_tiles(cfg, subject, cfg.tiles_of)
    labelled = [number for number, tile in enumerate(source.known) if tile.label != Label.IGNORED]
    numbers = compared_tiles(labelled or range(len(source.places)))
    batches = in_batches(source, numbers, "Computing scores")
    outputs = torch.cat([subject.scores(batch) for batch in batches])
    return np.asarray(class_scores(outputs, class_of(cfg.target)).numpy())


def _snapshots(ascent: Ascent) -> GridRow:
    steps = list(ascent.snapshots)
    images = torch.stack(list(ascent.snapshots.values())).cpu().numpy()
    reach = max(float(np.percentile(np.abs(images[-1]), 99.9)), 1e-6)
    captions = [
        f"step {step}\nscore {ascent.scores[step]:.4g}\nλ‖I‖² {ascent.penalties[step]:.4g}"
        for step in steps
    ]
    return GridRow(
        f"during the ascent; grey is the mean, black and full ±{reach:.2g} standard deviations",
        list(standardised_to_rgb(images, reach)),
        captions,
    )
