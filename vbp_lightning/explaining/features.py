"""The features of a whole split or of images: computed once, kept, noticed when stale."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vbp_lightning.data.imagery.unlabelled import image_files
from vbp_lightning.data.tiles.tile import Label
from vbp_lightning.explaining.inspecting import in_batches, setting_errors
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.explaining.tile_sources import TileSource
from vbp_lightning.inspection.feature_store import (
    FeatureStore,
    open_store,
    still_holds,
    store_folder,
    write_store,
)

_CHECKED = 8
"""Tiles whose stored features are compared with new ones each time."""


def features_of(cfg: DictConfig, subject: Subject, source: TileSource, split: str) -> FeatureStore:
    """What the network makes of all tiles of a source, from the folder ``features`` if it can be.

    Args:
        cfg: The composed config of ``explain.py``: ``features`` names the folder of all stores.
        subject: The network.
        source: The tiles.
        split: Which split they are; ignored for images.

    Raises:
        UserError: The network has no linear layer, or the folder cannot be written.
    """
    places = [(tile.scene, tile.row, tile.col) for tile in source.places]
    settings = {
        "weights": subject.fingerprint or _weights_digest(subject.model),
        "tiles": hashlib.sha256(repr(places).encode()).hexdigest(),
        **_origin(cfg, subject, split),
    }
    folder = store_folder(Path(cfg.features), settings)
    store = open_store(folder, settings)
    with setting_errors():
        if store is not None:
            checked = np.unique(np.linspace(0, len(places) - 1, _CHECKED).round().astype(int))
            if still_holds(store, subject.model, source.read(checked.tolist()), checked.tolist()):
                return store
            print(f"{folder}: the imagery has changed since; features are computed again")
        labels = np.array(
            [int(tile.label) for tile in source.known] or [int(Label.IGNORED)] * len(places)
        )
        batches = in_batches(source, "Computing features")
        store = write_store(folder, settings, subject.model, batches, labels, places)
    print(f"Features of {len(store)} tiles are kept in {folder}")
    return store


def _origin(cfg: DictConfig, subject: Subject, split: str) -> Mapping[str, Any]:
    """Where the tiles come from, as plain builtins."""
    if cfg.input is None:
        assert subject.classifier is not None
        return {"split": split, "data": subject.classifier.hparams["data"]}
    files = [(str(path.absolute()), path.stat()) for path in image_files(Path(cfg.input))]
    return {
        "files": [[path, about.st_size, about.st_mtime_ns] for path, about in files],
        "preprocess": OmegaConf.to_container(cfg.preprocess),
    }


def _weights_digest(model: nn.Module) -> str:
    """Of a network without a file of weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
