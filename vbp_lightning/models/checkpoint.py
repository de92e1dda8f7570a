"""Reading checkpoints, which may come from anybody: every field is checked before it is used."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, Strict, StrictBool, StrictStr
from pydantic.dataclasses import dataclass
from torch import Tensor

from vbp_lightning.errors import UserError
from vbp_lightning.models.custom_network import TARGET, described, plain_settings, setting_errors
from vbp_lightning.models.format import converted
from vbp_lightning.models.networks import TOTAL_STRIDE, Architecture, Head
from vbp_lightning.models.tensor_file import (
    ForeignContentError,
    UnreadableError,
    load_tensors,
    not_finite,
)
from vbp_lightning.records import RECORD, Count, Number, Positive, PositiveCount, made

_MOST_BYTES = 1 << 30
"""Size of the largest file that is read; a network and the names of 100 000 scenes take 30 MB."""

_MOST_BANDS = 10_000
_LARGEST_CONTEXT = 1024

_SHOWN = 4
"""Errors that a line names."""

_LONGEST = 300
"""Characters of an error of a field, which may quote any value."""

_Value = Annotated[Number, Field(ge=-1e30, le=1e30)]
_Bands = Annotated[tuple[_Value, ...], Field(min_length=1, max_length=_MOST_BANDS)]
_Spreads = Annotated[
    tuple[Annotated[Number, Field(ge=1e-30, le=1e30)], ...],
    Field(min_length=1, max_length=_MOST_BANDS),
]
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_Split = Literal["train", "val", "test", "none"]
_Answer = Literal["road", "non_road", "ignore", "unsure"]
_Plain = Annotated[float, Strict()]


@dataclass(frozen=True, config=RECORD)
class _Imagery:
    """What the training imagery is like; see ``RoadTileDataModule.imagery``."""

    tile_size: PositiveCount
    bands: tuple[StrictStr, ...]
    ground_sampling_distance: tuple[Positive, Positive] | None
    values: tuple[tuple[_Plain, _Plain], ...]


@dataclass(frozen=True, config=RECORD)
class _Hyperparameters:
    """The arguments of ``RoadClassifier`` as a checkpoint holds them.

    The settings under ``data`` are checked when they are used.
    """

    format: Count
    architecture: Architecture | Literal["custom"]
    head: Head | None
    mean: _Bands
    std: _Spreads
    low: _Bands | None = None
    high: _Bands | None = None
    context: Annotated[Count, Field(le=_LARGEST_CONTEXT, multiple_of=TOTAL_STRIDE)] = 0
    learning_rate: Number = 5e-3
    weight_decay: Number = 5e-2
    data: Mapping[StrictStr, Any] | None = None
    splits: (
        Mapping[StrictStr, _Split | tuple[tuple[Count, Count, Count, Count, _Split], ...]] | None
    ) = None
    digests: Mapping[StrictStr, StrictStr] | None = None
    corrections: (
        tuple[tuple[StrictStr, Count, Count, _Answer, StrictStr, StrictStr], ...] | None
    ) = None
    imagery: _Imagery | None = None
    tta: StrictBool = False
    network: Mapping[StrictStr, Any] | StrictStr | None = None


class CheckpointError(UserError):
    """A checkpoint cannot be used; the line names the file and the reason."""


def read_checkpoint(path: Path, config_key: str = "ckpt") -> dict[str, Any]:
    """Reads a checkpoint of a road classifier onto the CPU: tensors and builtins, nothing else.

    The hyperparameters of an older checkpoint are converted to the present format. They and the
    weights are checked; what is needed only to continue the training is not.

    Args:
        path: A file such as ``outputs/train/…/checkpoints/best.ckpt``.
        config_key: The key through which the user named the file, for the error message.

    Returns:
        The checkpoint of Lightning, with ``state_dict``, ``hyper_parameters``, ``epoch`` (-1 if it
        has none) and so on.

    Raises:
        CheckpointError: The file is missing, unreadable, contains pickled objects, does not come
            from a ``RoadClassifier``, or holds values that one cannot have, such as weights that
            are not finite.
        UserError: A later version of the project wrote it.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file ({config_key}); give a run's .ckpt")
    if path.stat().st_size > _MOST_BYTES:
        raise CheckpointError(
            f"{path}: has more than {_MOST_BYTES >> 20} MiB, which no checkpoint of train.py has"
            f" ({config_key}); use one that train.py wrote"
        )
    try:
        checkpoint: dict[str, Any] = load_tensors(path)
    except ForeignContentError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values, which could run code when loaded;"
            f" refused, nothing was run ({config_key}); use a checkpoint that train.py wrote"
        ) from error
    except UnreadableError as error:
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({config_key}): it is cut off or no .ckpt;"
            " use another, such as last.ckpt beside it"
        ) from error
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    settings = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not isinstance(settings, dict) or "threshold" not in state:
        raise CheckpointError(
            f"{path}: is not a checkpoint of a road classifier ({config_key});"
            " use one that train.py wrote"
        )
    epoch = checkpoint.setdefault("epoch", -1)
    lines = _setting_errors(settings, f"{path} ({config_key})") or _name_errors(state)
    if not lines:
        _check_finite(state, path, config_key)
        lines = _weight_errors(state)
    if type(epoch) is not int or not -1 <= epoch < 1 << 31:
        lines.append("epoch: must be a whole number")
    if lines:
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise CheckpointError(
            f"{path}: does not fit this version of the project ({config_key}):"
            f" {'; '.join(lines[:_SHOWN])}{more}"
        )
    return checkpoint | {"hyper_parameters": converted(settings, f"{path} ({config_key})")}


