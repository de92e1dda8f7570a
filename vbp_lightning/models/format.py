"""The format of runs and checkpoints: older ones are converted, newer ones refused."""

from collections.abc import Mapping
from typing import Any

from vbp_lightning.errors import UserError

FORMAT = 2
"""The format that this version reads and writes: that of 0.2. Version 0.1 stored no number."""


def converted(stored: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The settings of a run, or the hyperparameters of a checkpoint, in the present format.

    Args:
        stored: As read from the file, with ``format`` and ``data`` among its keys.
        source: The file and the config key that named it, for the error's line.

    Returns:
        The same settings in the format ``FORMAT``.

    Raises:
        UserError: A later version of the project wrote them.
    """
    found = stored.get("format", 1)
    if found == FORMAT:
        return dict(stored)
    if found != 1:
        raise UserError(
            f"{source}: has format {found}, which a later version of vbp_lightning wrote; this"
            f" version reads formats up to {FORMAT} (0.2): install the later version"
        )
    data = stored.get("data")
    return {**stored, "format": FORMAT, "data": data and converted_data(data)}


def converted_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data settings of version 0.1 in the present format.

    Args:
        data: Plain builtins, as ``RoadTileDataModule.data_config`` gives them.
    """
    new = dict(data)
    augment = new.get("augment")
    if augment and "quarter_turns" in augment:
        new["augment"] = {
            "rotations" if name == "quarter_turns" else name: value
            for name, value in augment.items()
        }
    return new
