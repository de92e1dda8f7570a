"""Networks of other packages as road classifiers: built by name, fitted to the bands."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn

from vbp_lightning.errors import UserError, reason
from vbp_lightning.models.networks import Normalize

TARGET = "_target_"

_is_callable = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII).fullmatch
_is_name = re.compile(r"[\w.+-]{0,100}", re.ASCII).fullmatch
_names_weights = re.compile("pretrained|weights|checkpoint|path|file|url|cache").search
_WEIGHT_FILES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".npz", ".pkl", ".h5")


class CustomNetwork(nn.Module):
    """Any CNN for images of some bands, as a classifier of raw tiles with one logit.

    Args:
        backbone: ``(N, C, H, W)`` standardised tiles to ``(N, 1)`` logits, or to ``(N, 2)`` scores
            of non-road and road. Its first convolution is fitted to the bands, see
            :func:`fit_bands`.
        normalize: Standardises the bands.

    Shape:
        Raw tiles ``(N, C, H, W)``, float, to logits ``(N, 1)``; P(road) is their sigmoid, which for
        two scores is their softmax.

    Raises:
        ValueError: The first convolution cannot be fitted to the bands.
    """

    def __init__(self, backbone: nn.Module, normalize: Normalize) -> None:
        super().__init__()
        fit_bands(backbone, normalize.mean.shape[1])
        self.normalize = normalize
        self.backbone = backbone

    def forward(self, tiles: Tensor) -> Tensor:
        """The logits of raw tiles."""
        return road_logits(self.backbone(self.normalize(tiles)))


def road_logits(scores: Tensor) -> Tensor:
    """Logits ``(N, 1)`` of road for scores of non-road and road ``(N, 2)``; others as they are."""
    return scores[:, 1:] - scores[:, :1] if scores.shape[1:] == (2,) else scores


def first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """The name and the module of the first 2-D convolution that a network registers, if any."""
    layers = network.named_modules()
    return next(((name, each) for name, each in layers if isinstance(each, nn.Conv2d)), None)


@torch.no_grad()
def fit_bands(network: nn.Module, bands: int) -> None:
    """Re-makes the first convolution for a number of bands, in place, by :func:`weights_for_bands`.

    Raises:
        ValueError: The convolution has groups.
    """
    found = first_convolution(network)
    if found is None or found[1].in_channels == bands:
        return
    name, layer = found
    if layer.groups != 1:
        raise ValueError(
            f"{name} takes {layer.in_channels} bands in {layer.groups} groups, the data has"
            f" {bands}: give the network's own argument for the number of bands"
        )
    layer.in_channels = bands
    layer.weight = nn.Parameter(weights_for_bands(layer.weight, bands))


def weights_for_bands(weight: Tensor, bands: int) -> Tensor:
    """The weights of a first convolution for another number of bands.

    The filters of the bands are repeated in their order, each divided by how often it occurs; those
    of bands that are left out are shared among the others. So an image with equal bands gives what
    it gave before.

    Args:
        weight: ``(out, in, h, w)``.
        bands: The new number of bands.

    Returns:
        ``(out, bands, h, w)``.
    """
    before = weight.shape[1]
    if bands <= before:
        return weight[:, :bands] + weight[:, bands:].sum(1, keepdim=True) / bands
    order = torch.arange(bands, device=weight.device) % before
    return weight[:, order] / torch.bincount(order)[order].view(1, -1, 1, 1)


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint stores of the settings of a network: enough to build it without weights.

    Args:
        settings: The name of a callable under ``_target_``, and its arguments.

    Returns:
        The same without paths, addresses and arguments that name weights, such as ``pretrained``.
    """
    return {
        name: value
        for name, value in settings.items()
        if name == TARGET or not (_names_weights(name) or _is_path_or_address(value))
    }


def setting_errors(settings: Any, key: str) -> list[str]:  # noqa: ANN401
    """What is wrong with the settings of a network, one line each.

    Args:
        settings: A callable's name under ``_target_``, and arguments: numbers, truth values, texts,
            and lists and mappings of these.
        key: Their config key.
    """
    if not isinstance(settings, Mapping):
        return [f"{key}={settings}: must name a callable, as {key}.{TARGET}=NAME"]
    target = settings.get(TARGET)
    if target in (None, "???"):
        return [
            f"{key}.{TARGET}: is not set; name a callable that returns a network, as"
            f" {key}.{TARGET}=torchvision.models.resnet18, and its arguments, as"
            f" {key}.num_classes=1"
        ]
    if not isinstance(target, str) or not _is_callable(target):
        return [f"{key}.{TARGET}={target}: must be the full name of a callable, as package.name"]
    return [
        f"{key}.{name}: must be a number, true or false, text, or a list of these; for other"
        " arguments name a function of your own that builds the network"
        for name, value in settings.items()
        if name != TARGET and not (_is_argument(name) and _is_plain(value))
    ]


def described(settings: Mapping[str, Any] | str | None) -> str:
    """The call that builds a network, as text; the name of its class if Python code gave it."""
    if not isinstance(settings, Mapping):
        return str(settings)
    values = plain_settings(settings)
    arguments = ", ".join(f"{name}={each!r}" for name, each in values.items() if name != TARGET)
    return f"{values[TARGET]}({arguments})"


def build(settings: Mapping[str, Any], key: str) -> nn.Module:
    """Calls the callable that the settings of a network name.

    Args:
        settings: See :func:`setting_errors`.
        key: Their config key, for messages.

    Raises:
        UserError: The callable cannot be found, fails, or returns no module.
    """
    target = settings[TARGET]
    try:
        network = instantiate(dict(settings), _convert_="all")
    except InstantiationException as error:
        is_missing = "No module named 'timm'" in reason(error)
        raise UserError(
            f"{key}.{TARGET}={target}: cannot be built ({reason(error)}): give a callable that"
            f" returns a network, its arguments as {key}.NAME=VALUE"
            + (", or install timm: pip install 'vbp_lightning[models]'" if is_missing else "")
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(
            f"{key}.{TARGET}={target}: returns a {type(network).__name__}, not a network: give a"
            " callable that returns an nn.Module"
        )
    return network


def _is_argument(name: Any) -> bool:  # noqa: ANN401
    return isinstance(name, str) and name.isidentifier() and not name.startswith("_")


def _is_plain(value: Any) -> bool:  # noqa: ANN401
    if isinstance(value, Mapping):
        return all(_is_argument(name) and _is_plain(each) for name, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _is_path_or_address(value: Any) -> bool:  # noqa: ANN401
    """Whether a value is, or holds, the name of a file or an address."""
    if isinstance(value, Mapping):
        return any(map(_is_path_or_address, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_path_or_address, value))
    is_text = isinstance(value, str)
    return is_text and (not _is_name(value) or Path(value).suffix.lower() in _WEIGHT_FILES)
