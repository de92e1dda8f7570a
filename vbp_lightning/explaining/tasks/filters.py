"""``task=filters``: the filters of a convolution."""

from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig
from pydantic import StrictStr
from pydantic.dataclasses import dataclass

from vbp_lightning.explaining.options import option_as_user_error
from vbp_lightning.explaining.outputs import write_results
from vbp_lightning.explaining.settings import ExplainSettings
from vbp_lightning.explaining.subject import Subject, layer_name
from vbp_lightning.inspection.filters import exciting_colours, filters_of
from vbp_lightning.plotting.layer_sheets import filter_sheet
from vbp_lightning.records import RECORD, PositiveCount

_RGB = ("red", "green", "blue")


@dataclass(frozen=True, config=RECORD)
class Options(ExplainSettings):
    """The settings of the task, with their ranges."""

    layer: StrictStr | None
    filters: PositiveCount


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws filters of the first layer as colours and weights of the bands, others by channel.

    Args:
        cfg: The composed config of ``explain.py``: ``layer`` is a convolution, null the first.
        subject: The network.

    Yields:
        ``filters.png``, ``filters.npz``.

    Raises:
        UserError: A setting is wrong, or there is no such convolution.
    """
    inputs = torch.zeros(1, *subject.input_shape, device=subject.device)
    with option_as_user_error():
        found = filters_of(subject.model, inputs, cfg.layer)
    count, inside, height, width = found.weights.shape
    bands: list[str] = []
    if found.first:
        bands = list(_RGB) if inside == 3 else [f"band {number + 1}" for number in range(inside)]
    pointwise = (height, width) == (1, 1)
    colours = exciting_colours(found.weights) if pointwise and len(bands) == 3 else None
    layer = layer_name(found.layer)
    title = f"Filters of {layer}: {count} × {inside} × {height} × {width}"
    shown = min(count, cfg.filters)
    notes = [f"{shown} of {count} shown." if shown < count else f"All {count} shown."]
    if found.folded:
        notes.append(f"Includes the scale of the batch norm {layer_name(found.folded)} behind it.")
    if found.first:
        notes += [
            "Weights are per standard deviation of a band. Mid-grey is the mean colour. Of all "
            "colours at the same distance from it, the colour shown gives the largest response, "
            "and its opposite the smallest.",
        ]
    sheet = filter_sheet(found.weights, found.offsets, colours, title, notes, bands, cfg.filters)
    arrays = {"weights": found.weights, "offsets": found.offsets}
    yield from write_results(cfg, "filters", sheet, **arrays, layer=layer, bands=bands)
