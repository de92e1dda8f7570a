"""``task=attribution``: which pixels matter."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig

from vbp_lightning.callbacks.mask_panels import tile_caption
from vbp_lightning.explaining.inspecting import scale_checked
from vbp_lightning.explaining.methods import attributions
from vbp_lightning.explaining.outputs import RAW_UNIT, write_arrays, write_picture
from vbp_lightning.explaining.subject import Subject, class_of
from vbp_lightning.explaining.tile_sources import ChosenTiles, open_tiles
from vbp_lightning.plotting.display import to_rgb
from vbp_lightning.plotting.mask_panel import TileCaption
from vbp_lightning.plotting.method_sheet import method_sheet

_ROWS = 16
"""Tiles on a sheet: more go to sheets of their own."""


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws tiles by methods, and keeps the maps.

    Args:
        cfg: The composed config of ``explain.py``.
        subject: What is explained.

    Yields:
        The files, as they are written: ``attribution.png`` and on, ``attribution.npz``.

    Raises:
        UserError: A setting is wrong, or, at the end, some of the images could not be read.
    """
    scale_checked(cfg)
    target = class_of(cfg.target)
    source = open_tiles(cfg, subject)
    chosen = source.choose(cfg.tiles)
    probabilities, outcomes = subject.probabilities(chosen.tiles, target)
    maps = attributions(cfg, subject.model, chosen.tiles, target)
    captions = _captions(subject, chosen, probabilities.tolist(), outcomes)
    output = Path(cfg.output)
    yield from _draw(cfg, output, _title(cfg, subject, maps, target), chosen, maps, captions)
    yield write_arrays(
        output / "attribution.npz",
        cfg,
        {name: _unit(cfg, name) for name in maps}
        | {"tiles": RAW_UNIT, "probabilities": "1", "rows": "px", "cols": "px"},
        **maps,
        methods=list(maps),
        probabilities=probabilities.numpy(),
        tiles=chosen.tiles.numpy(),
        scenes=[tile.scene for tile in chosen.places],
        rows=[tile.row for tile in chosen.places],
        cols=[tile.col for tile in chosen.places],
    )
    source.report()


_UNITS = {
    "visual_backprop": "1, stretched to [0, 1]",
    "symmetric_visual_backprop": "1, stretched to [0, 1]",
    "cam": "unnormalised score; their mean is the score less the bias",
    "grad_cam": "activation times score per activation",
    "integrated_gradients": "unnormalised score",
    "lrp": "unnormalised score",
}


def _unit(cfg: DictConfig, method: str) -> str:
    """What a method's maps are counted in."""
    if method == "occlusion":
        return "unnormalised score" if cfg.methods.occlusion.output == "drop" else "probability"
    return _UNITS.get(method, "unnormalised score per unit of a pixel")


def _draw(
    cfg: DictConfig,
    output: Path,
    title: str,
    chosen: ChosenTiles,
    maps: Mapping[str, npt.NDArray[np.float32]],
    captions: Sequence[TileCaption],
) -> Iterator[Path]:
    """The sheets, up to sixteen tiles on each; scales are those of all tiles."""
    shown = to_rgb(chosen.tiles.numpy())
    for page, start in enumerate(range(0, len(shown), _ROWS), 1):
        rows = slice(start, start + _ROWS)
        sheet = method_sheet(shown, maps, captions, title, cfg.scale, rows)
        name = "attribution.png" if page == 1 else f"attribution_{page}.png"
        yield write_picture(output / name, sheet)


def _captions(
    subject: Subject,
    chosen: ChosenTiles,
    probabilities: Sequence[float],
    outcomes: Sequence[str],
) -> list[TileCaption]:
    if chosen.known and subject.classifier is not None:
        threshold = float(subject.classifier.threshold)
        return [
            tile_caption(tile, probability, threshold)
            for tile, probability in zip(chosen.known, probabilities, strict=True)
        ]
    several = len({place.scene for place in chosen.places}) > 1
    return [
        TileCaption(
            place.scene if several else f"row {place.row}, column {place.col}",
            probability,
            wrong=False,
            outcome=outcome,
        )
        for place, probability, outcome in zip(chosen.places, probabilities, outcomes, strict=True)
    ]


def _title(
    cfg: DictConfig,
    subject: Subject,
    maps: Mapping[str, npt.NDArray[np.float32]],
    target: int | None,
) -> str:
    title = f"What speaks for {subject.class_name(target)}"
    if "visual_backprop" in maps:
        vbp = f"VisualBackProp, {cfg.upsampling.name}"
        if cfg.methods.visual_backprop.weighting == "mean":
            vbp += ": where features fire, for any class"
        title = vbp if len(maps) == 1 and vbp.endswith("class") else f"{title}; {vbp}"
    if subject.classifier is not None:
        rule = f"P ≥ {float(subject.classifier.threshold):.2f}".replace(" ", "\N{NO-BREAK SPACE}")
        title += f"; road if {rule}"
    return title
