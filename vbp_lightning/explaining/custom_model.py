"""Custom models: any callable that returns a module, and its weights."""

from collections import OrderedDict
from pathlib import Path
from textwrap import shorten

from omegaconf import DictConfig
from torch import nn

from vbp_lightning.errors import UserError
from vbp_lightning.explaining.image_inputs import ResizedImages
from vbp_lightning.models import Normalize
from vbp_lightning.models.custom_network import build
from vbp_lightning.models.fetching import local_file
from vbp_lightning.models.weights import read_state, refuse_lost_numbers

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
    network = build(arguments, "network")
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
    state = read_state(path, "network.weights")
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
            "give the weights of this network, or its arguments as network.NAME=VALUE"
        ) from error
    refuse_lost_numbers(state, path, "network.weights")
