"""Exact receptive fields, computed from the operations of a forward pass.

The arithmetic is that of Araujo, Norris and Sim, "Computing receptive fields of convolutional
neural networks" (Distill 2019). The position ``i`` of a map sees the pixels ``i·step + low`` to
``i·step + high``. The positions of the output of a window with ``k`` taps at distance ``d``, stride
``s`` and padding ``p`` over this map see ``i·(s·step) + low − p·step`` to ``i·(s·step) + high +
(d·(k − 1) − p)·step``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from vbp_lightning.attribution.undisturbed import undisturbed
from vbp_lightning.inspection.layers import visiting

Pair = npt.NDArray[np.int64]
"""``(2,)`` numbers along rows and columns."""


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels; it may reach beyond the image, into the padding.

    Args:
        top: First row.
        left: First column.
        bottom: One past the last row.
        right: One past the last column.
    """

    top: int
    left: int
    bottom: int
    right: int

    def clipped(self, height: int, width: int) -> "Box":
        """The part that lies inside an image."""
        return Box(
            max(self.top, 0), max(self.left, 0), min(self.bottom, height), min(self.right, width)
        )


@dataclass(frozen=True)
class ReceptiveField:
    """The pixels that the positions of a layer's output depend on, along rows and columns.

    Position ``i`` sees the pixels ``i · step + low`` to ``i · step + high``, both included; pixels
    outside the image are padding.

    Args:
        step: Distance in pixels between the fields of neighbouring positions; 0 if all positions
            have the same field.
        low: First pixel of position 0.
        high: Last pixel of position 0.
        count: Number of positions.
    """

    step: Pair
    low: Pair
    high: Pair
    count: Pair

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, padding included."""
        height, width = (self.high - self.low + 1).tolist()
        return height, width

    def box(self, row: int, column: int) -> Box:
        """The pixels that one position sees, padding included."""
        top, left = ([row, column] * self.step + self.low).tolist()
        height, width = self.size
        return Box(top, left, top + height, left + width)

    def through(
        self,
        output: Tensor,
        kernel: Sequence[int] | Pair,
        stride: Sequence[int] | Pair,
        padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
    ) -> "ReceptiveField":
        """The field of the output of a window; one number applies to both axes."""
        k, s, p, d = (np.asarray(each, np.int64) for each in (kernel, stride, padding, dilation))
        high = self.high + (d * (k - 1) - p) * self.step
        return ReceptiveField(
            self.step * s, self.low - p * self.step, high, np.array(output.shape[-2:])
        )

    def joined(self) -> "ReceptiveField":
        """The field of one position that depends on all of these."""
        high = self.high + (self.count - 1) * self.step
        return ReceptiveField(0 * self.step, self.low, high, np.ones_like(self.count))

    def union(self, other: "ReceptiveField") -> "ReceptiveField":
        """The field of positions that depend on both; on all positions if the steps differ."""
        same = self.step == other.step
        high = np.maximum(self.high, other.high)
        whole = np.maximum(self.joined().high, other.joined().high)
        return ReceptiveField(
            self.step * same,
            np.minimum(self.low, other.low),
            np.where(same, high, whole),
            np.maximum(self.count, other.count),
        )


class Unfollowed(Exception):
    """The reason why a receptive field is not known: an operation with unknown geometry."""


def receptive_fields(model: nn.Module, inputs: Tensor) -> dict[str, ReceptiveField | Unfollowed]:
    """The receptive field of every module's output.

    Args:
        model: Any network; left unchanged.
        inputs: ``(N, C, H, W)`` of the size for which the fields are computed.

    Returns:
        By module name in order of execution. Behind an operation that is not supported (transposed
        convolution, attention), the reason is given instead of the field.
    """
    fields: dict[str, ReceptiveField | Unfollowed] = {}
    inputs = inputs[:1].clone()
    follower = _Follower(inputs)

    def keep(name: str, _: nn.Module, output: Tensor) -> None:
        field = follower.field(output)
        if field is not None:
            fields[name] = field

    with undisturbed(model, inputs.device), visiting(model, keep), follower:
        model(inputs)
    return fields


_COPIES = {"clone", "_to_copy", "detach", "alias", "contiguous", "lift_fresh", "copy", "softmax"}
_SHAPES = {"view", "_unsafe_view", "_reshape_alias", "unsqueeze", "squeeze", "flatten"}
_MATRIX_PRODUCTS = {"mm", "addmm", "linear"}
_REDUCTIONS = {"mean", "sum", "amax", "amin", "logsumexp"}
_POOLS = {"max_pool2d_with_indices", "max_pool2d", "avg_pool2d"}
_PADS = {"constant_pad_nd", "reflection_pad2d", "replication_pad2d"}


class _Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the receptive field of every tensor that depends on the input."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fields = WeakTensorKeyDictionary()
        one, zero = np.ones(2, np.int64), np.zeros(2, np.int64)
        self._fields[inputs] = ReceptiveField(one, zero, zero, np.array(inputs.shape[-2:]))

    def field(self, tensor: Tensor) -> ReceptiveField | Unfollowed | None:
        """The field of a tensor; None if it does not depend on the input."""
        found: ReceptiveField | Unfollowed | None = self._fields.get(tensor)  # type: ignore[no-untyped-call]
        return found

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        listed = args[0] if args and isinstance(args[0], list | tuple) else args
        read = [
            (value, field)
            for value in listed
            if isinstance(value, Tensor) and (field := self.field(value)) is not None
        ]
        output = result[0] if isinstance(result, list | tuple) and result else result
        if read and isinstance(output, Tensor):
            self._fields[output] = self._written(func, args, read, output)
        return result

    def _written(
        self,
        func: Any,  # noqa: ANN401
        args: tuple[Any, ...],
        read: Sequence[tuple[Tensor, ReceptiveField | Unfollowed]],
        output: Tensor,
    ) -> ReceptiveField | Unfollowed:
        fields = []
        for _, field in read:
            if isinstance(field, Unfollowed):
                return field
            fields.append(field)
        name = func.name().split("::")[-1].split(".")[0]
        name = name if name.startswith("_") else name.rstrip("_")
        before, field = read[0][0], fields[0]
        try:
            if name == "convolution":
                return _convolved(field, args, output)
            if name in _POOLS:
                return _pooled(field, args, output)
            if "adaptive" in name and name.endswith("pool2d"):
                return _pooled_to_size(field, output)
            if name in _PADS:
                left, above = args[1][0], args[1][2] if len(args[1]) > 2 else 0
                return field.through(output, (1,), (1,), (above, left))
            if "batch_norm" in name or name in _COPIES:
                return field
            if name in _MATRIX_PRODUCTS:
                return field.joined()
            if name in _SHAPES or name in _REDUCTIONS:
                same = output.ndim == 4 and output.shape[-2:] == before.shape[-2:]
                return field if same else field.joined()
            if torch.Tag.pointwise in func.tags or (name == "cat" and args[1:] == (1,)):
                for other in fields[1:]:
                    field = field.union(other)
                return field
        except Unfollowed as unfollowed:
            return unfollowed
        return Unfollowed(f"the geometry of {name} is not known")


def _convolved(field: ReceptiveField, args: tuple[Any, ...], output: Tensor) -> ReceptiveField:
    weight, stride, padding, dilation, transposed = args[1], *args[3:7]
    if transposed or weight.ndim != 4:
        raise Unfollowed("the geometry of this type of convolution is not known")
    return field.through(output, weight.shape[-2:], stride, padding, dilation)


def _pooled(field: ReceptiveField, args: tuple[Any, ...], output: Tensor) -> ReceptiveField:
    stride = args[2] if len(args) > 2 and args[2] else args[1]
    padding = args[3] if len(args) > 3 else (0,)
    return field.through(output, args[1], stride, padding)


def _pooled_to_size(field: ReceptiveField, output: Tensor) -> ReceptiveField:
    kernel, rest = np.divmod(field.count, output.shape[-2:])
    if rest.any():
        raise Unfollowed("an adaptive pooling has windows of unequal size")
    return field.through(output, kernel, kernel)
