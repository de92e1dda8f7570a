"""The format of runs and checkpoints: older ones are converted, newer ones refused."""

from collections.abc import Mapping
from typing import Any

from vbp_lightning.errors import UserError
from vbp_lightning.records import own_settings

FORMAT = 3
"""The format that this version writes: 0.2 wrote 2, and knew no networks of other packages. Version
0.1 stored no number."""


def converted(stored: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The settings of a run, or the hyperparameters of a checkpoint, in the present format.

    Args:
        stored: As read from the file, with ``format`` and ``data`` among its keys.
        source: The file and the config key that named it, for the error message.

    Returns:
        The same settings in the format ``FORMAT``.

    Raises:
        UserError: A later version of the project wrote them.
    """
    found = stored.get("format", 1)
    logger = stored.get("logger")
    if isinstance(logger, Mapping) and "_target_" in logger:  # until there were several
        stored = {**stored, "logger": {"tensorboard": logger}}
    if found in (2, FORMAT):
        return {**stored, "format": FORMAT}
    if found != 1:
        raise UserError(
            f"{source}: has format {found}, which a later version of vbp_lightning wrote; this"
            f" version reads formats up to {FORMAT}: install the later version"
        )
    data = stored.get("data")
    if isinstance(data, Mapping):
        data = converted_data(data)
    return {**stored, "format": FORMAT, "data": data}


def converted_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data settings of version 0.1 in the present format.

    Args:
        data: Plain builtins: ``RoadTileDataModule.data_config``, or a run's ``data`` node. Values
            of other types than those of version 0.1 are left as they are.

    Returns:
        The converted settings.
    """
    new = dict(data)
    if "_target_" in new:
        new |= {"_recursive_": False, "_convert_": "all"}
    if isinstance(new.get("augment"), Mapping):
        new["augment"] = {
            "rotations" if name == "quarter_turns" else name: value
            for name, value in own_settings(new["augment"]).items()
        }
    if isinstance(new.get("source"), Mapping):
        new["source"] = _converted_layout(new["source"])
    return new


def _converted_layout(source: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the three layouts of 0.1 that paired files by patterns to ``PatternScenes``."""
    settings = own_settings(source)
    layout = str(source.get("_target_")).rsplit(".", 1)[-1]
    if isinstance(settings.get("widths"), Mapping):
        settings["widths"] = own_settings(settings["widths"])
    if layout == "LabelledImages":
        settings.pop("suffixes", None)
    if layout == "SpaceNetScenes":
        folders = ("geojson_roads_speed", "geojson_roads")
        chosen = folders if settings.get("labels") is None else (settings["labels"],)
        settings["labels"] = [f"{{area}}/{folder}/*_{{chip}}.geojson" for folder in chosen]
        settings["images"] = f"{{area}}/{settings.pop('imagery', 'PS-RGB')}/*_{{chip}}.tif*"
    if layout in ("FolderScenes", "VectorScenes", "SpaceNetScenes"):
        layout = "PatternScenes"
    return {"_target_": f"vbp_lightning.data.{layout}", **settings}
