"""``resume=FOLDER`` on the command line: continues a run or a sweep with its stored settings."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from vbp_lightning.cli import STORED_CONFIG
from vbp_lightning.errors import UserError
from vbp_lightning.files import file_digest
from vbp_lightning.training.folder import METRICS_FILE, has_begun, write_config
from vbp_lightning.training.stored_files import stored_mapping

_MULTIRUN = ("-m", "--multirun")
"""Hydra's options that start a sweep."""

_REOPENING = ("trainer.max_epochs", "callbacks.early_stopping", "tta")
"""Settings by which a finished run is extended, or evaluated in another way."""

_MACHINE = (
    *(
        "threads",
        "trust",
        "data.num_workers",
        "data.memory",
        "data.root",
        "paths",
        "resume",
        "format",
    ),
    *(
        f"trainer.{name}"
        for name in (
            *("accelerator", "devices", "num_nodes", "strategy", "precision", "sync_batchnorm"),
            *("deterministic", "benchmark", "enable_progress_bar", "profiler", "detect_anomaly"),
        )
    ),
)
"""Settings that say where and how fast a run goes; they leave the plan of a run as it is."""

_GROUPS = ("data", "trainer", "model", "callbacks", "paths")
"""Settings that hold further ones."""

_REPORT = (
    *("tags", "optimized_metric", "logger", "gallery", "data.split_file", "upsampling.name"),
    *("trainer.log_every_n_steps", "trainer.num_sanity_val_steps"),
    *(f"callbacks.{name}" for name in ("panels", "scores", "summary", "progress", "gradient_flow")),
)
"""Settings of a run's report."""

_DRAWING = (
    *("data.split_by", "data.block_size", "data.block_unit", "data.split_seed"),
    *("data.val_fraction", "data.test_fraction", "data.train_fraction"),
)
"""Settings that a run uses once, when it draws its splits."""

_AUTO = "automatic"
"""Of a stored run: the keys of the settings that were ``auto``."""

START = "init_from_sha256"
"""Of a stored run: the digest of the checkpoint that it started from."""

WEIGHTS = "weights_sha256"
"""Of a stored run: the digest of the file of weights that it started from."""

_SPLITS = "split_file_sha256"
"""Of a stored run: the digest of ``data.split_file`` when it was read."""

_CORRECTIONS = "corrections_sha256"
"""Of a stored run: the digest of ``data.corrections`` when it was read."""

ADDED = ("format", _AUTO, START, WEIGHTS, _SPLITS, _CORRECTIONS)
"""What a stored run holds beside its settings."""

_FILES = {
    START: "init_from",
    WEIGHTS: "model.weights",
    _SPLITS: "data.split_file",
    _CORRECTIONS: "data.corrections",
}
"""The settings that name the files of the digests."""

_UNRELATED = ("format", "resume", "optimized_metric", _AUTO)
"""Settings that a run's result does not depend on."""

_MOVED = ("paths.", "data.root", "data.split_file", START, WEIGHTS, _SPLITS)
"""Settings about files that may be elsewhere when a run is resumed."""

_NAMED = 5
"""Number of settings that an error names."""

_ADDED = {"optimized_metric": "val/auroc", "tags": [], "tta": False}
"""Settings that runs of version 0.1 lack."""


