"""Running a model without leaving a trace on it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode without gradients; every submodule's own mode and the random state come back.

    The flags are set directly: ``eval()`` may be overridden, and a submodule that was frozen in
    eval mode must not wake up in training mode.

    Args:
        model: Any module; put into eval mode with all its submodules.
        device: Where it runs: the random state of this device and of the CPU is restored.
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = [] if device.type == "cpu" else [device]
    try:
        for module, training in modes:
            if training:
                module.training = False
        with torch.no_grad(), torch.random.fork_rng(devices=devices, device_type=_backend(device)):
            yield
    finally:
        for module, training in modes:
            if module.training != training:
                module.training = training


def _backend(device: torch.device) -> str:
    # With no device to restore, fork_rng still wants the name of a backend that it knows.
    return "cuda" if device.type == "cpu" else device.type
