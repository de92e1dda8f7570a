"""Settings of the wrong kind: text where a number belongs, and the like."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from math import isfinite, isinf
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_NAMES: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    NoneType: "null",
    Sequence: "a list in square brackets",
    tuple: "a list in square brackets",
    Mapping: "a mapping, as {name: value}",
}


def record_faults(key: str, record: Any) -> list[str]:  # noqa: ANN401
    """Fields of a dataclass, and of those in it, that are of another kind than they say.

    Args:
        key: The config key of the record, as ``data.source``.
        record: A dataclass's instance.
    """
    hints = get_type_hints(type(record))
    values = {item.name: getattr(record, item.name) for item in fields(record)}
    return kind_faults(key, values, hints)


def kind_faults(
    key: str, values: Mapping[str, object], hints: Mapping[str, Any], finite: bool = True
) -> list[str]:
    """Settings of another kind than their type hints say, one line each.

    Args:
        key: The config key that they belong to.
        values: By name.
        hints: By name; those without one are not looked at.
        finite: Whether infinity is refused as a number, as NaN always is.
    """
    lines = []
    for name, value in values.items():
        if name not in hints:
            continue
        kinds = _alternatives(hints[name])
        records = [kind for kind in kinds if is_dataclass(kind)]
        if type(value) in records:
            lines += record_faults(f"{key}.{name}", value)
        elif not _fits(value, hints[name], finite):
            named = [_name(kind) for kind in kinds if kind not in records]
            named += [
                f"given part by part, as {key}.{name}.{fields(kind)[0].name}=…" for kind in records
            ]
            lines.append(f"{key}.{name}={value}: must be {' or '.join(dict.fromkeys(named))}")
    return lines


def _alternatives(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _name(hint: Any) -> str:  # noqa: ANN401
    if get_origin(hint) is Literal:
        return " or ".join(str(value).lower() for value in get_args(hint))
    return _NAMES[get_origin(hint) or hint]


def _fits(value: object, hint: Any, finite: bool) -> bool:  # noqa: ANN401
    """Whether a value is of a kind. NaN is no number, true and false are none either."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one, finite) for one in parts)
    if origin is Literal:
        return value in parts
    if origin in (Sequence, tuple):
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        return listed and all(_fits(item, parts[0], finite) for item in value)  # type: ignore[attr-defined]
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _fits(item, parts[1], finite) for item in value.values()
        )
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, Real) and (isfinite(value) or (isinf(value) and not finite))
    if hint is int:
        return isinstance(value, Integral)
    # other generic hints are a foreign source's own business
    return isinstance(value, hint) if isinstance(hint, type) else True