def expand_resume(arguments: list[str]) -> list[str]:
    """Replaces ``resume=FOLDER`` by the arguments that continue that run or sweep in place.

    A run is composed from its own stored config, so that later changes of ``conf/`` or another
    working directory do not alter it; the config of an older version is converted first. A sweep
    is launched again over the same axes; its finished jobs are skipped. Further overrides are kept
    and take precedence; :func:`is_extended` checks them.

    Args:
        arguments: The command line, without the program's name.

    Returns:
        The command line for Hydra; the same if nothing is resumed.

    Raises:
        UserError: The folder is empty text, neither a run nor a sweep, a file in it cannot be read,
            or a later version wrote it.
    """
    # Lightning starts further processes with the arguments that this function has returned
    if any(argument.startswith("--config-path=") for argument in arguments):
        return arguments
    matches = [(a, re.match(r"\+{0,2}resume=(.*)", a)) for a in arguments]
    folders = [match[1].strip("'\"") for _, match in matches if match]
    if not folders or folders[-1] == "null":
        return arguments
    if not folders[-1]:
        raise UserError("resume= is empty: give the folder of a run or a sweep, or leave it out")
    folder = Path(folders[-1]).absolute()
    is_sweep = (folder / "multirun.yaml").is_file()
    others = [a for a, match in matches if not match and not (is_sweep and a in _MULTIRUN)]
    for other in others:
        if other.startswith(("hydra.run.dir=", "hydra.sweep.dir=")):
            raise UserError(f"{other}: a run or a sweep continues in its own folder (resume)")
        if other in _MULTIRUN:
            raise UserError(f"{other}: {folder} is no sweep (resume): leave {other} out")
    quoted = "'" + os.fspath(folder).replace("'", "\\'") + "'"
    if is_sweep:
        task, launch = _sweep_overrides(folder / "multirun.yaml")
        kept = _chosen_upsampling(folder / "multirun.yaml", task)
        if any("quarter_turns" in axis for axis in task):
            raise UserError(
                f"{folder}: is a sweep of version 0.1 that sets data.augment.quarter_turns, which"
                " is data.augment.rotations now (resume): start a new sweep"
            )
        launcher = [a for a in launch if not a.startswith(("hydra.mode=", "hydra.sweep.dir="))]
        place = [f"hydra.sweep.dir={quoted}", f"resume={quoted}"]
        return ["--multirun", *task, *kept, *launcher, *place, *others]
    stored = folder / STORED_CONFIG
    if stored.is_file():
        _convert(stored)
    else:  # the run was killed before it stored them: what Hydra composed
        stored = stored.with_name("config.yaml")
    if stored.is_file():
        _check_groups(stored_mapping(stored), stored)
        return [
            f"--config-path={stored.parent}",
            f"--config-name={stored.stem}",
            f"hydra.run.dir={quoted}",
            f"resume={quoted}",
            "hydra.output_subdir=null",
            "hydra/job_logging=stdout",
            "hydra.job_logging.formatters.simple.format='%(message)s'",
            # a stored run holds names where a new one has choices of a group
            *(re.sub("^upsampling=", "upsampling.name=", other) for other in others),
        ]
    raise UserError(
        f"{folder}: is no run or sweep of train.py (resume): it holds neither {STORED_CONFIG}"
        " nor multirun.yaml; give a folder below outputs/train or outputs/multirun"
    )


def _sweep_overrides(path: Path) -> tuple[list[str], list[str]]:
    """The overrides of a sweep's jobs, and those of Hydra."""
    found: Any = stored_mapping(path)
    for key in ("hydra", "overrides"):
        found = found.get(key) if isinstance(found, dict) else None
    parts: list[Any] = [
        found.get(key) if isinstance(found, dict) else None for key in ("task", "hydra")
    ]
    for part in parts:
        if not isinstance(part, list) or not all(isinstance(each, str) for each in part):
            raise UserError(
                f"{path}: names no overrides under hydra.overrides.task and .hydra (resume): put"
                " an older copy back, or start the sweep again in its folder with hydra.sweep.dir"
            )
    return parts[0], parts[1]


def _chosen_upsampling(path: Path, task: list[str]) -> list[str]:
    """The upsampling that a sweep took by default: the default of its version, not of this one."""
    found: Any = stored_mapping(path)
    for key in ("hydra", "runtime", "choices"):
        found = found.get(key) if isinstance(found, dict) else None
    choices = found if isinstance(found, dict) else {}
    # Hydra stores null for an axis of experiments, each of which may choose an upsampling
    open_groups = "upsampling" if choices.get("experiment") else "upsampling|experiment"
    if any(re.match(rf"\+{{0,2}}({open_groups})\b", override) for override in task):
        return []
    chosen = choices.get("upsampling")
    return [f"upsampling={chosen}"] if isinstance(chosen, str) else []


def _check_groups(settings: Mapping[str, Any], path: Path) -> None:
    """Refuses settings with another value in the place of a group."""
    wrong = [key for key in _GROUPS if not isinstance(settings.get(key, {}), dict)]
    if wrong:
        raise UserError(
            f"{path}: holds no settings under {', '.join(wrong)} (resume): put an older copy back,"
            " or start a new run"
        )


def _convert(path: Path) -> dict[str, Any]:
    """Returns the settings of a run; those of an older version are converted and replaced."""
    from vbp_lightning.models.format import converted

    stored = stored_mapping(path)
    _check_groups(stored, path)
    settings: dict[str, Any] = _ADDED | converted(stored, f"{path} (resume)")
    if settings != stored:
        write_config(settings, path)
    return settings


