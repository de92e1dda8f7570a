"""Settings as plain builtins, so that a checkpoint can hold them."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path


def target_of(kind: type) -> str:
    """Where Hydra finds a class; the package's own by their public names."""
    module = kind.__module__
    if module.startswith("vbp_lightning.data."):
        module = "vbp_lightning.data"
    return f"{module}.{kind.__qualname__}"


def plain(value: object) -> object:
    """A source's field as a plain builtin."""
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        members = {item.name: plain(getattr(value, item.name)) for item in fields(value)}
        return {"_target_": target_of(type(value)), **members}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value
