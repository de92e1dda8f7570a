"""Reading the files in the folder of a run or a sweep, which may be damaged."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vbp_lightning.errors import UserError

_MOST_BYTES = 4 << 20
_DEPTH = 50

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C, where PyYAML was built with it, is ten times as fast."""

_LONGEST = 300
"""Characters of an exception's message that an error quotes."""


def stored_yaml(path: Path) -> Any:  # noqa: ANN401
    """Reads a YAML file that Hydra or :func:`~vbp_lightning.training.folder.write_config` wrote.

    Args:
        path: The file.

    Returns:
        Plain builtins; references such as ``${seed}`` are kept.

    Raises:
        UserError: It is too large, no YAML, or holds what neither writes: aliases, by which a
            small file holds any number of values, or more than 50 levels.
    """
    with _readable(path) as text:
        depth = 0
        for event in yaml.parse(text, Loader=_LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > _DEPTH:
                raise ValueError("it holds aliases or too many levels")
            if isinstance(event, yaml.ScalarEvent) and not depth:
                raise ValueError("it holds a text alone")
        return OmegaConf.to_container(OmegaConf.create(text))


def stored_mapping(path: Path) -> dict[str, Any]:
    """Reads a YAML file, as :func:`stored_yaml`, that holds names and values.

    Raises:
        UserError: It cannot be read, or holds something else.
    """
    content = stored_yaml(path)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise _error(path, "it holds no settings by name")
    return content


def stored_metrics(path: Path) -> dict[str, float]:
    """Reads the metrics of a finished run.

    Raises:
        UserError: The file holds no numbers by name.
    """
    with _readable(path) as text:
        metrics = json.loads(text)
        if not isinstance(metrics, dict) or not all(
            isinstance(each, int | float) for each in metrics.values()
        ):
            raise ValueError("it holds no numbers by name")
        return {name: float(value) for name, value in metrics.items()}


@contextmanager
def _readable(path: Path) -> Iterator[str]:
    """Yields the text of a file; the exceptions of parsers become one line."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES >> 20} MiB")
        yield path.read_text(encoding="utf-8")
    except (
        *(OSError, ValueError, TypeError, AssertionError, OverflowError, RecursionError),
        *(yaml.YAMLError, OmegaConfBaseException),
    ) as error:
        raise _error(path, str(error)) from error


def _error(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path}: cannot be read ({shorten(reason, _LONGEST)}): it is damaged or another program"
        " wrote it (resume, hydra.run.dir, hydra.sweep.dir); put an older copy back, or start a"
        " new run"
    )
