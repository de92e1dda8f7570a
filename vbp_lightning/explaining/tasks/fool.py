"""``task=fool``: images that do not show the class although the network is confident of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from pydantic.dataclasses import dataclass
from torch import Tensor

from vbp_lightning.cli import shown_progress
from vbp_lightning.errors import UserError, plain
from vbp_lightning.explaining.options import option_as_user_error
from vbp_lightning.explaining.outputs import write_results
from vbp_lightning.explaining.settings import ExplainSettings
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.explaining.tile_sources import open_tiles
from vbp_lightning.inspection.class_model import Fooling, LogOdds, Standardised, fool
from vbp_lightning.plotting.curves import figure_to_array
from vbp_lightning.plotting.display import standardised_to_rgb
from vbp_lightning.plotting.inspection_figures import Curves, step_curves
from vbp_lightning.plotting.picture_grid import GridRow, below_each_other, picture_grid
from vbp_lightning.records import RECORD, Count, Number, PositiveCount


@dataclass(frozen=True, config=RECORD)
class Options(ExplainSettings):
    """The settings of the task, with their ranges."""

    probability: Number
    noise: Count
    images: Count
    steps: PositiveCount
    seed: Count


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws noise and tiles while they are changed until the network is confident of the class.

    Args:
        cfg: The composed config of ``explain.py``: ``target``, ``probability``, ``steps``; the
            numbers of images to start from, ``noise`` and ``images``; ``seed``.
        subject: The network.

    Yields:
        ``fool.png``, ``fool.npz``.

    Raises:
        UserError: A setting is wrong.
    """
    target = subject.one_class(cfg.target)
    model = subject.standardised
    odds = LogOdds(model, target)
    with option_as_user_error():
        starts = _noise(cfg, subject) | _tiles(cfg, subject, model, odds)
        if not starts:
            raise UserError("noise=0 and no tile: give one or the other (noise, images, input)")
        paths = {
            start: fool(
                odds,
                image.to(subject.device),
                shown_progress(range(cfg.steps), f"Fooling: {start}"),
                cfg.probability,
            )
            for start, image in starts.items()
        }
    name = subject.class_name(target)
    title = f"Images that the network calls {name} with P ≥ {cfg.probability:g}"
    notes = (
        "Changes are root mean squares over pixels and bands, in standard deviations of a band.",
        "They are small, but not proven to be the smallest.",
    )
    rows = [_row(start, path, name) for start, path in paths.items()]
    root = float(np.sqrt(np.prod(subject.input_shape)))
    curves = [
        Curves(
            f"P({name})",
            {start: path.probabilities for start, path in paths.items()},
            {"requested": cfg.probability},
        ),
        Curves("change", {start: path.distances / root for start, path in paths.items()}, {}),
    ]
    for row in rows:
        print(plain(row.heading))
    sheet = picture_grid(rows, title, notes, columns=9, side=128)
    figure = figure_to_array(step_curves(curves, "During the steps"))
    found = list(paths.values())
    yield from write_results(
        cfg,
        "fool",
        below_each_other([sheet, figure]),
        names=list(paths),
        starts=model.raw(torch.stack([path.start for path in found])).cpu().numpy(),
        images=model.raw(torch.stack([path.image for path in found])).cpu().numpy(),
        changes=[path.change for path in found],
        reached=[path.reached for path in found],
        **{f"probabilities_{i}": path.probabilities for i, path in enumerate(found)},
        **{f"distances_{i}": path.distances for i, path in enumerate(found)},
    )


def _noise(cfg: DictConfig, subject: Subject) -> dict[str, Tensor]:
    """Standardised images of noise by name."""
    generator = torch.Generator().manual_seed(cfg.seed)
    return {
        f"noise {number + 1}": torch.randn(subject.input_shape, generator=generator)
        for number in range(cfg.noise)
    }


def _tiles(
    cfg: DictConfig, subject: Subject, model: Standardised, odds: LogOdds
) -> dict[str, Tensor]:
    """Standardised images of the chosen tiles with the lowest log odds of the class, by name."""
    if cfg.images == 0 or (cfg.input is None and not subject.knows_its_data):
        return {}
    chosen = open_tiles(cfg, subject).choose(cfg.tiles)
    images = model.standardised(chosen.tiles.to(subject.device))
    with torch.no_grad():
        lowest = odds(images).argsort()[: cfg.images].tolist()
    places = [chosen.places[rank] for rank in lowest]
    names = [f"{place.scene} {place.row}, {place.col}" for place in places]
    return {name: images[rank] for name, rank in zip(names, lowest, strict=True)}


def _row(start: str, path: Fooling, name: str) -> GridRow:
    shown = torch.stack([*path.snapshots.values(), path.image]).cpu().numpy()
    change = (path.image - path.start).cpu().numpy()
    largest = max(float(np.abs(change).max()), 1e-12)
    curved = np.sign(change) * np.sqrt(np.abs(change) / largest)
    pictures = [*standardised_to_rgb(shown), *standardised_to_rgb(curved[None], 1.0)]
    captions = [f"step {step}\nP {path.probabilities[step]:.3g}" for step in path.snapshots] + [
        "nearest found" if path.reached else "last image",
        f"√ of its change\nfull: {largest:.2g} std",
    ]
    first, last = path.probabilities[0], path.probabilities[-1]
    outcome = f"{last:.2g}, not reached"
    if path.reached:
        outcome = f"reached by a change of {path.change:.3g} std"
    return GridRow(f"{start}: P({name}) {first:.2g} → {outcome}", pictures, captions)
