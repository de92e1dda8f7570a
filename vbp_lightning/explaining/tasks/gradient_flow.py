"""``task=gradient_flow``: size and distribution of the gradient at every layer."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from vbp_lightning.cli import shown_progress
from vbp_lightning.explaining.inspecting import layer_name, setting_errors
from vbp_lightning.explaining.outputs import write_arrays, write_picture
from vbp_lightning.explaining.subject import Subject, class_of
from vbp_lightning.explaining.tile_sources import open_tiles
from vbp_lightning.inspection.layer_gradients import (
    BIN_EDGES,
    RULE,
    LayerGradient,
    gradient_flow,
    verdicts,
)
from vbp_lightning.plotting.curves import figure_to_array
from vbp_lightning.plotting.inspection_figures import GradientBar, gradient_figure

_BATCH = 16
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws the gradient of the chosen tiles' scores by depth, dead and exploding layers named.

    Args:
        cfg: The composed config of ``explain.py``: ``tiles`` is how many images are looked at.
        subject: What is looked at.

    Yields:
        ``gradient_flow.png``, ``gradient_flow.npz``.

    Raises:
        UserError: A setting is wrong.
    """
    target = class_of(cfg.target)
    source = open_tiles(cfg, subject)
    chosen = source.choose(cfg.tiles)
    batches = torch.split(chosen.tiles, _BATCH)
    with setting_errors():
        flow = gradient_flow(subject.model, shown_progress(batches, "Going back"), target)
    flow = {layer_name(name): gradient for name, gradient in flow.items()}
    found = verdicts({name: float(gradient.norms.mean()) for name, gradient in flow.items()})
    for name, verdict in found.items():
        print(f"{name}: {verdict}")
    bars = {name: _bar(gradient, found.get(name, "")) for name, gradient in flow.items()}
    title = (
        f"Gradient of the score of {subject.class_name(target)} at every layer's output, "
        f"{len(chosen.tiles)} tiles"
    )
    named = ", ".join(f"{name} {verdict}" for name, verdict in found.items())
    title += f"\ndead, exploding or vanishing: {named or 'none'}"
    output = Path(cfg.output)
    picture = figure_to_array(gradient_figure(bars, title, RULE))
    yield write_picture(output / "gradient_flow.png", picture)
    yield write_arrays(
        output / "gradient_flow.npz",
        cfg,
        {"norms": "score per unit of activation", "histogram_edges_log10": "decades of the same"},
        layers=list(flow),
        norms=[gradient.norms for gradient in flow.values()],
        zero_shares=[gradient.zero_share for gradient in flow.values()],
        dead_channels=[gradient.dead_channels for gradient in flow.values()],
        channels=[gradient.channels for gradient in flow.values()],
        histograms=[gradient.histogram for gradient in flow.values()],
        histogram_edges_log10=BIN_EDGES,
        verdicts=[found.get(name, "") for name in flow],
    )
    source.report()


def _bar(gradient: LayerGradient, verdict: str) -> GradientBar:
    return GradientBar(
        np.array([gradient.quantile(share) for share in _QUANTILES]),
        float(gradient.norms.mean()),
        gradient.zero_share,
        f"{gradient.dead_channels}/{gradient.channels}",
        verdict,
    )