def is_extended(cfg: DictConfig, run_dir: Path) -> bool:
    """Checks the overrides of a resumed run, and whether a finished run goes on by them.

    Every process of a run calls this before the first one replaces the stored settings.

    Args:
        cfg: The composed config of ``train.py``.
        run_dir: The run's folder.

    Raises:
        UserError: A setting was changed that cannot be applied to this run any more.
    """
    is_stored = (run_dir / STORED_CONFIG).is_file()
    if cfg.resume is None or not is_stored or not has_begun(run_dir):
        return False
    changed = [key for key in _changes(cfg, run_dir) if not key.startswith(_MOVED)]
    is_reopened = bool(_below(changed, _REOPENING))
    is_done = (run_dir / METRICS_FILE).is_file()
    possible = (*_REOPENING, *_MACHINE, *(() if is_done and not is_reopened else _REPORT))
    refused = [key for key in changed if key not in _below(changed, possible)]
    if refused:
        state = "finished" if is_done else "started"
        draws = _below(refused, _DRAWING)
        splits = "; data.split_file replaces the splits that it has drawn" if draws else ""
        raise UserError(
            f"{run_dir}: is {state} with other values of {', '.join(refused)} (resume):"
            f" leave them as they are, or start a new run{splits}"
        )
    return is_reopened


def _below(keys: Iterable[str], places: tuple[str, ...]) -> list[str]:
    """The keys that are one of some places in the config, or below one."""
    return [k for k in keys if any(k == place or k.startswith(f"{place}.") for place in places)]


def add_origin(cfg: DictConfig, anew: bool = False) -> None:
    """Completes a config, in place, by what later runs are compared with.

    The paths of the data become absolute. The keys that are ``auto`` and the digests of the
    checkpoint to start from and of the files of splits and corrections are added, unless a resumed
    run has them.

    Args:
        cfg: The composed config of ``train.py``.
        anew: Whether a resumed run has another file of splits now.
    """
    from vbp_lightning.data.datasets.virtual_path import source_path
    from vbp_lightning.models.fetching import local_file

    given: Any = OmegaConf.to_container(cfg)
    with open_dict(cfg):
        for key in ("root", "split_file", "corrections"):
            if cfg.data.get(key) is not None:
                cfg.data[key] = str(source_path(str(cfg.data[key])).absolute())
        if _AUTO not in cfg:
            cfg[_AUTO] = [key for key, value in _leaves(given) if value == "auto"]
        for key, name in _FILES.items():
            path = OmegaConf.select(cfg, name)
            is_known = key in cfg and not (anew and key == _SPLITS)
            if not is_known and path is not None:
                is_data = key in (_SPLITS, _CORRECTIONS)
                file = source_path(path) if is_data else local_file(str(path), name)
                if file.is_file():
                    cfg[key] = file_digest(file)


def asked_settings(cfg: DictConfig) -> dict[str, Any]:
    """The settings of a run as they are stored in its folder.

    Args:
        cfg: The composed config of ``train.py``, completed by :func:`add_origin`.

    Returns:
        Plain builtins. References to the run's own folder stay references, so that the folder may
        be moved.
    """
    from vbp_lightning.models.format import FORMAT

    given: Any = OmegaConf.to_container(cfg)
    return {**given, "format": FORMAT, "resume": None, "trust": None}


def refuse_other_settings(cfg: DictConfig, run_dir: Path) -> None:
    """Compares the settings of the run in a folder with those of a new run.

    Args:
        cfg: The composed config of ``train.py``; resumed runs are checked by :func:`is_extended`.
        run_dir: The folder.

    Raises:
        UserError: The folder holds a run with other settings; the first ones are named.
    """
    if cfg.resume is not None or not has_begun(run_dir):
        return
    others = [
        f"{key} was {held}, not {asked}" for key, (held, asked) in _changes(cfg, run_dir).items()
    ]
    if others:
        raise UserError(
            f"{run_dir}: holds a run with other settings, {'; '.join(others[:_NAMED])}"
            f" (hydra.run.dir, hydra.sweep.dir); choose another folder, or continue that run with"
            f" resume={run_dir}"
        )


def _changes(cfg: DictConfig, run_dir: Path) -> dict[str, tuple[Any, Any]]:
    """Stored and asked values of the settings in which they differ, by dotted key.

    ``auto`` fits a value that was chosen automatically, and a setting that the stored run lacks
    counts as null. Digests of files that it lacks, as older runs do, are not compared.
    """
    stored = run_dir / STORED_CONFIG
    held = dict(_leaves(_convert(stored))) if stored.is_file() else {}
    completed = cfg.copy()
    add_origin(completed)
    asked = dict(_leaves(asked_settings(completed)))
    automatic = held.get(_AUTO, held)
    return {
        key: (held.get(key), asked.get(key))
        for key in sorted({*held, *asked})
        if not key.startswith(_UNRELATED)
        and asked.get(key) != held.get(key)
        and not (asked.get(key) == "auto" and key in automatic)
        and not (key in _FILES and key not in held)
    }


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted key and the value of each setting that is not null."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value
