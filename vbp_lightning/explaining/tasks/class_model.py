"""``task=class_model``: an image that maximises the score of a class, or of a unit."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from vbp_lightning.attribution.scores import ScoreModel, class_scores
from vbp_lightning.cli import shown_progress
from vbp_lightning.data.tiles.tile import Label
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.features import features_of
from vbp_lightning.explaining.inspecting import (
    counts_checked,
    has_tiles,
    layer_name,
    setting_errors,
    statistics_of,
)
from vbp_lightning.explaining.outputs import RAW_UNIT, write_arrays, write_picture
from vbp_lightning.explaining.subject import Subject, class_of
from vbp_lightning.explaining.tile_sources import open_tiles
from vbp_lightning.inspection.class_model import Ascent, Standardised, ascend
from vbp_lightning.inspection.layers import UnitScore, resolve_layer
from vbp_lightning.plotting.curves import figure_to_array
from vbp_lightning.plotting.display import standardised_to_rgb
from vbp_lightning.plotting.inspection_figures import Curves, step_curves
from vbp_lightning.plotting.picture_grid import GridRow, below_each_other, picture_grid


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws the image on its way, its score and λ‖I‖², beside the scores of training tiles.

    Args:
        cfg: The composed config of ``explain.py``: ``target``, or ``layer``, ``unit`` and
            ``position``; ``penalty``, ``steps``, ``step``, ``start``, ``jitter``, ``blur``.
        subject: What is looked at.

    Yields:
        ``class_model.png``, ``class_model.npz``.

    Raises:
        UserError: A setting is wrong.
    """
    counts_checked(cfg, "steps")
    statistics = statistics_of(subject)
    model = Standardised(subject.model, statistics.mean, statistics.std)
    start = _start(cfg, subject, model)
    with setting_errors():
        score, name = _score(cfg, subject, model, start)
        ascent = ascend(
            score,
            start,
            shown_progress(range(cfg.steps), "Climbing"),
            cfg.steps,
            cfg.penalty,
            cfg.step,
            cfg.jitter,
            cfg.blur,
            snapshots=cfg.snapshots,
            seed=cfg.seed,
        )
    known = _tile_scores(cfg, subject) if cfg.layer is None else None
    levels = {}
    notes = [
        f"From {cfg.start}; λ = {cfg.penalty:g}; jitter {cfg.jitter} px; blur {cfg.blur:g} px. "
        "I is the difference from the mean in standard deviations of each band.",
        f"Ends with score {ascent.scores[-1]:.4g} and λ‖I‖² {ascent.penalties[-1]:.4g}.",
    ]
    if known is not None:
        levels["99th percentile of the tiles' scores"] = float(np.percentile(known, 99))
        levels["highest of a tile"] = float(known.max())
        of = cfg.tiles_of if cfg.input is None else "given"
        place = float((known < ascent.scores[-1]).mean())
        notes.append(f"Above {place:.2%} of {len(known)} {of} tiles (highest {known.max():.4g}).")
        print(notes[-1])
    curves = [
        Curves("score", {"score": ascent.scores}, levels),
        Curves("λ‖I‖²", {"λ‖I‖²": ascent.penalties}, {}),
        Curves("score − λ‖I‖²", {"both": ascent.scores - ascent.penalties}, {}),
    ]
    figure = figure_to_array(step_curves(curves, f"Gradient ascent on {name}"))
    sheet = picture_grid([_snapshots(model, ascent)], f"An image made for {name}", notes, side=192)
    output = Path(cfg.output)
    yield write_picture(output / "class_model.png", below_each_other([sheet, figure]))
    yield write_arrays(
        output / "class_model.npz",
        cfg,
        {
            "image": RAW_UNIT,
            "image_standardised": "standard deviations of a band",
            "snapshots": "standard deviations of a band",
            **dict.fromkeys(("scores", "penalties", "tile_scores"), "unnormalised score"),
        },
        image=model.raw(ascent.image[None])[0].numpy(),
        image_standardised=ascent.image.numpy(),
        scores=ascent.scores,
        penalties=ascent.penalties,
        snapshots=torch.stack(list(ascent.snapshots.values())).numpy(),
        snapshot_steps=list(ascent.snapshots),
        tile_scores=np.zeros(0) if known is None else known,
    )


def _start(cfg: DictConfig, subject: Subject, model: Standardised) -> Tensor:
    """The first image in standardised units: the mean, zero in raw units, or noise."""
    mean = torch.zeros(1, *subject.input_shape)
    if cfg.start == "mean":
        return mean[0]
    if cfg.start == "zero":
        return model.standardised(mean)[0]
    if cfg.start == "noise":
        generator = torch.Generator().manual_seed(cfg.seed)
        return 0.1 * torch.randn(mean.shape[1:], generator=generator)
    raise UserError(f"start={cfg.start}: choose mean, zero or noise")


def _score(
    cfg: DictConfig, subject: Subject, model: Standardised, start: Tensor
) -> tuple[nn.Module, str]:
    """The score of the class or unit that the config names, and what people call it."""
    target = class_of(cfg.target)
    if cfg.layer is None:
        if target is None and subject.classifier is None:
            raise UserError("target=null: name the class that the image is made for")
        return ScoreModel(model, 1 if target is None else target), subject.class_name(target)
    layer = resolve_layer(subject.model, cfg.layer, model.raw(start[None]))
    position = None if cfg.position is None else (int(cfg.position[0]), int(cfg.position[1]))
    name = f"unit {cfg.unit} of {layer_name(layer)}"
    return UnitScore(model, f"model.{layer}", cfg.unit, position), name


def _tile_scores(cfg: DictConfig, subject: Subject) -> npt.NDArray[np.float32] | None:
    """The class's scores of labelled training tiles, or of the tiles of ``input``, if any."""
    if not has_tiles(cfg, subject):
        return None
    compared = cfg.copy()
    compared.split = cfg.tiles_of
    source = open_tiles(compared, subject)
    store = features_of(cfg, subject, source, cfg.tiles_of)
    scores = class_scores(torch.tensor(np.asarray(store.outputs)), class_of(cfg.target)).numpy()
    labelled = store.labels != Label.IGNORED
    return scores[labelled] if labelled.any() else scores


def _snapshots(model: Standardised, ascent: Ascent) -> GridRow:
    steps = list(ascent.snapshots)
    images = torch.stack(list(ascent.snapshots.values()))
    reach = max(float(np.percentile(np.abs(ascent.image.numpy()), 99.9)), 1e-6)
    pictures = standardised_to_rgb(images, reach)
    captions = [
        f"step {step}\nscore {ascent.scores[step]:.4g}\nλ‖I‖² {ascent.penalties[step]:.4g}"
        for step in steps
    ]
    return GridRow(
        f"on the way; grey is the mean, black and full ±{reach:.2g} standard deviations",
        pictures,
        captions,
    )
