"""Settings that check types and ranges, and their errors as readable lines.

Settings are the fields of a frozen record, or the annotated arguments of a function or a class.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StrictInt,
    ValidationError,
    create_model,
)
from pydantic_core import ErrorDetails, PydanticCustomError

_P = ParamSpec("_P")
_R = TypeVar("_R")

RECORD = ConfigDict(extra="forbid")
"""Config of every record: ``@pydantic.dataclasses.dataclass(frozen=True, config=RECORD)``."""

Number = Annotated[float, Strict(), AllowInfNan(False)]
Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[StrictInt, Field(ge=0)]
PositiveCount = Annotated[StrictInt, Field(ge=1)]
Size = Annotated[Number, Field(ge=0)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**32)]


def own_settings(node: Mapping[Any, Any]) -> dict[Any, Any]:
    """The settings of a node of a config without those of Hydra, such as ``_target_``."""
    return {name: value for name, value in node.items() if not str(name).startswith("_")}


def one_of(values: Iterable[object]) -> AfterValidator:
    """The validator of a setting that must be one of some values."""
    known = list(values)
    return only(known.__contains__, " or ".join(map(str, known)))


def only(holds: Callable[[Any], bool], what: str) -> AfterValidator:
    """The validator of a setting for which a condition must hold; ``what`` states it."""

    def check(value: _R) -> _R:
        if not holds(value):
            raise PydanticCustomError("condition", what)
        return value

    return AfterValidator(check)


def _as_text(value: object) -> object:
    """A number as text: YAML and Hydra read the name of a folder such as ``2024`` as a number."""
    if value == "":
        raise PydanticCustomError("condition", "the name of a file or folder")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value


PathName = Annotated[Path, BeforeValidator(_as_text)]
"""A path; its name may be a number."""

_TYPES = {
    "bool_type": "true or false",
    "dict_type": "a mapping, as {name: value}",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "a whole number",
    "mapping_type": "a mapping, as {name: value}",
    "path_type": "a path",
    "string_type": "text",
    "tuple_type": "a list in square brackets",
}
_BOUNDS = {
    "greater_than": "above {gt:.10g}",
    "greater_than_equal": "at least {ge:.10g}",
    "less_than": "below {lt:.10g}",
    "less_than_equal": "at most {le:.10g}",
    "multiple_of": "a multiple of {multiple_of}",
    "too_long": "a list of at most {max_length} values",
    "too_short": "a list of at least {min_length} values",
}
_AS_TYPED = {"None": "null", "True": "true", "False": "false"}
"""Values of Python in the notation of YAML."""

_PLAIN = (bool, int, float, str, Path, NoneType)


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


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Lets a function or an ``__init__`` check its arguments by their annotations.

    Only arguments that are numbers, text, switches, or lists of them are checked.

    Args:
        function: Its annotations, such as ``PositiveCount`` or a ``Literal``, state what is
            allowed.

    Returns:
        The function; it raises a ``ValueError`` with one line for each wrong argument.
    """

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        given = signature(function).bind(*args, **kwargs).arguments
        given.pop("self", None)
        lines = argument_errors("", function, given)
        if lines:
            raise ValueError("\n".join(lines))
        return function(*args, **kwargs)

    return call


def argument_errors(
    key: str, function: Callable[..., Any], values: Mapping[str, Any], *given: str
) -> list[str]:
    """One line for each argument that is unknown, missing, of a wrong type or out of range.

    Types are strict (``true`` is no number, ``1.5`` no whole number), except that a whole number
    is also a number and a list also a tuple: the rules of JSON.

    Args:
        key: The config key that the arguments belong to; empty for the top level.
        function: A function or a class.
        values: The arguments by name, as plain builtins.
        *given: Names of arguments that the caller gives and ``values`` must not hold.
    """
    model, takes_more = _arguments(function, given)
    known = model.__pydantic_fields__
    name_of = ".".join((*filter(None, (key,)), "{}")).format
    lines = [
        f"{name_of(name)}: is not an option; choose among {', '.join(known)}"
        for name in values
        if name not in known and not takes_more
    ]
    # JSON has no NaN: as text it is refused as a number, and the line shows it.
    plain = {
        name: "nan" if isinstance(value, float) and value != value else value
        for name, value in values.items()
        if name in known and known[name].annotation is not Any
    }
    opaque = dict.fromkeys(values.keys() - plain.keys())
    try:
        model.model_validate_json(json.dumps(plain | opaque, default=_plain))
    except ValidationError as error:
        lines += error_lines(key, error, model, values)
    return lines


