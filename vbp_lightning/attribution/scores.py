"""The score that an attribution explains, and the images that it is given."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vbp_lightning.graph.outputs import output_named

ClassTarget = int | Tensor | None
"""A class for all samples, one class per sample (``(N,)`` integers), or None for the most likely
one; see :func:`class_scores`."""

Target = ClassTarget | tuple[int | str, ClassTarget]
"""A class, or for a network with several outputs the key or index of one of them and a class."""

Progress = Callable[[int], object]
"""Called with the number of samples after each chunk, to advance a progress bar."""

CHUNK = 16
"""Default number of samples per chunk. Larger chunks are not faster on either road network: on a
CPU the maps of 64 samples of the max-pool network exceed the memory that the allocator keeps, and
allocating it again takes up to as long as computing the maps."""


def head_of(output: Any, target: Target = None) -> tuple[Tensor, ClassTarget]:  # noqa: ANN401
    """The output of a network that a target is about, and the class.

    Args:
        output: What the network returns: a tensor, or a dictionary, sequence or dataclass of them.
        target: A class if there is one tensor only; otherwise the key or index of one and a class.

    Raises:
        ValueError: There is no such output, or one of several must be named.
    """
    name, wanted = target if isinstance(target, tuple) else (None, target)
    return output_named(output, name), wanted


def class_scores(output: Any, target: Target = None) -> Tensor:  # noqa: ANN401
    """The unnormalised score of a class.

    Args:
        output: ``(N,)`` or ``(N, 1)`` logits of two classes, or ``(N, K)`` scores of K classes; of
            a network with several outputs all of them, see :func:`head_of`.
        target: The class of all samples, or ``(N,)`` classes. For a single logit, class 1 (road)
            is the logit and class 0 (non-road) its negative. None selects road, or with K classes
            the highest score of each sample. Of several outputs, the key or index of one and its
            class: ``("roads", 1)``.

    Returns:
        ``(N,)``.

    Raises:
        ValueError: The output has another shape, a target is out of range, or of several outputs
            none is named.
    """
    scores = scores_by_class(output, target)
    return scores.gather(1, classes_of(output, target)[:, None])[:, 0]


def scores_by_class(output: Any, target: Target = None) -> Tensor:  # noqa: ANN401
    """``(N, K)`` scores of all classes of the output that a target names, K at least 2."""
    head, _ = head_of(output, target)
    if head.ndim not in (1, 2):
        shape = ", ".join(map(str, ("N", *head.shape[1:])))
        raise ValueError(f"the model returns ({shape}); expected (N, K) scores")
    single = head.ndim == 1 or head.shape[1] == 1
    return torch.stack([-head.flatten(), head.flatten()], 1) if single else head


def classes_of(output: Any, target: Target = None) -> Tensor:  # noqa: ANN401
    """``(N,)`` the class of each sample whose score :func:`class_scores` returns."""
    head, wanted = head_of(output, target)
    count, known = scores_by_class(output, target).shape
    if wanted is None:
        single = head.ndim == 1 or head.shape[1] == 1
        return head.new_ones(count, dtype=torch.long) if single else head.argmax(dim=1)
    classes = torch.as_tensor(wanted, device=head.device)
    if classes.ndim == 0:
        classes = classes.expand(count)
    if classes.shape != (count,) or classes.is_floating_point():
        raise ValueError(f"target has the shape {tuple(classes.shape)}; give one class or (N,)")
    if count and not (int(classes.min()) >= 0 and int(classes.max()) < known):
        raise ValueError(f"target is {wanted}; the network knows classes 0 to {known - 1}")
    return classes.long()


def part_of(target: Target, samples: slice) -> Target:
    """The target of some of the samples."""
    if isinstance(target, tuple):
        return target[0], part_of(target[1], samples)  # type: ignore[return-value]
    return target[samples] if isinstance(target, Tensor) and target.ndim == 1 else target


def images_of(inputs: Tensor | npt.NDArray[np.floating], model: nn.Module) -> Tensor:
    """Images as the network takes them.

    Args:
        inputs: ``(N, C, H, W)`` floating point: a tensor, or an array, which gets the type and the
            device of the network's parameters; inside of autocast a tensor gets their type too.
        model: The network.

    Returns:
        The tensor, or a copy of one that was made in inference mode.

    Raises:
        ValueError: They are not ``(N, C, H, W)`` floating point.
    """
    is_array = isinstance(inputs, np.ndarray)
    if isinstance(inputs, np.ndarray):
        inputs = torch.from_numpy(np.ascontiguousarray(inputs, inputs.dtype.newbyteorder("=")))
    if is_array or torch.is_autocast_enabled(inputs.device.type):
        like = next((each for each in model.parameters() if each.is_floating_point()), inputs)
        inputs = inputs.to(like.device, like.dtype if inputs.is_floating_point() else inputs.dtype)
    if inputs.ndim != 4 or not inputs.is_floating_point():
        hint = "; a single image is a batch as inputs[None]" if inputs.ndim == 3 else ""
        raise ValueError(
            f"inputs are {tuple(inputs.shape)} {str(inputs.dtype).removeprefix('torch.')}; give "
            f"(N, C, H, W) floating point, raw as the model takes them{hint}"
        )
    if inputs.is_inference():
        with torch.inference_mode(mode=False):
            inputs = inputs.clone()
    return inputs
