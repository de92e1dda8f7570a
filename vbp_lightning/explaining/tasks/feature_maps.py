"""``task=feature_maps``: every layer's output for one image."""

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from vbp_lightning.errors import UserError
from vbp_lightning.explaining.inspecting import (
    counts_checked,
    layer_name,
    scale_checked,
    setting_errors,
)
from vbp_lightning.explaining.outputs import RAW_UNIT, write_arrays, write_picture
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.explaining.tile_sources import open_tiles
from vbp_lightning.inspection.layers import layer_outputs, resolve_layer
from vbp_lightning.plotting.display import to_rgb
from vbp_lightning.plotting.layer_sheets import feature_map_sheet


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws a grid of channels a layer, and keeps the outputs by layer name.

    Args:
        cfg: The composed config of ``explain.py``: ``tile`` is the number of the image among the
            chosen ones, ``layer`` a layer, those inside it included, or null for all.
        subject: What is looked at.

    Yields:
        ``feature_maps.png``, ``feature_maps.npz``.

    Raises:
        UserError: A setting is wrong.
    """
    scale_checked(cfg)
    counts_checked(cfg, "channels")
    source = open_tiles(cfg, subject)
    chosen = source.choose(cfg.tiles)
    if not 0 <= cfg.tile < len(chosen.places):
        raise UserError(f"tile={cfg.tile}: tiles 0 to {len(chosen.places) - 1} were chosen (tiles)")
    tile, place = chosen.tiles[cfg.tile : cfg.tile + 1], chosen.places[cfg.tile]
    outputs = layer_outputs(subject.model, tile)
    if cfg.layer is not None:
        with setting_errors():
            inside = resolve_layer(subject.model, cfg.layer, tile)
        outputs = {
            name: values
            for name, values in outputs.items()
            if name.split(" (")[0] == inside or name.startswith(f"{inside}.")
        }
    maps = {layer_name(name): values[0].float().numpy() for name, values in outputs.items()}
    title = f"Feature maps: {place.scene}, row {place.row}, column {place.col}"
    picture = to_rgb(chosen.tiles.numpy())[cfg.tile]
    sheet = feature_map_sheet(picture, maps, title, cfg.scale, cfg.channels)
    output = Path(cfg.output)
    yield write_picture(output / "feature_maps.png", sheet)
    yield write_arrays(
        output / "feature_maps.npz",
        cfg,
        dict.fromkeys(maps, "activation") | {"tile": RAW_UNIT},
        **maps,
        layers=list(maps),
        tile=tile[0].numpy(),
    )
    source.report()
