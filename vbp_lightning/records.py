"""Settings as frozen records that check types and ranges, and their errors as readable lines."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AllowInfNan, ConfigDict, Field, Strict, StrictInt, ValidationError
from pydantic_core import ErrorDetails

_R = TypeVar("_R")

RECORD = ConfigDict(extra="forbid")
"""Config of every record: ``@pydantic.dataclasses.dataclass(frozen=True, config=RECORD)``."""

Number = Annotated[float, Strict(), AllowInfNan(False)]
Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[StrictInt, Field(ge=0)]
PositiveCount = Annotated[StrictInt, Field(ge=1)]

_TYPES = {
    "bool_type": "true or false",
    "dict_type": "a mapping, as {name: value}",
    "finite_number": "a number",
    "float_type": "a number",
    "int_type": "a whole number",
    "mapping_type": "a mapping, as {name: value}",
    "path_type": "a path",
    "string_type": "text",
    "tuple_type": "a list in square brackets",
}
_BOUNDS = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "multiple_of": "a multiple of {multiple_of}",
}


@dataclass(frozen=True)
class _Place:
    """The setting that an error is about.

    Args:
        path: Names of the setting, from the record inwards.
        value: The given value.
        in_list: Whether the error is about an item of the value, which is a list.
        annotation: Type of the setting; None inside of free mappings.
        siblings: Names of all settings beside it.
    """

    path: tuple[str, ...]
    value: object
    in_list: bool
    annotation: Any
    siblings: tuple[str, ...]


def made(record: type[_R], key: str, values: Mapping[str, Any]) -> tuple[_R | None, list[str]]:
    """Makes a record, or says why it cannot be made.

    Args:
        record: Its class.
        key: Its config key.
        values: Its settings by name.

    Returns:
        The record; or None and one line for each error.
    """
    try:
        return record(**values), []
    except ValidationError as error:
        return None, error_lines(key, error, record, values)


def error_lines(
    key: str,
    error: ValidationError,
    record: Any,  # noqa: ANN401
    values: Mapping[str, Any],
) -> list[str]:
    """The errors of a record's settings, one line for each: key, value and what is allowed.

    A record checks the rules that concern several of its settings in a model validator, which
    raises a ``ValueError`` with one line for each error that begins with the name of a setting.

    Args:
        key: Config key of the record, such as ``data``; empty for settings at the top level.
        error: The exception that pydantic raised.
        record: The class of the record, a pydantic dataclass or model.
        values: The settings that the record was to be made from.

    Returns:
        Lines such as ``data.batch_size=0: must be at least 1``.
    """
    found: dict[tuple[str, ...], list[tuple[_Place, ErrorDetails]]] = {}
    for detail in error.errors(include_url=False):
        place = _place(detail, record, values)
        found.setdefault(place.path, []).append((place, detail))
    lines: list[str] = []
    for path, details in found.items():
        # Errors inside one alternative of a union show that this one was meant; those of the
        # other alternatives are dropped.
        if not any(other[: len(path)] == path and other != path for other in found if path):
            lines += _lines(key, details)
    return lines


def _place(detail: ErrorDetails, record: Any, values: Mapping[str, Any]) -> _Place:  # noqa: ANN401
    """Follows an error's location, without the names of types that pydantic adds for unions."""
    path: list[str] = []
    value: Any = values
    annotation, fields = record, record.__pydantic_fields__
    siblings = tuple(fields)
    for part in detail["loc"]:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(part, int):
            return _Place(tuple(path), value, True, annotation, siblings)
        elif detail["type"] != "missing" or part not in fields:
            continue
        path.append(str(part))
        siblings = tuple(fields)
        annotation = fields[part].annotation if part in fields else None
        inner = _record_in(annotation)
        fields = inner.__pydantic_fields__ if inner else {}
    return _Place(tuple(path), value, False, annotation, siblings)


def _lines(key: str, details: list[tuple[_Place, ErrorDetails]]) -> Iterator[str]:
    """The lines of one setting."""
    place, first = details[0]
    name = ".".join(filter(None, (key, *place.path)))
    if first["type"] == "value_error":
        yield from (f"{name}.{line}" for line in str(first["ctx"]["error"]).splitlines())
    elif first["type"] == "unexpected_keyword_argument":
        yield f"{name}: is no setting; choose among {', '.join(place.siblings)}"
    elif first["type"] == "missing" and not place.in_list:
        yield f"{name}: is not set; add {name}=… to the command"
    else:
        choices = dict.fromkeys(_allowed(name, where, detail) for where, detail in details)
        parts = [choice for choice in choices if choice.startswith("given")]
        plain = [choice for choice in choices if choice not in parts]
        if NoneType in get_args(place.annotation):
            plain.append("null")
        yield f"{name}={place.value}: must be {' or '.join(plain + parts)}"


def _allowed(name: str, place: _Place, detail: ErrorDetails) -> str:
    """What one alternative of a setting's type allows."""
    if place.in_list:
        return _TYPES["tuple_type"]
    if detail["type"] in _BOUNDS:
        return _BOUNDS[detail["type"]].format(**detail["ctx"])
    if detail["type"] == "literal_error":
        return str(detail["ctx"]["expected"]).replace("'", "").replace(", ", " or ").lower()
    inner = _record_in(place.annotation)
    if detail["type"] == "dataclass_type" and inner:
        return f"given part by part, as {name}.{next(iter(inner.__pydantic_fields__))}=…"
    return _TYPES.get(detail["type"], detail["msg"])


def _record_in(annotation: Any) -> Any:  # noqa: ANN401
    """The record among the alternatives of a type, if any."""
    alternatives = (annotation, *get_args(annotation))
    return next((each for each in alternatives if hasattr(each, "__pydantic_fields__")), None)
