"""``resume=FOLDER`` on the command line: continues a run or a sweep with its stored settings."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vbp_lightning.errors import UserError
from vbp_lightning.files import file_digest, replacing

STORED_CONFIG = Path(".hydra") / "run.yaml"
"""The settings of a run, without ``auto`` values, inside its folder."""

_AUTO = "automatic"
"""Of a stored run: the keys of the settings that were ``auto``."""

_START = "init_from_sha256"
"""Of a stored run: the digest of the checkpoint that it started from."""

_UNRELATED = ("format", "resume", "optimized_metric", _AUTO)
"""Settings that a run's result does not depend on."""

_MOVED = ("paths.", "data.root", "data.split_file", _START)
"""Settings about files that may be elsewhere when a run is resumed."""

_NAMED = 5
"""Number of settings that an error names."""

_ADDED = {"optimized_metric": "val/auroc", "tags": []}
"""Settings that runs of version 0.1 lack."""


def expand_resume(arguments: list[str]) -> list[str]:
    """Replaces ``resume=FOLDER`` by the arguments that continue that run or sweep in place.

    A run is composed from its own stored config, so that later changes of ``conf/`` or another
    working directory do not alter it; the config of an older version is converted first. A sweep
    is launched again over the same axes; its finished jobs are skipped. Further overrides are kept
    and take precedence.

    Args:
        arguments: The command line, without the program's name.

    Returns:
        The command line for Hydra; the same if nothing is resumed.

    Raises:
        UserError: The folder is neither a run nor a sweep, or a later version wrote it.
    """
    folders = [a.removeprefix("resume=").strip("'\"") for a in arguments if a.startswith("resume=")]
    if not folders or folders[-1] in ("", "null"):
        return arguments
    folder = Path(folders[-1]).absolute()
    others = [a for a in arguments if not a.startswith("resume=")]
    quoted = "'" + os.fspath(folder).replace("'", "\\'") + "'"
    if (folder / "multirun.yaml").is_file():
        given = OmegaConf.load(folder / "multirun.yaml").hydra.overrides
        if any("quarter_turns" in axis for axis in given.task):
            raise UserError(
                f"{folder}: is a sweep of version 0.1 that sets data.augment.quarter_turns, which"
                " is data.augment.rotations now (resume): start a new sweep"
            )
        launcher = [a for a in given.hydra if not a.startswith(("hydra.mode=", "hydra.sweep.dir="))]
        place = [f"hydra.sweep.dir={quoted}", f"resume={quoted}"]
        return ["--multirun", *given.task, *launcher, *place, *others]
    if (folder / STORED_CONFIG).is_file():
        _convert(folder / STORED_CONFIG)
        return [
            f"--config-path={(folder / STORED_CONFIG).parent}",
            f"--config-name={STORED_CONFIG.stem}",
            f"hydra.run.dir={quoted}",
            f"resume={quoted}",
            "hydra.output_subdir=null",
            "hydra.job_logging.formatters.simple.format='%(message)s'",
            *others,
        ]
    raise UserError(
        f"{folder}: is no run or sweep of train.py (resume): it holds neither {STORED_CONFIG}"
        " nor multirun.yaml; give a folder below outputs/train or outputs/multirun"
    )


def _convert(path: Path) -> dict[str, Any]:
    """Returns the settings of a run; those of an older version are converted and replaced."""
    from vbp_lightning.models.format import converted

    stored: Any = OmegaConf.to_container(OmegaConf.load(path))
    settings: dict[str, Any] = _ADDED | converted(stored, f"{path} (resume)")
    if settings != stored:
        with replacing(path) as temporary:
            OmegaConf.save(OmegaConf.create(settings), temporary)
    return settings


def asked_settings(cfg: DictConfig) -> dict[str, Any]:
    """The settings of a run as they are stored in its folder.

    Args:
        cfg: The composed config of ``train.py``; the paths of the data are made absolute in place.

    Returns:
        Plain builtins. References to the run's own folder stay references, so that the folder may
        be moved. The keys that are ``auto`` and the digest of the checkpoint to start from are
        added, unless a resumed run has them.
    """
    from vbp_lightning.models.format import FORMAT

    for key in ("root", "split_file"):
        if cfg.data.get(key) is not None:
            cfg.data[key] = str(Path(str(cfg.data[key])).absolute())
    given: Any = OmegaConf.to_container(cfg)
    automatic = [key for key, value in _leaves(given) if value == "auto"]
    settings: dict[str, Any] = {_AUTO: automatic, **given, "format": FORMAT, "resume": None}
    if _START not in settings and cfg.init_from is not None and Path(cfg.init_from).is_file():
        settings[_START] = file_digest(Path(cfg.init_from))
    return settings


def refuse_other_settings(cfg: DictConfig, run_dir: Path, is_done: bool) -> None:
    """Compares the settings of the run in a folder with those that are asked for.

    ``auto`` fits a value that was chosen automatically, and a setting that the run lacks counts as
    null. When a run is resumed, its data may have moved and, until it is finished, its settings may
    change.

    Args:
        cfg: The composed config of ``train.py``.
        run_dir: The folder.
        is_done: Whether the folder holds a finished run.

    Raises:
        UserError: The folder holds a run with other settings; the first ones are named.
    """
    stored = run_dir / STORED_CONFIG
    is_resumed = cfg.resume is not None
    if not is_done and (is_resumed or not stored.is_file()):
        return
    held = dict(_leaves(_convert(stored))) if stored.is_file() else {}
    asked = dict(_leaves(asked_settings(cfg)))
    automatic = held.get(_AUTO, held)
    ignored = (*_UNRELATED, *(_MOVED if is_resumed else ()))
    others = [
        f"{key} was {held.get(key)}, not {asked.get(key)}"
        for key in sorted({*held, *asked})
        if not key.startswith(ignored)
        and asked.get(key) != held.get(key)
        and not (asked.get(key) == "auto" and key in automatic)
    ]
    if others:
        raise UserError(
            f"{run_dir}: holds a run with other settings, {'; '.join(others[:_NAMED])}"
            f" (hydra.run.dir, hydra.sweep.dir); choose another folder, or continue that run with"
            f" resume={run_dir}"
        )


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted key and the value of each setting that is not null."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value
