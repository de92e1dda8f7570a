"""``task=fool``: images that the network is sure of and that show nothing of the kind."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from vbp_lightning.cli import shown_progress
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.inspecting import (
    counts_checked,
    has_tiles,
    setting_errors,
    statistics_of,
)
from vbp_lightning.explaining.outputs import RAW_UNIT, write_arrays, write_picture
from vbp_lightning.explaining.subject import Subject, class_of
from vbp_lightning.explaining.tile_sources import open_tiles
from vbp_lightning.inspection.class_model import Fooling, LogOdds, Standardised, fool
from vbp_lightning.plotting.curves import figure_to_array
from vbp_lightning.plotting.display import standardised_to_rgb
from vbp_lightning.plotting.inspection_figures import Curves, step_curves
from vbp_lightning.plotting.picture_grid import GridRow, below_each_other, picture_grid


@dataclass(frozen=True)
class _Start:
    """An image to set out from, in standardised units."""

    name: str
    image: Tensor


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws noise and tiles on their way to where the network is sure of the class.

    Args:
        cfg: The composed config of ``explain.py``: ``target``, ``probability``, ``noise`` and
            ``images``: how many noise images and tiles; ``steps``.
        subject: What is looked at.

    Yields:
        ``fool.png``, ``fool.npz``.

    Raises:
        UserError: A setting is wrong.
    """
    counts_checked(cfg, "steps")
    target = class_of(cfg.target)
    if target is None:
        if subject.classifier is None:
            raise UserError("target=null: name the class that the network is to be sure of")
        target = 1
    statistics = statistics_of(subject)
    model = Standardised(subject.model, statistics.mean, statistics.std)
    odds = LogOdds(model, target)
    with setting_errors():
        starts = [*_noise(cfg, subject), *_tiles(cfg, subject, model, odds)]
    if not starts:
        raise UserError("noise=0 and no tile: give one or the other (noise, images, input)")
    with setting_errors():
        ways = [
            fool(
                odds,
                start.image,
                shown_progress(range(cfg.steps), f"Fooling: {start.name}"),
                cfg.probability,
            )
            for start in starts
        ]
    name = subject.class_name(target)
    title = f"Images that the network calls {name} with P ≥ {cfg.probability:g}"
    notes = (
        "Changes are root mean squares over pixels and bands, in standard deviations of a band.",
        "Small changes that were found, not proven to be the smallest.",
    )
    rows = [_row(start, way, name) for start, way in zip(starts, ways, strict=True)]
    named = {start.name: way for start, way in zip(starts, ways, strict=True)}
    root = float(np.sqrt(starts[0].image.numel()))
    curves = [
        Curves(
            f"P({name})",
            {key: way.probabilities for key, way in named.items()},
            {"asked for": cfg.probability},
        ),
        Curves("change", {key: way.distances / root for key, way in named.items()}, {}),
    ]
    for start, way in zip(starts, ways, strict=True):
        print(f"{start.name}: {_outcome(way, name)}")
    sheet = picture_grid(rows, title, notes, columns=9, side=128)
    figure = figure_to_array(step_curves(curves, "On the way"))
    output = Path(cfg.output)
    yield write_picture(output / "fool.png", below_each_other([sheet, figure]))
    yield write_arrays(
        output / "fool.npz",
        cfg,
        {
            "starts": RAW_UNIT,
            "images": RAW_UNIT,
            "changes": "standard deviations of a band, root mean square",
            "distances": "standard deviations of a band, Euclidean, of distances_0 and on",
        },
        names=[start.name for start in starts],
        starts=model.raw(torch.stack([way.start for way in ways])).numpy(),
        images=model.raw(torch.stack([way.image for way in ways])).numpy(),
        changes=[way.change for way in ways],
        reached=[way.reached for way in ways],
        **{f"probabilities_{i}": way.probabilities for i, way in enumerate(ways)},
        **{f"distances_{i}": way.distances for i, way in enumerate(ways)},
    )


def _noise(cfg: DictConfig, subject: Subject) -> list[_Start]:
    generator = torch.Generator().manual_seed(cfg.seed)
    return [
        _Start(f"noise {number + 1}", torch.randn(subject.input_shape, generator=generator))
        for number in range(cfg.noise)
    ]


def _tiles(cfg: DictConfig, subject: Subject, model: Standardised, odds: LogOdds) -> list[_Start]:
    """Chosen tiles of which the network is surest that they are something else."""
    if cfg.images == 0 or not has_tiles(cfg, subject):
        return []
    source = open_tiles(cfg, subject)
    chosen = source.choose(cfg.tiles)
    images = model.standardised(chosen.tiles)
    with torch.no_grad():
        surest = odds(images).argsort()[: cfg.images].tolist()
    return [
        _Start(
            f"{chosen.places[i].scene} {chosen.places[i].row}, {chosen.places[i].col}", images[i]
        )
        for i in surest
    ]


def _outcome(way: Fooling, name: str) -> str:
    if not way.reached:
        return f"P({name}) {way.probabilities[0]:.2g} → {way.probabilities[-1]:.2g}, not reached"
    return f"P({name}) {way.probabilities[0]:.2g} → reached by a change of {way.change:.3g} std"


def _row(start: _Start, way: Fooling, name: str) -> GridRow:
    steps = list(way.snapshots)
    path = standardised_to_rgb(torch.stack([*way.snapshots.values(), way.image]))
    change = (way.image - way.start).numpy()
    largest = max(float(np.abs(change).max()), 1e-12)
    curved = torch.from_numpy(np.sign(change) * np.sqrt(np.abs(change) / largest))
    (difference,) = standardised_to_rgb(curved[None], 1.0)
    captions = [f"step {step}\nP {way.probabilities[step]:.3g}" for step in steps] + [
        "nearest found" if way.reached else "the last",
        f"√ of its change\nfull: {largest:.2g} std",
    ]
    return GridRow(f"{start.name}: {_outcome(way, name)}", [*path, difference], captions)
