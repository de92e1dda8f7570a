"""``resume=FOLDER`` on the command line: continues a run or a sweep with its stored settings."""

import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vbp_lightning.errors import UserError
from vbp_lightning.files import replacing

STORED_CONFIG = Path(".hydra") / "run.yaml"
"""The settings of a run, without ``auto`` values, inside its folder."""

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


def _convert(path: Path) -> None:
    """Replaces the stored settings of an older version by those of the present format."""
    from vbp_lightning.models.format import converted

    stored: Any = OmegaConf.to_container(OmegaConf.load(path))
    settings = _ADDED | converted(stored, f"{path} (resume)")
    if settings != stored:
        with replacing(path) as temporary:
            OmegaConf.save(OmegaConf.create(settings), temporary)
