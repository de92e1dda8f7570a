"""``task=feature_maps``: the output of every layer for one image."""

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig
from pydantic import StrictStr
from pydantic.dataclasses import dataclass

from vbp_lightning.errors import UserError
from vbp_lightning.explaining.options import option_as_user_error
from vbp_lightning.explaining.outputs import write_results
from vbp_lightning.explaining.settings import ExplainSettings
from vbp_lightning.explaining.subject import Subject, layer_name
from vbp_lightning.explaining.tile_sources import open_tiles
from vbp_lightning.graph.network_graph import graph_of
from vbp_lightning.inspection.layers import channels_first, layer_outputs, resolve_layer
from vbp_lightning.plotting.display import to_rgb
from vbp_lightning.plotting.layer_sheets import feature_map_sheet
from vbp_lightning.records import RECORD, Count, PositiveCount


@dataclass(frozen=True, config=RECORD)
class Options(ExplainSettings):
    """The settings of the task, with their ranges."""

    tile: Count
    layer: StrictStr | None
    channels: PositiveCount


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws a grid of channels for each layer and saves the outputs by layer name.

    Args:
        cfg: The composed config of ``explain.py``: ``tile`` is the number of the image among the
            chosen tiles, ``layer`` a layer with the layers inside it, or null for all.
        subject: The network.

    Yields:
        ``feature_maps.png``, ``feature_maps.npz``.

    Raises:
        UserError: A setting is wrong.
    """
    source = open_tiles(cfg, subject)
    chosen = source.choose(cfg.tiles)
    if cfg.tile >= len(chosen.places):
        raise UserError(f"tile={cfg.tile}: tiles 0 to {len(chosen.places) - 1} were chosen (tiles)")
    tile, place = chosen.tiles[cfg.tile : cfg.tile + 1], chosen.places[cfg.tile]
    inputs = tile.to(subject.device)
    outputs = layer_outputs(subject.model, inputs)
    if cfg.layer is not None:
        with option_as_user_error():
            inside = resolve_layer(subject.model, cfg.layer, inputs)
        outputs = {
            name: values
            for name, values in outputs.items()
            if inside in (name, name.split(" (")[0]) or name.startswith(f"{inside}.")
        }
    graph = graph_of(subject.model, inputs)
    maps = {
        layer_name(name): channels_first(graph, graph.outputs[name], values)[0]
        .float()
        .cpu()
        .numpy()
        for name, values in outputs.items()
    }
    title = f"Feature maps: {place.scene}, row {place.row}, column {place.col}"
    picture = to_rgb(chosen.tiles.numpy())[cfg.tile]
    sheet = feature_map_sheet(picture, maps, title, cfg.scale, cfg.channels)
    layers = list(maps)
    yield from write_results(
        cfg, "feature_maps", sheet, **maps, layers=layers, tile=tile[0].numpy()
    )
    source.report()
