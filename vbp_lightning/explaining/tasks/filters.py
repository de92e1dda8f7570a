"""``task=filters``: the filters of a convolution."""

from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig

from vbp_lightning.explaining.inspecting import counts_checked, layer_name, setting_errors
from vbp_lightning.explaining.outputs import write_arrays, write_picture
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.inspection.filters import exciting_colours, filters_of
from vbp_lightning.plotting.layer_sheets import filter_sheet

_RGB = ("red", "green", "blue")


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws first-layer filters as colours and weights on bands, deeper ones by channel.

    Args:
        cfg: The composed config of ``explain.py``: ``layer`` is a convolution, null the first.
        subject: What is looked at.

    Yields:
        ``filters.png``, ``filters.npz``.

    Raises:
        UserError: There is no such convolution.
    """
    counts_checked(cfg, "filters")
    with setting_errors():
        found = filters_of(subject.model, torch.zeros(1, *subject.input_shape), cfg.layer)
    count, inside, height, width = found.weights.shape
    bands: list[str] = []
    if found.first:
        bands = list(_RGB) if inside == 3 else [f"band {number + 1}" for number in range(inside)]
    pointwise = (height, width) == (1, 1)
    colours = exciting_colours(found.weights) if pointwise and len(bands) == 3 else None
    title = f"Filters of {layer_name(found.layer)}: {count} × {inside} × {height} × {width}"
    shown = min(count, cfg.filters)
    notes = [f"{shown} of {count} shown." if shown < count else f"All {count} shown."]
    if found.folded:
        notes.append(f"Scaled by the batch norm {layer_name(found.folded)} behind.")
    if found.first:
        notes.append(
            "Per standard deviation of a band. Mid-grey is the mean colour; of all colours"
        )
        notes.append(
            "equally far from it, the filter answers most to the one shown, least to its opposite."
        )
    sheet = filter_sheet(found.weights, found.offsets, colours, title, notes, bands, cfg.filters)
    output = Path(cfg.output)
    yield write_picture(output / "filters.png", sheet)
    yield write_arrays(
        output / "filters.npz",
        cfg,
        {
            "weights": "per standard deviation of a band or unit of the input",
            "offsets": "of the output",
        },
        weights=found.weights,
        offsets=found.offsets,
        layer=layer_name(found.layer),
        bands=bands,
    )
