"""Custom models: any callable that returns a module, and its weights."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vbp_lightning.errors import UserError, reason
from vbp_lightning.explaining.image_inputs import ResizedImages
from vbp_lightning.models import Normalize
from vbp_lightning.models.fetching import local_file
from vbp_lightning.models.tensor_file import (
    ForeignContentError,
    UnreadableError,
    load_tensors,
    not_finite,
)

_LONGEST = 400
"""Characters of torch's list of the keys that do not match."""


def custom_model(cfg: DictConfig) -> nn.Sequential:
    """Builds the model that ``network._target_`` names, with the weights of a file.

    Its input is standardised first, so that it takes raw pixel values.

    Args:
        cfg: The composed config of ``explain.py``: ``network`` and ``preprocess``.

    Raises:
        UserError: The callable fails or returns no module, or the weights cannot be used.
    """
    weights = cfg.network.weights
    arguments = {key: value for key, value in cfg.network.items() if key != "weights"}
    try:
        network = instantiate(arguments, _convert_="all")
    except InstantiationException as error:
        raise UserError(
            f"{cfg.network._target_}: cannot be built ({reason(error)}): give a callable that "
            "returns a network (network._target_), its arguments as +network.NAME=VALUE"
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(
            f"{cfg.network._target_}: returns a {type(network).__name__}, not a network: give a "
            "callable that returns an nn.Module (network._target_)"
        )
    if weights is not None:
        load_weights(network, local_file(str(weights), "network.weights"))
    scale = cfg.preprocess.scale
    mean, std = ([scale * value for value in cfg.preprocess[key]] for key in ("mean", "std"))
    parts = {"normalize": Normalize(mean, std), "network": network}
    return nn.Sequential(OrderedDict(parts)).eval()


def photo_reader(cfg: DictConfig) -> ResizedImages:
    """The reader of a custom model's images, with the preprocessing of the config.

    Args:
        cfg: The composed config of ``explain.py``: ``preprocess``.
    """
    settings = cfg.preprocess
    fill = tuple(settings.scale * float(value) for value in settings.mean)
    return ResizedImages(tuple(settings.bands), fill, settings.resize, settings.crop)


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a state dict into a network; code in the file is never executed.

    Args:
        network: The network that receives the weights.
        path: A ``.safetensors`` file, or one of ``torch.save`` that holds only tensors: a state
            dict, or a dict with one under the key ``state_dict``.

    Raises:
        UserError: The file is missing, unreadable or holds pickled objects, its keys, shapes or
            types do not match the network, or its numbers are not finite.
    """
    state = _read_state(path)
    own = network.state_dict()
    others = [
        f"{name} holds {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in state.items()
        if name in own
        and (tensor.is_floating_point(), tensor.is_complex())
        != (own[name].is_floating_point(), own[name].is_complex())
    ]
    try:
        if others:
            raise ValueError("; ".join(others))
        network.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: does not fit the network: {shorten(str(error), _LONGEST)} (network.weights): "
            "give the weights of this network, or its arguments as +network.NAME=VALUE"
        ) from error
    if wrong := not_finite(state):
        raise UserError(
            f"{path}: {len(wrong)} of its {len(state)} tensors hold numbers that are not finite, "
            f"{shorten(wrong[0], _LONGEST)} among them (network.weights): its training diverged; "
            "give other weights"
        )


def _read_state(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: no such file (network.weights): give a state dict")
    try:
        stored = load_file(path) if path.suffix == ".safetensors" else load_tensors(path)
    except ForeignContentError as error:
        raise UserError(
            f"{path}: holds more than tensors, which could run code when loaded; it was not "
            "loaded (network.weights): save the network's state_dict, best as safetensors"
        ) from error
    except (UnreadableError, SafetensorError, RuntimeError, OSError, MemoryError) as error:
        raise UserError(
            f"{path}: cannot be read as weights (network.weights): the file is cut off or of "
            "another type; give a state dict as .safetensors or .pt"
        ) from error
    if isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict):
        stored = stored["state_dict"]
    if not isinstance(stored, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in stored.items()
    ):
        raise UserError(
            f"{path}: holds no state dict (network.weights): save the network's state_dict()"
        )
    return stored