def trusted(
    settings: Mapping[str, Any] | str | None,
    trust: str | Sequence[str] | None,
    source: str,
    key: str,
) -> dict[str, Any] | None:
    """What may be built of a network that a file names.

    Args:
        settings: As in the file: the name of a callable and its arguments; the name of a class if
            Python code gave the network; None for a road network.
        trust: The callables that the user allows.
        source: The file.
        key: The config key that named it.

    Returns:
        The settings without paths, addresses and arguments that name weights.

    Raises:
        CheckpointError: The callable is not allowed; the line shows what it would be called with.
    """
    if settings is None:
        return None
    if not isinstance(settings, Mapping):
        raise CheckpointError(
            f"{source}: its network, a {shorten(settings, _LONGEST)}, was given in Python ({key}):"
            " load it there with RoadClassifier.load_from_checkpoint(path, network=…)"
        )
    kept = plain_settings(settings)
    if kept[TARGET] not in ([trust] if isinstance(trust, str) else trust or ()):
        raise CheckpointError(
            f"{source}: its network is what {shorten(described(kept), _LONGEST)} returns, which is"
            f" not of this package, and nothing was run ({key}): if you trust both, add"
            f" trust={kept[TARGET]}"
        )
    return kept


def _setting_errors(settings: dict[Any, Any], source: str) -> list[str]:
    """What is wrong with the hyperparameters; one line each."""
    if not all(isinstance(key, str) for key in settings):
        return ["hyper_parameters: must have names"]
    if _holds_tensors(settings):
        return ["hyper_parameters: must hold no tensors"]
    if type(settings.get("format", 1)) is not int:
        return ["hyper_parameters.format: must be a whole number"]
    found, lines = made(_Hyperparameters, "hyper_parameters", converted(settings, source))
    if found is not None:
        counts = {len(each) for each in (found.mean, found.std, found.low, found.high) if each}
        if len(counts) > 1:
            lines = ["hyper_parameters.mean, std, low, high: must have one value for each band"]
        if isinstance(found.network, Mapping):
            lines += setting_errors(plain_settings(found.network), "hyper_parameters.network")
        if (found.network is None) == (found.architecture == "custom"):
            lines.append("hyper_parameters.network: must be given for the architecture custom only")
    return [shorten(line, _LONGEST) for line in lines]


def _holds_tensors(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_tensors, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_tensors, value))
    return isinstance(value, Tensor)


def _name_errors(state: dict[Any, Any]) -> list[str]:
    named = all(isinstance(key, str) and isinstance(state[key], Tensor) for key in state)
    return [] if named else ["state_dict: must hold tensors under their names"]


def _weight_errors(state: Mapping[str, Tensor]) -> list[str]:
    """What is wrong with the weights, apart from their shapes; one line each."""
    lines = []
    for name, tensor in state.items():
        rule = ""
        if not (tensor.dtype in _FLOATS or name.endswith("num_batches_tracked")):
            rule = "floating-point numbers"
        elif name == "threshold" and not (tensor.shape == () and 0 <= float(tensor) <= 1):
            rule = "a number from 0 to 1"
        elif name.endswith("normalize.std") and bool((tensor <= 0).any()):
            rule = "above 0"
        elif name.endswith("running_var") and bool((tensor < 0).any()):
            rule = "at least 0"
        if rule:
            lines.append(f"state_dict.{shorten(name, _LONGEST)}: must be {rule}")
    return lines


def _check_finite(state: Mapping[str, Tensor], path: Path, config_key: str) -> None:
    if wrong := not_finite(state):
        raise CheckpointError(
            f"{path}: {len(wrong)} of its {len(state)} tensors hold numbers that are not finite"
            f" ({config_key}): its training diverged; use an earlier checkpoint, or train again"
            " with a smaller model.learning_rate"
        )
