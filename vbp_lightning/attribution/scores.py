"""The score that an attribution explains, and contexts for differentiating a model."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vbp_lightning.attribution.undisturbed import undisturbed

Target = int | Tensor | None
"""A class for all samples, one class per sample (``(N,)`` integers), or None; see
:func:`class_scores`."""

Progress = Callable[[int], object]
"""Called with the number of samples after each chunk, to advance a progress bar."""

CHUNK = 16
"""Default number of samples per chunk. Larger chunks are not faster on either road network: on a
CPU the maps of 64 samples of the max-pool network exceed the memory that the allocator keeps, and
allocating it again takes up to as long as computing the maps."""


def class_scores(output: Tensor, target: Target = None) -> Tensor:
    """The unnormalised score of a class.

    Args:
        output: ``(N,)`` or ``(N, 1)`` logits of two classes, or ``(N, K)`` scores of K classes.
        target: The class of all samples, or ``(N,)`` classes. For a single logit, class 1 (road)
            is the logit and class 0 (non-road) its negative. None selects road, or with K classes
            the highest score of each sample.

    Returns:
        ``(N,)``.

    Raises:
        ValueError: The output has another shape, or a target is out of range.
    """
    if output.ndim == 1:
        output = output[:, None]
    if output.ndim != 2:
        raise ValueError(f"the model returns {tuple(output.shape)}; expected (N, K) scores")
    count, classes = output.shape
    if target is None:
        return output[:, 0] if classes == 1 else output.amax(dim=1)
    wanted = torch.as_tensor(target, device=output.device)
    if wanted.ndim == 0:
        wanted = wanted.expand(count)
    if wanted.shape != (count,) or wanted.is_floating_point():
        raise ValueError(f"target has the shape {tuple(wanted.shape)}; give one class or (N,)")
    known = max(2, classes)
    if len(wanted) and not (int(wanted.min()) >= 0 and int(wanted.max()) < known):
        raise ValueError(f"target is {target}; the network knows classes 0 to {known - 1}")
    if classes == 1:
        return torch.where(wanted == 1, output[:, 0], -output[:, 0])
    return output.gather(1, wanted[:, None].long())[:, 0]


def highest(model: nn.Module, inputs: Tensor) -> Tensor | None:
    """The class of each sample's highest score, ``(N,)``; None for a model of a single logit."""
    with undisturbed(model, inputs.device):
        output = model(inputs.clone())
    if output.ndim != 2 or output.shape[1] == 1:
        return None
    classes: Tensor = output.argmax(dim=1)
    return classes


class ScoreModel(nn.Module):
    """A model that returns the score of a class instead of all outputs.

    Args:
        model: Any classifier.
        target: See :func:`class_scores`.
    """

    def __init__(self, model: nn.Module, target: Target) -> None:
        super().__init__()
        self.model = model
        self.target = target

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N,)``.

        Raises:
            ValueError: The target has one class per sample, and their number differs from N.
        """
        target = self.target
        if isinstance(target, Tensor) and target.ndim == 1 and len(target) != len(inputs):
            # Captum repeats each sample, in an order that depends on the method.
            raise ValueError("give one class for all samples")
        # The model may change the copy, for instance by standardising in place.
        return class_scores(self.model(inputs.clone()), target)


@contextmanager
def differentiable(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode with gradients with respect to the input only; the model's state is restored.

    ReLUs run out of place, since hooks must not see a tensor that is overwritten.

    Args:
        model: Any module.
        device: The device of the model.
    """
    with undisturbed(model, device) as modules:
        frozen = [each for each in model.parameters() if each.requires_grad]
        in_place = [each for each in modules if getattr(each, "inplace", False) is True]
        try:
            for parameter in frozen:
                parameter.requires_grad_(False)
            for module in in_place:
                module.inplace = False  # type: ignore[assignment]
            with (
                torch.inference_mode(mode=False),
                torch.enable_grad(),
                warnings.catch_warnings(),
            ):
                # Captum warns about its own hooks and about inputs without gradients.
                warnings.simplefilter("ignore")
                yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)
            for module in in_place:
                module.inplace = True  # type: ignore[assignment]


def check_images(inputs: Tensor) -> None:
    """Checks that the inputs are a batch of images.

    Raises:
        ValueError: They are not ``(N, C, H, W)`` floating point.
    """
    if inputs.ndim != 4 or not inputs.is_floating_point():
        raise ValueError(
            f"inputs are {tuple(inputs.shape)} {inputs.dtype}; give (N, C, H, W) floating point"
        )


def in_chunks(
    act: Callable[[Tensor, Target], Tensor],
    inputs: Tensor,
    target: Target,
    size: int,
    progress: Progress | None = None,
) -> Tensor:
    """Applies an attribution in chunks of samples, which bounds its memory.

    Args:
        act: ``(n, C, H, W)`` and targets to ``(n, 1, H, W)``.
        inputs: ``(N, C, H, W)``.
        target: One for all samples or one per sample.
        size: Samples per chunk.
        progress: Called with the number of samples done after each chunk.

    Returns:
        ``(N, 1, H, W)``.

    Raises:
        ValueError: The inputs are not a batch of floating-point images.
    """
    check_images(inputs)
    each = isinstance(target, Tensor) and target.ndim == 1
    parts = []
    for start in range(0, len(inputs), size):
        part = inputs[start : start + size]
        parts.append(act(part, target[start : start + size] if each else target))  # type: ignore[index]
        if progress is not None:
            progress(len(part))
    if not parts:
        return inputs.new_zeros((0, 1, *inputs.shape[2:]))
    return torch.cat(parts)
