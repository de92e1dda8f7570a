"""Networks that other people trained: any callable that returns a module, and its weights."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vbp_lightning.errors import UserError, reason
from vbp_lightning.explaining.image_inputs import ResizedImages
from vbp_lightning.models import Normalize

_SHOWN_KEYS = 4


class PreparedNetwork(nn.Module):
    """A network with its preprocessing before it, so that it takes pixels as files hold them.

    Args:
        network: Takes standardised images.
        mean: Of each band, in the pixels' own units.
        std: Of each band, in the pixels' own units.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Raw images ``(N, C, H, W)``, float, to scores ``(N, K)``."""
        scores: Tensor = self.network(self.normalize(images))
        return scores


def custom_network(cfg: DictConfig) -> PreparedNetwork:
    """Builds the network that ``network._target_`` names, with the weights of a file.

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
        load_weights(network, Path(weights))
    scale = cfg.preprocess.scale
    mean, std = ([scale * value for value in cfg.preprocess[key]] for key in ("mean", "std"))
    return PreparedNetwork(network, mean, std).eval()


def photo_reader(cfg: DictConfig) -> ResizedImages:
    """Reads images as ``preprocess`` says.

    Args:
        cfg: The composed config of ``explain.py``.

    Raises:
        UserError: Bands, means and deviations differ in number.
    """
    settings = cfg.preprocess
    if not len(settings.bands) == len(settings.mean) == len(settings.std):
        raise UserError(
            f"preprocess: {len(settings.bands)} bands, {len(settings.mean)} means and "
            f"{len(settings.std)} deviations: give one each a band (preprocess.bands, mean, std)"
        )
    fill = tuple(settings.scale * float(value) for value in settings.mean)
    return ResizedImages(tuple(settings.bands), fill, settings.resize, settings.crop)


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a state dict into a network; nothing that the file may carry is run.

    Args:
        network: Takes the weights.
        path: A ``.safetensors`` file, or one of ``torch.save`` that holds tensors alone, bare or
            under the key ``state_dict``.

    Raises:
        UserError: The file is missing, unreadable or carries pickled objects, or its keys or
            shapes are not the network's.
    """
    state = _read_state(path)
    expected = network.state_dict()
    errors = {
        "missing": [key for key in expected if key not in state],
        "not known to the network": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} ({tuple(state[key].shape)}, not {tuple(expected[key].shape)})"
            for key in expected
            if key in state and state[key].shape != expected[key].shape
        ],
    }
    said = [f"{_listed(keys)} {kind}" for kind, keys in errors.items() if keys]
    if said:
        raise UserError(
            f"{path}: does not fit the network: {'; '.join(said)} (network.weights): give the "
            "weights of this very network, or its arguments as +network.NAME=VALUE"
        )
    network.load_state_dict(state)


def _listed(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:_SHOWN_KEYS])
    rest = len(keys) - _SHOWN_KEYS
    return f"{shown} and {rest} more" if rest > 0 else shown


def _read_state(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: no such file (network.weights): give a state dict")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: holds more than tensors, which could run code when loaded; refused, nothing "
            "was run (network.weights): save the network's state_dict, best as safetensors"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: cannot be read as weights (network.weights): the file is cut off or of "
            "another kind; give a state dict as .safetensors or .pt"
        ) from error
    if isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict):
        stored = stored["state_dict"]
    if not isinstance(stored, dict) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise UserError(
            f"{path}: holds no state dict (network.weights): save the network's state_dict()"
        )
    return stored
