"""Features of a whole split, computed once and kept on disk."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from vbp_lightning.errors import UserError
from vbp_lightning.inspection.layers import features_and_outputs, last_linear

_SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class FeatureStore:
    """What a network makes of the tiles of a split, memory-mapped.

    Args:
        features: ``(N, F)`` float32, what the last linear layer reads.
        outputs: ``(N, K)`` float32, what the network returns: logits or scores.
        labels: ``(N,)`` int64: 1 road, 0 non-road, -1 ignored or not known.
        scenes: ``(N,)`` names.
        rows: ``(N,)`` int64, rows of upper-left corners in the scene.
        cols: ``(N,)`` int64, columns alike.
    """

    features: npt.NDArray[np.float32]
    outputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    scenes: npt.NDArray[np.str_]
    rows: npt.NDArray[np.int64]
    cols: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.features)


def store_folder(root: Path, settings: Mapping[str, Any]) -> Path:
    """The folder of a store: named by the split and a hash of everything that features depend on.

    Args:
        root: Holds the stores.
        settings: Plain builtins: the checkpoint's hash, the split, the input and so on.
    """
    text = json.dumps(settings, sort_keys=True, default=str)
    return root / hashlib.sha256(text.encode()).hexdigest()[:16]


def open_store(folder: Path, settings: Mapping[str, Any]) -> FeatureStore | None:
    """A store on disk; None where there is none, or one of other settings or cut short."""
    try:
        if json.loads((folder / _SETTINGS_FILE).read_text()) != _plain(settings):
            return None
        store = FeatureStore(
            **{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _COLUMNS}
        )
    except (OSError, ValueError):
        return None
    lengths = {len(getattr(store, name)) for name in _COLUMNS}
    return store if len(lengths) == 1 else None


def still_holds(
    store: FeatureStore, model: nn.Module, tiles: Tensor, indices: Sequence[int]
) -> bool:
    """Whether some tiles still have the features that are stored: imagery may have changed.

    Args:
        store: What is kept.
        model: The network.
        tiles: ``(n, C, H, W)`` the tiles as they are now.
        indices: Their numbers.
    """
    features, _ = features_and_outputs(model, last_linear(model, tiles), tiles)
    kept = store.features[list(indices)]
    return kept.shape == tuple(features.shape) and np.allclose(
        kept, features.numpy(), rtol=1e-3, atol=1e-3
    )


def write_store(
    folder: Path,
    settings: Mapping[str, Any],
    model: nn.Module,
    batches: Iterable[Tensor],
    labels: npt.NDArray[np.int64],
    places: Sequence[tuple[str, int, int]],
) -> FeatureStore:
    """Computes the features of all tiles and keeps them.

    The folder appears when it is complete, or not at all.

    Args:
        folder: Where; an older store there is replaced.
        settings: Kept beside the features, for ``open_store``.
        model: Any network with a linear layer; found as it was left.
        batches: Tiles in order, ``(n, C, H, W)``; one batch at a time is in memory.
        labels: ``(N,)``.
        places: Scene, row and column of each tile.

    Raises:
        UserError: The folder cannot be written.
        ValueError: The network has no linear layer, or the batches hold another number of tiles.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        _write(temporary, model, batches, labels, places)
        (temporary / _SETTINGS_FILE).write_text(json.dumps(_plain(settings), indent=1))
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: features cannot be written (features): {error.strerror}"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    store = open_store(folder, settings)
    assert store is not None
    return store


_COLUMNS = ("features", "outputs", "labels", "scenes", "rows", "cols")


def _write(
    folder: Path,
    model: nn.Module,
    batches: Iterable[Tensor],
    labels: npt.NDArray[np.int64],
    places: Sequence[tuple[str, int, int]],
) -> None:
    count, start, layer = len(labels), 0, None
    features: npt.NDArray[np.float32] = np.zeros((0, 0), np.float32)
    outputs: npt.NDArray[np.float32] = np.zeros((0, 0), np.float32)
    for batch in batches:
        layer = layer or last_linear(model, batch)
        found, scores = features_and_outputs(model, layer, batch)
        if start == 0:
            features, outputs = (
                np.lib.format.open_memmap(
                    folder / f"{name}.npy", "w+", np.float32, (count, values.shape[1])
                )
                for name, values in (("features", found), ("outputs", scores))
            )
        stop = start + len(batch)
        features[start:stop], outputs[start:stop] = found.numpy(), scores.numpy()
        start = stop
    if start != count or count == 0:
        raise ValueError(f"{start} tiles came for {count} labels")
    for memory in (features, outputs):
        assert isinstance(memory, np.memmap)
        memory.flush()
    scenes, rows, cols = zip(*places, strict=True)
    np.save(folder / "labels.npy", np.asarray(labels, np.int64))
    np.save(folder / "scenes.npy", np.array(scenes, dtype=np.str_))
    np.save(folder / "rows.npy", np.array(rows, np.int64))
    np.save(folder / "cols.npy", np.array(cols, np.int64))


def _plain(settings: Mapping[str, Any]) -> object:
    return json.loads(json.dumps(settings, sort_keys=True, default=str))
