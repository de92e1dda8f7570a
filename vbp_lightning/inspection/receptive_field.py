"""Exact receptive fields, followed through the operations of a forward pass.

Arithmetic of Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks"
(Distill 2019): a window of ``k`` taps at distance ``d``, stride ``s`` and padding ``p`` over maps
whose position ``i`` sees the pixels ``i·step + low … i·step + high`` writes maps whose position
sees ``i·(s·step) + low − p·step … i·(s·step) + high + (d·(k − 1) − p)·step``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from vbp_lightning.attribution.undisturbed import undisturbed
from vbp_lightning.inspection.layers import visiting


@dataclass(frozen=True)
class Extent:
    """What the positions of a map see of the input along one axis.

    Position ``i`` sees the pixels ``i · step + low`` to ``i · step + high``, both included; those
    outside the input are padding.

    Args:
        step: Pixels between what neighbouring positions see; 0 where all see the same.
        low: First pixel of position 0.
        high: Last pixel of position 0.
        count: Number of positions.
    """

    step: int
    low: int
    high: int
    count: int

    def slid(self, kernel: int, stride: int, padding: int, dilation: int, count: int) -> "Extent":
        """What the positions see of which a window writes ``count``."""
        return Extent(
            self.step * stride,
            self.low - padding * self.step,
            self.high + (dilation * (kernel - 1) - padding) * self.step,
            count,
        )

    def joined(self) -> "Extent":
        """What one position sees that reads all of these."""
        return Extent(0, self.low, self.high + (self.count - 1) * self.step, 1)

    def union(self, other: "Extent") -> "Extent":
        """What positions see that read both; of unlike steps, what any of them sees."""
        count = max(self.count, other.count)
        mine, theirs = self, other
        if self.step != other.step:
            mine, theirs = self.joined(), other.joined()
        return Extent(mine.step, min(mine.low, theirs.low), max(mine.high, theirs.high), count)


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
        """The part of it that lies in an image."""
        return Box(
            max(self.top, 0), max(self.left, 0), min(self.bottom, height), min(self.right, width)
        )


@dataclass(frozen=True)
class ReceptiveField:
    """Which pixels the positions of a layer's output depend on.

    Args:
        rows: Along the height.
        columns: Along the width.
    """

    rows: Extent
    columns: Extent

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, padding included."""
        return (
            self.rows.high - self.rows.low + 1,
            self.columns.high - self.columns.low + 1,
        )

    def box(self, row: int, column: int) -> Box:
        """The pixels that one position sees, padding included."""
        top = row * self.rows.step + self.rows.low
        left = column * self.columns.step + self.columns.low
        height, width = self.size
        return Box(top, left, top + height, left + width)

    def joined(self) -> "ReceptiveField":
        """That of one position which reads all of these."""
        return ReceptiveField(self.rows.joined(), self.columns.joined())

    def union(self, other: "ReceptiveField") -> "ReceptiveField":
        """That of positions which read both."""
        return ReceptiveField(self.rows.union(other.rows), self.columns.union(other.columns))


class Unfollowed(Exception):
    """An operation whose geometry is not known; names it."""


def receptive_fields(model: nn.Module, inputs: Tensor) -> dict[str, ReceptiveField | Unfollowed]:
    """The receptive field of every module's output.

    Args:
        model: Any network; found as it was left.
        inputs: ``(N, C, H, W)`` of the size that the fields are wanted for.

    Returns:
        By module name in order of execution. Where an operation on the way is not known (a
        transposed convolution, attention), what says so in place of the field.
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


_NORMALISATIONS = {
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_no_update",
}
_COPIES = {"clone", "_to_copy", "detach", "alias", "contiguous", "lift_fresh", "copy", "softmax"}
_SHAPES = {"view", "_unsafe_view", "_reshape_alias", "unsqueeze", "squeeze", "flatten"}
_MATRIX_PRODUCTS = {"mm", "addmm", "linear"}
_REDUCTIONS = {"mean", "sum", "amax", "amin", "logsumexp"}
_POOLS = {"max_pool2d_with_indices", "max_pool2d", "avg_pool2d"}
_ADAPTIVE_POOLS = {
    "_adaptive_avg_pool2d",
    "adaptive_avg_pool2d",
    "mkldnn_adaptive_avg_pool2d",
    "adaptive_max_pool2d",
}
_PADS = {"constant_pad_nd", "reflection_pad2d", "replication_pad2d"}


class _Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the receptive field of every tensor that comes from the input."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fields = WeakTensorKeyDictionary()
        height, width = inputs.shape[-2:]
        self._fields[inputs] = ReceptiveField(Extent(1, 0, 0, height), Extent(1, 0, 0, width))

    def field(self, tensor: Tensor) -> ReceptiveField | Unfollowed | None:
        """That of a tensor, None if it does not come from the input."""
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
            if name in _ADAPTIVE_POOLS:
                return _pooled_to_size(field, output)
            if name in _PADS:
                left, above = args[1][0], args[1][2] if len(args[1]) > 2 else 0
                return _slid(field, output, (1, 1), (1, 1), (above, left), (1, 1))
            if name in _NORMALISATIONS or name in _COPIES:
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


def _slid(
    field: ReceptiveField,
    output: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> ReceptiveField:
    rows, columns = (
        extent.slid(kernel[axis], stride[axis], padding[axis], dilation[axis], count)
        for axis, (extent, count) in enumerate(
            zip((field.rows, field.columns), output.shape[-2:], strict=True)
        )
    )
    return ReceptiveField(rows, columns)


def _convolved(field: ReceptiveField, args: tuple[Any, ...], output: Tensor) -> ReceptiveField:
    weight, stride, padding, dilation, transposed = args[1], *args[3:7]
    if transposed or weight.ndim != 4:
        raise Unfollowed("the geometry of this kind of convolution is not known")
    kernel = weight.shape[-2:]
    return _slid(field, output, kernel, _pair(stride), _pair(padding), _pair(dilation))


def _pooled(field: ReceptiveField, args: tuple[Any, ...], output: Tensor) -> ReceptiveField:
    kernel = _pair(args[1])
    stride = _pair(args[2]) if len(args) > 2 and len(args[2]) else kernel
    padding = _pair(args[3]) if len(args) > 3 else (0, 0)
    return _slid(field, output, kernel, stride, padding, (1, 1))


def _pooled_to_size(field: ReceptiveField, output: Tensor) -> ReceptiveField:
    counts = (field.rows.count, field.columns.count)
    if any(count % size for count, size in zip(counts, output.shape[-2:], strict=True)):
        raise Unfollowed("an adaptive pooling has windows of unequal size")
    kernel = [count // size for count, size in zip(counts, output.shape[-2:], strict=True)]
    return _slid(field, output, kernel, kernel, (0, 0), (1, 1))


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return values[0], values[-1]
