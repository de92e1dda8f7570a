"""``task=gradient_flow``: size and distribution of the gradient of the score at every layer."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from vbp_lightning.cli import shown_progress
from vbp_lightning.errors import plain
from vbp_lightning.explaining.options import option_as_user_error
from vbp_lightning.explaining.outputs import write_results
from vbp_lightning.explaining.subject import Subject, class_of, layer_name
from vbp_lightning.explaining.tile_sources import open_tiles
from vbp_lightning.inspection.layer_gradients import BIN_EDGES, RULE, diagnoses, layer_gradients
from vbp_lightning.plotting.curves import figure_to_array
from vbp_lightning.plotting.inspection_figures import GradientBar, gradient_figure

_BATCH = 16
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws the gradient of the score by depth and names dead, exploding and vanishing layers.

    It is the gradient at the outputs of the layers of a trained network. The callback
    :class:`~vbp_lightning.callbacks.gradient_monitor.GradientFlow` logs the gradient of the loss
    at the parameters during training.

    Args:
        cfg: The composed config of ``explain.py``: ``tiles`` images and the class ``target``.
        subject: The network.

    Yields:
        ``gradient_flow.png``, ``gradient_flow.npz``.

    Raises:
        UserError: A setting is wrong.
    """
    target = class_of(cfg.target)
    source = open_tiles(cfg, subject)
    chosen = source.choose(cfg.tiles)
    batches = torch.split(chosen.tiles.to(subject.device), _BATCH)
    with option_as_user_error():
        shown = shown_progress(batches, "Computing gradients")
        found = layer_gradients(subject.model, shown, target)
    layers = {layer_name(name): gradient for name, gradient in found.items()}
    named = diagnoses({name: float(each.norms.mean()) for name, each in layers.items()})
    for name, diagnosis in named.items():
        print(plain(f"{name}: {diagnosis}"))
    bars = {
        name: GradientBar(
            np.array([gradient.quantile(share) for share in _QUANTILES]),
            float(gradient.norms.mean()),
            gradient.zero_share,
            f"{gradient.dead_channels}/{gradient.channels}",
            named.get(name, ""),
        )
        for name, gradient in layers.items()
    }
    summary = ", ".join(f"{name} {diagnosis}" for name, diagnosis in named.items())
    title = (
        f"Gradient of the score of {subject.class_name(target)} at the output of every layer, "
        f"{len(chosen.tiles)} tiles\ndead, exploding or vanishing: {summary or 'none'}"
    )
    gradients = layers.values()
    yield from write_results(
        cfg,
        "gradient_flow",
        figure_to_array(gradient_figure(bars, title, RULE)),
        layers=list(layers),
        norms=[gradient.norms for gradient in gradients],
        zero_shares=[gradient.zero_share for gradient in gradients],
        dead_channels=[gradient.dead_channels for gradient in gradients],
        channels=[gradient.channels for gradient in gradients],
        histograms=[gradient.histogram for gradient in gradients],
        histogram_edges_log10=BIN_EDGES,
        diagnoses=[named.get(name, "") for name in layers],
    )
    source.report()
