"""One line for each setting that pydantic refuses."""

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_TYPES = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a number",
    "string": "text",
    "path": "a path",
    "none_required": "null",
    "list": "a list in square brackets",
    "tuple": "a list in square brackets",
    "mapping": "a mapping, as {name: value}",
}
_BOUNDS = {
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
}


def error_lines(key: str, error: ValidationError) -> list[str]:
    """One line for each wrong field: its config key, its value and what is allowed.

    Args:
        key: The config key that the fields belong to; empty for fields at the top level.
        error: Raised by a pydantic model or record.
    """
    allowed: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False):
        name = ".".join(filter(None, (key, _location(detail))))
        allowed.setdefault(f"{name}={detail['input']}: must be ", []).append(_allowed(detail))
    return [line + " or ".join(dict.fromkeys(choices)) for line, choices in allowed.items()]


def _location(detail: ErrorDetails) -> str:
    """The field's name, and the place in a list; what follows names the branch of a union."""
    name, *inside = detail["loc"]
    return f"{name}" + "".join(f"[{part}]" for part in inside if isinstance(part, int))


def _allowed(detail: ErrorDetails) -> str:
    context, kind = detail.get("ctx", {}), detail["type"]
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "")
    if kind == "multiple_of":
        return f"a multiple of {context['multiple_of']:g}"
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**context)
    return _TYPES.get(kind.removesuffix("_type").removesuffix("_parsing"), detail["msg"])