def _plain(value: Any) -> object:  # noqa: ANN401
    """A value that JSON lacks: numbers of NumPy and torch, lists of OmegaConf, others as text."""
    if isinstance(value, Sequence):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


@lru_cache(maxsize=256)
def _arguments(
    function: Callable[..., Any], given: tuple[str, ...] = ()
) -> tuple[type[BaseModel], bool]:
    """A model of the arguments of a function, and whether it takes others by ``**``.

    Arguments of other than plain types may be anything.
    """
    parameters = [
        each
        for each in signature(function, eval_str=True).parameters.values()
        if each.name not in ("self", *given)
    ]
    named = [each for each in parameters if each.kind != Parameter.VAR_KEYWORD]
    fields: dict[str, Any] = {
        each.name: (
            each.annotation if _is_plain(each.annotation) else Any,
            ... if each.default is Parameter.empty else None,
        )
        for each in named
    }
    rules = ConfigDict(strict=True, protected_namespaces=())
    return create_model("Arguments", __config__=rules, **fields), len(named) < len(parameters)


def _is_plain(annotation: Any) -> bool:  # noqa: ANN401
    """Whether a type holds numbers, text and switches only, or lists of them."""
    if get_origin(annotation) is Annotated:
        return _is_plain(get_args(annotation)[0])
    if get_origin(annotation) is Literal or annotation in (*_PLAIN, Ellipsis):
        return True
    return bool(get_args(annotation)) and all(map(_is_plain, get_args(annotation)))


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
        lines = str(first["ctx"]["error"]).splitlines()
        yield from (".".join(filter(None, (name, line))) for line in lines)
    elif first["type"] == "unexpected_keyword_argument":
        yield f"{name}: is no setting; choose among {', '.join(place.siblings)}"
    elif first["type"] == "missing" and not place.in_list:
        yield f"{name}: is not set; add {name}=… to the command"
    else:
        if any(where.in_list for where, _ in details):  # wrong items are not counted
            details = [each for each in details if each[1]["type"] != "too_short"]
        choices = dict.fromkeys(_allowed(name, where, detail) for where, detail in details)
        parts = [choice for choice in choices if choice.startswith("given")]
        plain = [choice for choice in choices if choice not in parts]
        if "a whole number" in plain:  # Python keeps the order of the first of two equal unions
            plain.sort(key="text".__eq__)
        if NoneType in get_args(place.annotation):
            plain.append("null")
        value = _AS_TYPED.get(str(place.value), place.value)
        yield f"{name}={value}: must be {' or '.join(plain + parts)}"


def _allowed(name: str, place: _Place, detail: ErrorDetails) -> str:
    """What one alternative of a setting's type allows."""
    if detail["type"] == "condition":  # a rule of ``only``, which is stated in full
        bound = detail["msg"]
    else:
        bound = _BOUNDS.get(detail["type"], "").format(**detail.get("ctx", {}))
    if place.in_list:
        return _TYPES["tuple_type"] + (f" whose values are {bound}" if bound else "")
    if bound:
        return bound
    if detail["type"] == "literal_error":
        expected = str(detail["ctx"]["expected"]).replace("'", "").lower()
        return " or ".join(dict.fromkeys(re.split(", | or ", expected)))
    inner = _record_in(place.annotation)
    if detail["type"] == "dataclass_type" and inner:
        return f"given part by part, as {name}.{next(iter(inner.__pydantic_fields__))}=…"
    return _TYPES.get(detail["type"], detail["msg"])


def _record_in(annotation: Any) -> Any:  # noqa: ANN401
    """The record among the alternatives of a type, if any."""
    alternatives = (annotation, *get_args(annotation))
    return next((each for each in alternatives if hasattr(each, "__pydantic_fields__")), None)
