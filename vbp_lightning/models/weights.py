"""Files of weights: state dicts, from anybody."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import shorten

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vbp_lightning.errors import UserError
from vbp_lightning.models.custom_network import first_convolution, weights_for_bands
from vbp_lightning.models.tensor_file import (
    ForeignContentError,
    UnreadableError,
    load_tensors,
    not_finite,
)

_LONGEST = 400
_NAMED = 4


def read_state(path: Path, key: str) -> Mapping[str, Tensor]:
    """Reads a state dict; code in the file is never executed.

    Args:
        path: A ``.safetensors`` file, or one of ``torch.save`` that holds only tensors: a state
            dict, or a dict with one under the key ``state_dict``.
        key: The config key that named it, for messages.

    Raises:
        UserError: The file is missing, unreadable, or holds pickled objects or no state dict.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file ({key}): give a state dict")
    try:
        stored = load_file(path) if path.suffix == ".safetensors" else load_tensors(path)
    except ForeignContentError as error:
        raise UserError(
            f"{path}: holds more than tensors, which could run code when loaded; it was not "
            f"loaded ({key}): save the network's state_dict, best as safetensors"
        ) from error
    except (UnreadableError, SafetensorError, RuntimeError, OSError, MemoryError) as error:
        raise UserError(
            f"{path}: cannot be read as weights ({key}): the file is cut off or of "
            "another type; give a state dict as .safetensors or .pt"
        ) from error
    if isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict):
        stored = stored["state_dict"]
    if not isinstance(stored, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in stored.items()
    ):
        raise UserError(f"{path}: holds no state dict ({key}): save the network's state_dict()")
    return stored


def refuse_lost_numbers(state: Mapping[str, Tensor], path: Path, key: str) -> None:
    """Refuses weights that are not finite.

    Raises:
        UserError: A tensor holds infinite numbers or NaN.
    """
    if wrong := not_finite(state):
        raise UserError(
            f"{path}: {len(wrong)} of its {len(state)} tensors hold numbers that are not finite, "
            f"{shorten(wrong[0], _LONGEST)} among them ({key}): its training diverged; "
            "give other weights"
        )


@torch.no_grad()
def start_from_weights(network: nn.Module, path: Path, key: str) -> str:
    """Copies the weights of a file that fit into a network, in place.

    The first convolution is fitted to the network's bands by
    :func:`~vbp_lightning.models.custom_network.weights_for_bands`. The last layer keeps its initial
    weights where the file's head has another size. Names may have a common prefix, such as
    ``module.``.

    Args:
        network: The network.
        path: See :func:`read_state`.
        key: The config key that named it, for messages.

    Returns:
        One line that states what was copied, what the file lacks, and what it holds besides.

    Raises:
        UserError: The file cannot be used, or belongs to another network.
    """
    own = network.state_dict()
    found = _without_prefix(read_state(path, key), next(iter(own), ""))
    convolution = first_convolution(network)
    first = f"{convolution[0]}.weight".lstrip(".") if convolution is not None else ""
    notes = []
    if first in found and found[first].ndim == 4 and found[first].shape[1] != own[first].shape[1]:
        notes.append(f"{first} fitted from {found[first].shape[1]} to {own[first].shape[1]} bands")
        found[first] = weights_for_bands(found[first], own[first].shape[1])
    common = own.keys() & found.keys()
    other = [
        each
        for each in own
        if each in common
        and (
            own[each].shape != found[each].shape
            or own[each].is_floating_point() != found[each].is_floating_point()
        )
    ]
    last = [
        name for name, each in network.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)
    ]
    head = {f"{last[-1]}.weight", f"{last[-1]}.bias"} if last else set()
    misfits = [each for each in other if each not in head]
    if misfits or not common - head:
        shapes = [
            f"{each} {_shape(found[each])} instead of {_shape(own[each])}" for each in misfits
        ]
        why = _some(shapes) if misfits else f"it holds {_some(found)}, the network {_some(own)}"
        raise UserError(
            f"{path}: belongs to another network ({key}, model): {shorten(why, _LONGEST)}"
        )
    taken = {each: found[each] for each in common - set(other)}
    refuse_lost_numbers(taken, path, key)
    network.load_state_dict(taken, strict=False)
    notes += [
        f"{each} left out, {_shape(found[each])} instead of {_shape(own[each])}" for each in other
    ]
    counters = "num_batches_tracked"
    if missing := [each for each in own if each not in found and not each.endswith(counters)]:
        notes.append(f"not in the file, so initial: {_some(missing)}")
    if extra := [each for each in found if each not in own]:
        notes.append(f"not in the network: {_some(extra)}")
    return "; ".join(
        [f"starting from {path} ({key}): {len(taken)} of {len(own)} tensors fit", *notes]
    )


def _without_prefix(state: Mapping[str, Tensor], first: str) -> dict[str, Tensor]:
    """A state dict without what precedes the name of a network's first tensor in it, if anything.

    Of several names that end like it, the shortest is that of the tensor.
    """
    prefixes = (name.removesuffix(first) for name in state if name.endswith(first))
    prefix = min(prefixes, key=len, default="")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _shape(tensor: Tensor) -> str:
    sides = "×".join(map(str, tensor.shape)) or "one value"
    kind = "" if tensor.is_floating_point() else f" of {tensor.dtype}".replace("torch.", "")
    return sides + kind


def _some(names: Iterable[str]) -> str:
    """The first names, and how many there are besides."""
    known = list(names)
    more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return ", ".join(known[:_NAMED]) + more if known else "nothing"
