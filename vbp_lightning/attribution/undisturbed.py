"""Running a model without changing its state."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Every module of a model once, the model first: a faster ``model.modules()``."""
    found = {model: None}
    waiting = [model]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and child not in found:
                found[child] = None
                waiting.append(child)
    return list(found)


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Iterator[list[nn.Module]]:
    """Eval mode without gradients; restores the mode of every submodule and the random state.

    The flags are set directly, since ``eval()`` may be overridden and a submodule that was frozen
    in eval mode must stay in eval mode afterwards.

    Args:
        model: Any module; put into eval mode with all its submodules.
        device: The device of the model; its random state and that of the CPU are restored, except
            that of the device while a CUDA graph is captured, when it cannot be read.

    Yields:
        The modules of the model.
    """
    modules = modules_of(model)
    modes = [module.training for module in modules]
    random_state = torch.default_generator.get_state()
    backend = None if device.type == "cpu" else torch.get_device_module(device)
    if backend is not None and device.type == "cuda" and backend.is_current_stream_capturing():
        backend = None
    device_state = None if backend is None else backend.get_rng_state(device)
    try:
        for module in modules:
            if module.training:
                module.training = False
        with torch.no_grad():
            yield modules
    finally:
        for module, training in zip(modules, modes, strict=True):
            if module.training != training:
                module.training = training
        torch.default_generator.set_state(random_state)
        if backend is not None:
            backend.set_rng_state(device_state, device)
