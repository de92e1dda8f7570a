"""Settings that both programs share: Lightning's trainer, folders, and checks of a config."""

import re
from collections.abc import Iterable, Mapping
from pydoc import ErrorDuringImport, locate
from typing import Annotated, Any, Literal, Self

import torch
from omegaconf import DictConfig, OmegaConf
from pydantic import (
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic.dataclasses import dataclass

from vbp_lightning.attribution import UPSAMPLINGS
from vbp_lightning.errors import UserError, one_line
from vbp_lightning.records import (
    RECORD,
    Count,
    PathName,
    Positive,
    PositiveCount,
    Size,
    argument_errors,
    one_of,
    only,
    own_settings,
)

UpsamplingName = Annotated[StrictStr, one_of(UPSAMPLINGS)]


def _differ(names: tuple[str, ...]) -> bool:
    return bool(names) and len(set(names)) == len(names)


UpsamplingNames = (
    UpsamplingName
    | Annotated[tuple[UpsamplingName, ...], only(_differ, "a list of different names")]
)
"""One upsampling or several."""

Precision = Literal[
    "auto", "32-true", "bf16-mixed", "16-mixed", "64-true", "32", "64", "bf16", "16", 32, 64, 16
]

_is_devices = re.compile(r"auto|-1|\d+(,\d+)*,?").fullmatch

Share = Annotated[StrictFloat, Field(gt=0, le=1)]
"""A part of the batches of an epoch."""


@dataclass(frozen=True, config=RECORD)
class Folders:
    """Where data and results are stored.

    Args:
        data_dir: The procedural scenes.
        output_dir: Runs, sweeps, checks and explanations.
    """

    data_dir: PathName
    output_dir: PathName


@dataclass(frozen=True, config=RECORD)
class Upsampling:
    """How VisualBackProp enlarges masks.

    Args:
        name: A key of :data:`~vbp_lightning.attribution.upsampling.UPSAMPLINGS`.
    """

    name: UpsamplingName


@dataclass(frozen=True, config=RECORD)
class Upsamplings:
    """The upsamplings that a run shows and scores.

    Args:
        name: One key of :data:`~vbp_lightning.attribution.upsampling.UPSAMPLINGS`, or several.
    """

    name: UpsamplingNames


def name_upsampling(cfg: DictConfig) -> None:
    """Leaves of the group ``upsampling`` its ``name``: one name, or a list of several.

    Hydra merges the files of ``upsampling=[deconv,bilinear]``, by which ``chosen`` holds all names.

    Raises:
        UserError: The list is empty.
    """
    if "upsampling" not in cfg:
        raise UserError(f"upsampling=[]: name at least one of {', '.join(UPSAMPLINGS)}")
    given: Any = OmegaConf.to_container(cfg.upsampling, resolve=True)
    given.pop("chosen", None)
    cfg.upsampling = OmegaConf.create(given)


@dataclass(frozen=True, config=RECORD)
class TrainerSettings:
    """The arguments of Lightning's ``Trainer`` that both programs can use.

    Callbacks, loggers and plugins are those of the run. Limits of test and prediction are left out:
    a run is evaluated on every tile.
    """

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    devices: (
        PositiveCount
        | Literal[-1]
        | Annotated[tuple[Count, ...], Field(min_length=1)]
        | Annotated[StrictStr, only(_is_devices, "auto or numbers, as '0,2'")]
    ) = 1
    num_nodes: PositiveCount = 1
    strategy: StrictStr = "auto"
    precision: Precision = "auto"
    max_epochs: PositiveCount = 20
    min_epochs: PositiveCount | None = None
    max_steps: PositiveCount | Literal[-1] = -1
    min_steps: PositiveCount | None = None
    fast_dev_run: StrictBool | Count = False
    max_time: StrictStr | Mapping[StrictStr, Size] | None = None
    limit_train_batches: PositiveCount | Share | None = None
    limit_val_batches: PositiveCount | Share | None = None
    overfit_batches: Count | Annotated[StrictFloat, Field(ge=0, le=1)] = 0
    val_check_interval: PositiveCount | Share | None = None
    check_val_every_n_epoch: PositiveCount = 1
    num_sanity_val_steps: Annotated[StrictInt, Field(ge=-1)] | None = None
    log_every_n_steps: PositiveCount | None = None
    accumulate_grad_batches: PositiveCount = 1
    gradient_clip_val: Positive | None = None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    deterministic: StrictBool | Literal["warn", "auto"] | None = None
    benchmark: StrictBool | None = None
    inference_mode: StrictBool = True
    reload_dataloaders_every_n_epochs: Count = 0
    detect_anomaly: StrictBool = False
    sync_batchnorm: StrictBool | Literal["auto"] = False
    profiler: StrictStr | Mapping[str, Any] | None = None
    enable_progress_bar: StrictBool | None = None
    enable_model_summary: StrictBool | None = None
    use_distributed_sampler: Literal[False] = False
    default_root_dir: PathName | None = None
    logger: Literal[False] = False
    enable_checkpointing: StrictBool | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        lines = []
        if self.min_epochs is not None and self.min_epochs > self.max_epochs:
            lines.append(
                f"min_epochs={self.min_epochs}: must be at most"
                f" trainer.max_epochs={self.max_epochs}"
            )
        if self.min_steps is not None and 0 < self.max_steps < self.min_steps:
            lines.append(
                f"min_steps={self.min_steps}: must be at most trainer.max_steps={self.max_steps}"
            )
        if self.check_val_every_n_epoch > self.max_epochs:
            lines.append(
                f"check_val_every_n_epoch={self.check_val_every_n_epoch}: must be at most"
                f" trainer.max_epochs={self.max_epochs}, or the run is never validated"
            )
        if lines:
            raise ValueError("\n".join(lines))
        return self


def gpus() -> list[str]:
    """The types of GPUs that torch can use on this machine, by its names, the preferred first."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [name for name, is_there in there.items() if is_there]


def built_errors(key: str, node: object, base: type, *given: str) -> list[str]:
    """One line for each setting with which an object of a config cannot be built.

    Args:
        key: The config key of the object.
        node: Its settings, as plain builtins, with the class under ``_target_``.
        base: The class that it must be derived from: a stored config is not to run other code.
        *given: Names of the arguments that the program gives.
    """
    if line := target_error(key, node, base):
        return [line]
    assert isinstance(node, dict)
    return argument_errors(key, locate(node["_target_"]), own_settings(node), *given)  # type: ignore[arg-type]


def target_error(key: str, node: object, base: type) -> str | None:
    """The line about an object of a config that names no class derived from another one.

    Args:
        key: The config key of the object.
        node: Its settings, as plain builtins, with the class under ``_target_``.
        base: The class that it must be derived from.
    """
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        return f"{key}={node}: must be null or name a class, as {key}._target_=NAME"
    name = node["_target_"]
    try:
        function: Any = locate(name)
    except ErrorDuringImport as error:
        return f"{key}._target_={name}: cannot be imported: {one_line(error)}"
    if not (isinstance(function, type) and issubclass(function, base)):
        return f"{key}._target_={name}: must be the full name of a class of {base.__name__}s"
    return None


def own_errors(cfg: DictConfig, lines: Iterable[str]) -> list[str]:
    """The lines about settings that are given, not taken from another one by a reference.

    Args:
        cfg: The config, whose references are not resolved.
        lines: Each begins with the key of a setting.
    """
    kept = []
    for line in lines:
        *parents, name = re.split("[=:]", line, maxsplit=1)[0].split(".")
        node = OmegaConf.select(cfg, ".".join(parents)) if parents else cfg
        holds_it = isinstance(node, DictConfig) and name in node
        if not (holds_it and OmegaConf.is_interpolation(node, name)):
            kept.append(line)
    return kept
