"""The data module of a finished run, built again from what its checkpoint says."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.folder import FolderScenes
from vbp_lightning.data.datasets.labelled_images import LabelledImages
from vbp_lightning.data.datasets.scene import DataError, RoadWidths
from vbp_lightning.data.datasets.spacenet import SpaceNetScenes
from vbp_lightning.data.datasets.vector import VectorScenes
from vbp_lightning.data.synthetic.generator import SyntheticScenes
from vbp_lightning.data.tiles.augmentation import Augmentation

_BUILDERS: dict[str, Callable[..., Any]] = {
    f"vbp_lightning.data.{kind.__qualname__}": kind
    for kind in (
        RoadTileDataModule,
        FolderScenes,
        VectorScenes,
        SpaceNetScenes,
        LabelledImages,
        SyntheticScenes,
        RoadWidths,
        Augmentation,
    )
}


def stored_datamodule(config: Mapping[str, Any], **changes: object) -> RoadTileDataModule:
    """Builds a data module from ``RoadTileDataModule.data_config``.

    A checkpoint may come from anyone, so its ``_target_``s are looked up in a list of this
    package's own classes and never imported by name.

    Args:
        config: Plain builtins; empty where a checkpoint holds none.
        **changes: Arguments to replace, ``root`` for imagery that lies elsewhere now.

    Raises:
        DataError: The config tells nothing, or names anything else than this package's data
            classes, or arguments that they do not take.
    """
    try:
        datamodule = _build({**config, **changes})
    except TypeError as error:
        raise DataError(
            f"the checkpoint's data settings do not fit this version (ckpt): {error}"
        ) from error
    if not isinstance(datamodule, RoadTileDataModule):
        raise DataError(
            "the checkpoint tells nothing of its data (ckpt): give an image or a folder (input)"
        )
    return datamodule


def _build(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    arguments = {key: _build(item) for key, item in value.items()}
    if "_target_" not in arguments:
        return arguments
    target = arguments.pop("_target_")
    is_partial = arguments.pop("_partial_", False)
    if target not in _BUILDERS:
        raise DataError(f"the checkpoint's data settings name {target!r} (ckpt): refused, not run")
    builder = _BUILDERS[str(target)]
    return partial(builder, **arguments) if is_partial else builder(**arguments)
