"""Running a model without leaving a trace on it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Every module of a model once, itself first: ``model.modules()``, only faster."""
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
    """Eval mode without gradients; every submodule's own mode and the random state come back.

    The flags are set directly: ``eval()`` may be overridden, and a submodule that was frozen in
    eval mode must not wake up in training mode.

    Args:
        model: Any module; put into eval mode with all its submodules.
        device: Where it runs: the random state of this device and of the CPU is restored.

    Yields:
        The modules of the model.
    """
    modules = modules_of(model)
    modes = [module.training for module in modules]
    random_state = torch.default_generator.get_state()
    backend = None if device.type == "cpu" else torch.get_device_module(device)
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
