"""``task=maximal_patches``: the patches that excite channels of a layer most."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from torch import Tensor, nn

from vbp_lightning.errors import UserError
from vbp_lightning.explaining.inspecting import (
    counts_checked,
    in_batches,
    label_names,
    layer_name,
    setting_errors,
)
from vbp_lightning.explaining.outputs import write_arrays, write_picture
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.explaining.tile_sources import TileSource, open_tiles
from vbp_lightning.inspection.layers import executed_modules, layer_outputs, resolve_layer
from vbp_lightning.inspection.maximal_patches import Excitations, crop, strongest_activations
from vbp_lightning.inspection.receptive_field import Box, Unfollowed, receptive_fields
from vbp_lightning.plotting.display import patches_to_rgb
from vbp_lightning.plotting.picture_grid import GridRow, picture_grid


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws the strongest patches of each channel, cropped to the receptive field.

    Args:
        cfg: The composed config of ``explain.py``: ``layer``, null for the last ReLU whose output
            is a map; ``channels``, a list, or how many of the first that fire at all; ``patches``
            for each.
        subject: What is looked at.

    Yields:
        ``maximal_patches.png``, ``maximal_patches.npz``.

    Raises:
        UserError: A setting is wrong, or the receptive field cannot be worked out.
    """
    counts_checked(cfg, "patches")
    source = open_tiles(cfg, subject)
    sample = source.read([0])
    with setting_errors():
        if cfg.layer is None:
            layer = _last_map(subject.model, sample)
        else:
            layer = resolve_layer(subject.model, cfg.layer, sample)
        field = receptive_fields(subject.model, sample).get(layer)
        if field is None or isinstance(field, Unfollowed):
            raise UserError(f"layer={cfg.layer}: {field or 'does not depend on the image'}")
        wanted = None if isinstance(cfg.channels, int) else [int(each) for each in cfg.channels]
        found = strongest_activations(
            subject.model, layer, in_batches(source, "Searching"), cfg.patches, wanted
        )
    if wanted is None:
        firing = np.flatnonzero(found.values[:, 0] > 0)[: cfg.channels]
        wanted = firing.tolist()
        found = found.of(firing)
    boxes = [
        [field.box(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]
        for rows, columns in zip(found.rows, found.columns, strict=True)
    ]
    height, width = field.size
    high, wide = sample.shape[2:]
    title = f"{layer_name(layer)}: what excites its channels most, of {len(source.places)} tiles"
    notes = [f"Receptive field {height} × {width} px, one patch a tile. Grey chequer: padding."]
    if height > 2 * high or width > 2 * wide:
        notes.append("It is larger than the tile: whole tiles are shown.")
        boxes = [[box.clipped(high, wide) for box in row] for row in boxes]
    sheet = picture_grid(_rows(source, found, wanted, boxes), title, notes, columns=cfg.patches)
    output = Path(cfg.output)
    yield write_picture(output / "maximal_patches.png", sheet)
    places = [source.places[number] for number in found.tiles.ravel().tolist()]
    yield write_arrays(
        output / "maximal_patches.npz",
        cfg,
        dict.fromkeys(("receptive_field", "tile_rows", "tile_cols", "boxes"), "px")
        | {"values": "activation"},
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


def _last_map(model: nn.Module, sample: Tensor) -> str:
    """The last ReLU whose output is a map; any last layer of that kind where there is none."""
    modules = executed_modules(model, sample)
    maps = [
        name
        for name, output in layer_outputs(model, sample).items()
        if output.ndim == 4 and output.shape[2] * output.shape[3] > 1 and name in modules
    ]
    relus = [name for name in maps if isinstance(modules[name], nn.ReLU)]
    if not maps:
        raise ValueError("the network has no feature maps")
    return (relus or maps)[-1]


def _rows(
    source: TileSource, found: Excitations, channels: list[int], boxes: list[list[Box]]
) -> list[GridRow]:
    labels = label_names(source)
    numbers = sorted(set(found.tiles.ravel().tolist()))
    tiles = source.read(numbers).numpy()
    by_number = dict(zip(numbers, tiles, strict=True))
    patches = [
        crop(by_number[number], box)
        for row, tiles_of in zip(boxes, found.tiles, strict=True)
        for number, box in zip(tiles_of, row, strict=True)
    ]
    pictures = patches_to_rgb(patches, tiles)
    rows = []
    for rank, channel in enumerate(channels):
        captions = []
        for value, number, box in zip(
            found.values[rank], found.tiles[rank], boxes[rank], strict=True
        ):
            place = source.places[number]
            where = f"{place.row + box.top}, {place.col + box.left}"
            captions.append(f"{value:.3g}, {labels[number]}\n{place.scene}\n{where}")
        count = len(captions)
        mine = pictures[rank * count : (rank + 1) * count]
        rows.append(GridRow(f"channel {channel}", mine, captions))
    return rows
