"""Reading files of ``torch.save`` that may come from anybody: dense tensors and builtins only."""

import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

_ALLOWED = {
    *("collections OrderedDict", "torch Size", "torch device"),
    *(f"torch._utils {name}" for name in ("_rebuild_tensor_v2", "_rebuild_parameter")),
    *("torch.nn.parameter Parameter", "torch.storage UntypedStorage"),
    *(f"torch {name}Storage" for name in ("Double", "Float", "Half", "BFloat16", "Untyped")),
    *("torch ComplexFloatStorage", "torch ComplexDoubleStorage"),
    *(f"torch {name}Storage" for name in ("Long", "Int", "Short", "Char", "Byte", "Bool")),
}
"""What a file may refer to. Torch allows more: buffers of any size, and tensors that are sparse,
quantised or without data."""

_PICKLES = 4
"""Pickles in a file of the format before torch 1.6, up to the one with the content."""

_DEPTH = 64
"""Levels of nested containers."""

_MOST = 4_000_000
"""Values in all containers, those that are shared counted each time."""

_LARGEST = 1 << 63


class ForeignContentError(Exception):
    """A file holds more than dense tensors and plain values."""


class UnreadableError(Exception):
    """A file is cut off, damaged, or of another type."""


def load_tensors(path: Path) -> Any:  # noqa: ANN401
    """Loads a file of ``torch.save`` onto the CPU, without running code from it.

    The memory that this takes is bounded by the size of the file: compressed parts, and tensors
    that show a value many times, are refused.

    Args:
        path: A regular file.

    Returns:
        Dense tensors and builtins (numbers, texts, lists, tuples, dicts).

    Raises:
        ForeignContentError: The file holds something else.
        UnreadableError: The file cannot be read.
    """
    try:
        _check_references(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        _check_values(content)
    except (ForeignContentError, UnreadableError):
        raise
    except Exception as error:  # a damaged pickle raises exceptions of every type
        raise UnreadableError from error
    return content


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold infinite numbers or NaN."""
    return [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]


def _check_references(path: Path) -> None:
    """Checks the archive and what its pickle refers to, before anything of it is made."""
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            _check_pickles(file, _PICKLES)
            return
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            is_stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
            if not is_stored or sum(part.file_size for part in parts) > path.stat().st_size:
                raise UnreadableError
            if archive.testzip() is not None:  # torch does not compare the checksums
                raise UnreadableError
            for part in parts:
                if part.filename.endswith(".pkl"):
                    with archive.open(part) as pickled:
                        _check_pickles(pickled, 1)


def _check_pickles(file: IO[bytes], count: int) -> None:
    for _ in range(count):
        for opcode, argument, _ in pickletools.genops(file):
            is_reference = opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL")
            if is_reference and argument not in _ALLOWED and not _is_dtype(argument):
                raise ForeignContentError


def _is_dtype(name: object) -> bool:
    module, _, attribute = str(name).partition(" ")
    return module == "torch" and isinstance(getattr(torch, attribute, None), torch.dtype)


def _check_values(content: object) -> None:
    """Checks the types, the nesting and the number of all values."""
    level, seen = [content], 0
    for _ in range(_DEPTH):
        level = list(islice(_inner_values(level), _MOST - seen))
        seen += len(level)
        if not level or seen == _MOST:
            break
    if level:
        raise UnreadableError


def _inner_values(values: list[object]) -> Iterator[object]:
    """Checks some values and yields those that the containers among them hold."""
    for value in values:
        if isinstance(value, dict):
            if not all(isinstance(key, str | int | float | None) for key in value):
                raise ForeignContentError
            yield from value.values()
        elif isinstance(value, list | tuple):
            yield from value
        elif isinstance(value, Tensor):
            held = value.untyped_storage().nbytes() if value.layout == torch.strided else 0
            if value.is_meta or value.is_quantized or value.numel() * value.element_size() > held:
                raise ForeignContentError
        elif isinstance(value, int):
            if not -_LARGEST <= value < _LARGEST:
                raise UnreadableError
        elif not isinstance(value, str | float | torch.dtype | torch.device | None):
            raise ForeignContentError
