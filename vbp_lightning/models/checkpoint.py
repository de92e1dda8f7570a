"""Reading checkpoints without running code from them."""

import pickle
from pathlib import Path
from typing import Any

import torch

from vbp_lightning.errors import UserError
from vbp_lightning.models.format import converted


class CheckpointError(UserError):
    """A checkpoint cannot be used; the line names the file and the reason."""


def read_checkpoint(path: Path, config_key: str = "ckpt") -> dict[str, Any]:
    """Reads a checkpoint of a road classifier onto the CPU: tensors and builtins, nothing else.

    The hyperparameters of an older checkpoint are converted to the present format.

    Args:
        path: A file such as ``outputs/train/…/checkpoints/best.ckpt``.
        config_key: The key through which the user named the file, for the error message.

    Returns:
        The checkpoint of Lightning, with ``state_dict``, ``hyper_parameters``, ``epoch`` and so on.

    Raises:
        CheckpointError: The file is missing, unreadable, contains pickled objects, or does not
            come from a ``RoadClassifier``.
        UserError: A later version of the project wrote it.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file ({config_key}); give a run's .ckpt")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values, which could run code when loaded;"
            f" refused, nothing was run ({config_key}); use a checkpoint that train.py wrote"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
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
    return checkpoint | {"hyper_parameters": converted(settings, f"{path} ({config_key})")}
