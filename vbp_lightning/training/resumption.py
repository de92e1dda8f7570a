"""``resume=FOLDER`` on the command line: a run or a sweep goes on with its stored settings."""

import os
from pathlib import Path

from omegaconf import OmegaConf

from vbp_lightning.errors import UserError

STORED_CONFIG = Path(".hydra") / "run.yaml"
"""The settings of a run, its ``auto`` values worked out, inside its folder."""


def expand_resume(arguments: list[str]) -> list[str]:
    """Turns ``resume=FOLDER`` into the arguments that go on with that run or sweep, in place.

    A run is composed from its own stored config, so that later changes of ``conf/`` or another
    working directory do not alter it; a sweep is launched again over the same axes, where jobs
    that are done are left alone. Further overrides are kept and win.

    Args:
        arguments: The command line, without the program's name.

    Returns:
        The command line to give to Hydra; the same where nothing is resumed.

    Raises:
        UserError: The folder is neither a run nor a sweep.
    """
    folders = [a.removeprefix("resume=").strip("'\"") for a in arguments if a.startswith("resume=")]
    if not folders or folders[-1] in ("", "null"):
        return arguments
    folder = Path(folders[-1]).absolute()
    others = [a for a in arguments if not a.startswith("resume=")]
    quoted = "'" + os.fspath(folder).replace("'", "\\'") + "'"
    if (folder / "multirun.yaml").is_file():
        sweep = OmegaConf.load(folder / "multirun.yaml")
        axes = [str(axis) for axis in OmegaConf.select(sweep, "hydra.overrides.task")]
        launcher = [
            str(override)
            for override in OmegaConf.select(sweep, "hydra.overrides.hydra")
            if not str(override).startswith(("hydra.mode=", "hydra.sweep.dir="))
        ]
        return [
            "--multirun",
            *axes,
            *launcher,
            f"hydra.sweep.dir={quoted}",
            f"resume={quoted}",
            *others,
        ]
    if (folder / STORED_CONFIG).is_file():
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
