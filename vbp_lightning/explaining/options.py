"""Checks of the options of tasks and methods, before anything is computed."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, Field, ValidationError, create_model

from vbp_lightning.errors import UserError, one_line
from vbp_lightning.records import Number, error_lines

Size = Annotated[Number, Field(ge=0)]
"""A finite number of at least zero."""
Scale = Literal["each", "shared"]
"""Whether every map is drawn in its own range, or all maps in one range."""


def check_options(cfg: DictConfig, **types: Any) -> None:  # noqa: ANN401
    """Checks options of the config against their types.

    Args:
        cfg: The composed config of ``explain.py``.
        **types: The type of each option, as pydantic takes it.

    Raises:
        UserError: A line for each option of a wrong type or out of range.
    """
    values = OmegaConf.to_container(OmegaConf.masked_copy(cfg, list(types)), resolve=True)
    lines = option_errors("", values, types)  # type: ignore[arg-type]  # keys are text
    if lines:
        raise UserError(*lines)


def option_errors(key: str, values: Mapping[str, Any], types: Mapping[str, Any]) -> list[str]:
    """One line for each option that is unknown, of a wrong type or out of range.

    Types are strict (``true`` is no number, ``1.5`` no whole number), except that a whole number
    is also a number and a list also a tuple: the rules of JSON.

    Args:
        key: The config key that the options belong to; empty for the top level.
        values: The options that are given, as plain builtins.
        types: By the name of each known option.
    """
    lines = [
        f"{key}.{name}: is not an option; choose among {', '.join(types)}"
        for name in values
        if name not in types
    ]
    fields: dict[str, Any] = {name: (hint, None) for name, hint in types.items()}
    rules = ConfigDict(strict=True, protected_namespaces=())
    model = create_model("Options", __config__=rules, **fields)
    # JSON has no NaN: as text it is refused as a number, and the line shows it.
    plain = {name: "nan" if value != value else value for name, value in values.items()}
    try:
        model.model_validate_json(json.dumps(plain, default=str))
    except ValidationError as error:
        lines += error_lines(key, error, model, values)
    return lines


@contextmanager
def option_as_user_error() -> Iterator[None]:
    """Converts a ``ValueError`` about an option to one line for the user.

    Raises:
        UserError: The context raised a ``ValueError``.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(one_line(error)) from error
