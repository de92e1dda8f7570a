"""The outputs of a network that returns one tensor or several."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor
from torch.fx import Node

Head = str | int | None
"""Key or index of an output of a network with several outputs."""


def outputs_of(returned: Any, name: str = "") -> dict[str, Any]:  # noqa: ANN401
    """The tensors, or operations, that a network returns, by name.

    Args:
        returned: A tensor, or a dictionary, sequence or dataclass of these, possibly nested.
        name: The name of what is returned.

    Returns:
        Keys of dictionaries, indices of sequences and names of fields, joined by dots.
    """
    if isinstance(returned, Tensor | Node):
        return {name: returned}
    parts: dict[Any, Any] = {}
    if isinstance(returned, Mapping):
        parts = dict(returned)
    elif isinstance(returned, list | tuple):
        parts = dict(zip(getattr(returned, "_fields", range(len(returned))), returned, strict=True))
    elif is_dataclass(returned):
        parts = vars(returned)
    found = (outputs_of(each, f"{name}.{key}" if name else f"{key}") for key, each in parts.items())
    return {key: each for part in found for key, each in part.items()}


def output_named(returned: Any, head: Head) -> Any:  # noqa: ANN401
    """One of the outputs of a network.

    Args:
        returned: See :func:`outputs_of`.
        head: Its key or index; None if there is one only.

    Raises:
        ValueError: There is no such output, or one of several must be named.
    """
    known = outputs_of(returned)
    if isinstance(head, int) and isinstance(returned, list | tuple):
        count = len(returned)
        names = getattr(returned, "_fields", range(count))
        head = names[head] if -count <= head < count else head
    chosen = [
        each
        for name, each in known.items()
        if head is None or name == str(head) or name.startswith(f"{head}.")
    ]
    if len(chosen) == 1:
        return chosen[0]
    wrong = "names no output" if head is None else f"names the output {head!r}"
    returns = ", ".join(known) or ("a single tensor" if known else "no tensor")
    raise ValueError(
        f"target {wrong}, and the network returns {returns}: give target=(output, class)"
    )
