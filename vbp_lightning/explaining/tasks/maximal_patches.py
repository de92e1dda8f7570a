"""``task=maximal_patches``: the patches with the strongest activations of a layer's channels."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from omegaconf import DictConfig
from pydantic import Field, StrictStr
from pydantic.dataclasses import dataclass

from vbp_lightning.errors import UserError
from vbp_lightning.explaining.options import option_as_user_error
from vbp_lightning.explaining.outputs import write_results
from vbp_lightning.explaining.settings import ExplainSettings
from vbp_lightning.explaining.subject import Subject, layer_name
from vbp_lightning.explaining.tile_sources import TileSource, in_batches, label_names, open_tiles
from vbp_lightning.graph.network_graph import graph_of
from vbp_lightning.inspection.layers import resolve_layer
from vbp_lightning.inspection.maximal_patches import (
    Activations,
    crop,
    last_map,
    strongest_activations,
)
from vbp_lightning.inspection.receptive_field import Box, Unfollowed, receptive_fields
from vbp_lightning.plotting.display import patches_to_rgb
from vbp_lightning.plotting.picture_grid import GridRow, picture_grid
from vbp_lightning.records import RECORD, Count, PositiveCount


@dataclass(frozen=True, config=RECORD)
class Options(ExplainSettings):
    """The settings of the task, with their ranges."""

    layer: StrictStr | None
    channels: PositiveCount | Annotated[tuple[Count, ...], Field(min_length=1)]
    patches: PositiveCount


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws the strongest patches of each channel, cropped to the receptive field.

    Args:
        cfg: The composed config of ``explain.py``: ``layer``, null for the last ReLU whose output
            is a map; ``channels``, a list, or how many of the first active ones; ``patches`` of
            each channel.
        subject: The network.

    Yields:
        ``maximal_patches.png``, ``maximal_patches.npz``.

    Raises:
        UserError: A setting is wrong, or the receptive field cannot be computed.
    """
    source = open_tiles(cfg, subject)
    sample = source.read([0]).to(subject.device)
    every = range(len(source.places))
    batches = (batch.to(subject.device) for batch in in_batches(source, every, "Searching"))
    with option_as_user_error():
        fields = receptive_fields(subject.model, sample)
        if cfg.layer is None:
            layer = last_map(graph_of(subject.model, sample), fields)
        else:
            layer = resolve_layer(subject.model, cfg.layer, sample)
        field = fields.get(layer)
        if field is None or isinstance(field, Unfollowed):
            raise UserError(f"layer={cfg.layer}: {field or 'does not depend on the image'}")
        wanted = None if isinstance(cfg.channels, int) else list(cfg.channels)
        found = strongest_activations(subject.model, layer, batches, cfg.patches, wanted)
    if wanted is None:
        active = np.flatnonzero(found.values[:, 0] > 0)[: cfg.channels]
        wanted, found = active.tolist(), found.of(active)
    boxes = [
        [field.box(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]
        for rows, columns in zip(found.rows, found.columns, strict=True)
    ]
    height, width = field.size
    high, wide = sample.shape[2:]
    title = f"{layer_name(layer)}: strongest activations of its channels in {len(every)} tiles"
    notes = [f"Receptive field {height} × {width} px, one patch a tile. Grey chequer: padding."]
    if height > 2 * high or width > 2 * wide:
        notes.append("It is larger than the tile: whole tiles are shown.")
        boxes = [[box.clipped(high, wide) for box in row] for row in boxes]
    sheet = picture_grid(_rows(source, found, wanted, boxes), title, notes, columns=cfg.patches)
    places = [source.places[number] for number in found.tiles.ravel().tolist()]
    yield from write_results(
        cfg,
        "maximal_patches",
        sheet,
        layer=layer_name(layer),
        receptive_field=field.size,
        channels=wanted,
        values=found.values,
        tiles=found.tiles,
        scenes=np.reshape([place.scene for place in places], found.tiles.shape),
        tile_rows=np.reshape([place.row for place in places], found.tiles.shape),
        tile_cols=np.reshape([place.col for place in places], found.tiles.shape),
        boxes=[[(b.top, b.left, b.bottom, b.right) for b in row] for row in boxes],
    )
    source.report()


def _rows(
    source: TileSource, found: Activations, channels: list[int], boxes: list[list[Box]]
) -> list[GridRow]:
    labels = label_names(source)
    numbers = sorted(set(found.tiles.ravel().tolist()))
    tiles = dict(zip(numbers, source.read(numbers).numpy(), strict=True))
    rows = []
    for rank, channel in enumerate(channels):
        captions, patches = [], []
        for value, number, box in zip(
            found.values[rank], found.tiles[rank], boxes[rank], strict=True
        ):
            place = source.places[number]
            where = f"{place.row + box.top}, {place.col + box.left}"
            captions.append(f"{value:.3g}, {labels[number]}\n{place.scene}\n{where}")
            patches.append(crop(tiles[number], box))
        pictures = patches_to_rgb(patches, np.stack(list(tiles.values())))
        rows.append(GridRow(f"channel {channel}", pictures, captions))
    return rows
