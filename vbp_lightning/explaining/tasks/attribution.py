"""``task=attribution``: which pixels matter."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from vbp_lightning.callbacks.mask_panels import tile_caption
from vbp_lightning.explaining.methods import attributions
from vbp_lightning.explaining.outputs import write_arrays
from vbp_lightning.explaining.subject import Subject, class_of
from vbp_lightning.explaining.tile_sources import ChosenTiles, open_tiles
from vbp_lightning.plotting.display import to_rgb
from vbp_lightning.plotting.mask_panel import TileCaption
from vbp_lightning.plotting.method_sheet import method_sheet
from vbp_lightning.plotting.png import write_picture

_ROWS = 16
"""Largest number of tiles on a sheet; further tiles are drawn on further sheets."""


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws tiles by methods and saves the maps.

    Args:
        cfg: The composed config of ``explain.py``.
        subject: The network.

    Yields:
        ``attribution.png``, ``attribution_2.png`` and so on with up to 16 tiles each, then
        ``attribution.npz``, each as it is written.

    Raises:
        UserError: A setting is wrong, or, at the end, some of the images could not be read.
    """
    target = class_of(cfg.target)
    source = open_tiles(cfg, subject)
    chosen = source.choose(cfg.tiles)
    probabilities, outcomes = subject.probabilities(chosen.tiles, target)
    maps = attributions(cfg, subject, chosen, target)
    captions = _captions(subject, chosen, probabilities.tolist(), outcomes)
    title = _title(cfg, subject, list(maps), target)
    output = Path(cfg.output)
    shown = to_rgb(chosen.tiles.numpy())
    for page, start in enumerate(range(0, len(shown), _ROWS), 1):
        rows = slice(start, start + _ROWS)
        sheet = method_sheet(shown, maps, captions, title, cfg.scale, rows)
        name = "attribution.png" if page == 1 else f"attribution_{page}.png"
        yield write_picture(output / name, sheet)
    yield write_arrays(
        output / "attribution.npz",
        cfg,
        **maps,
        methods=list(maps),
        probabilities=probabilities.numpy(),
        tiles=chosen.tiles.numpy(),
        scenes=[tile.scene for tile in chosen.places],
        rows=[tile.row for tile in chosen.places],
        cols=[tile.col for tile in chosen.places],
    )
    source.report()


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


def _title(cfg: DictConfig, subject: Subject, methods: Sequence[str], target: int | None) -> str:
    title = f"Evidence for {subject.class_name(target)}"
    if "visual_backprop" in methods:
        vbp = f"VisualBackProp, {cfg.upsampling.name}"
        if cfg.method.visual_backprop.weighting == "mean":
            vbp += ": where features are active, for any class"
        title = vbp if len(methods) == 1 and vbp.endswith("class") else f"{title}; {vbp}"
    if subject.classifier is not None:
        rule = f"P ≥ {float(subject.classifier.threshold):.2f}".replace(" ", "\N{NO-BREAK SPACE}")
        title += f"; road if {rule}"
    return title
