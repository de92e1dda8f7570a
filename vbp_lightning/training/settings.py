"""The settings of ``train.py``: types, ranges, and the rules that concern several of them."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from omegaconf import DictConfig, OmegaConf
from pydantic import StrictBool, StrictFloat, StrictInt, StrictStr, model_validator
from pydantic.dataclasses import dataclass
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import Profiler

from vbp_lightning.data import RoadTileDataModule
from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.errors import UserError
from vbp_lightning.models import RoadClassifier
from vbp_lightning.models.checkpoint import trusted
from vbp_lightning.models.custom_network import setting_errors
from vbp_lightning.models.networks import TOTAL_STRIDE
from vbp_lightning.records import (
    RECORD,
    PathName,
    PositiveCount,
    Seed,
    argument_errors,
    made,
    own_settings,
)
from vbp_lightning.settings import (
    Folders,
    TrainerSettings,
    Upsamplings,
    built_errors,
    name_upsampling,
    own_errors,
    target_error,
)
from vbp_lightning.training.logger import logger_nodes, missing_packages
from vbp_lightning.training.predictions import optimized_value
from vbp_lightning.training.resumption import ADDED

_OF_DATA = ("mean", "std", "low", "high", "context", "data", "splits", "digests", "imagery", "tta")
"""Arguments of the classifier that come from the data module or the top level."""

_RESUMING = ("purge_step",)
"""Arguments of the logger that come from the checkpoint of a resumed run."""


@dataclass(frozen=True, config=RECORD)
class StartingWeights:
    """What a network starts from.

    Args:
        weights: A state dict; None for random weights, or those that a callable returns.
    """

    weights: PathName | None = None


@dataclass(frozen=True, config=RECORD)
class RunSettings:
    """The settings of a run beside its data, its model, its callbacks and its logger.

    Args:
        seed: Of the initial weights, the drawing of tiles and their augmentation.
        optimized_metric: Key of ``metrics.json`` that a run returns to a sweep.
        tags: Labels of the run.
        resume: The folder of a run to continue.
        check: Whether to report on the data and train nothing.
        init_from: A checkpoint whose weights to start from.
        gallery: Whether the gallery of the validation tiles is written; None for single runs with
            few of them.
        tta: Whether the evaluation averages over the symmetries of a tile.
        threads: CPU threads of torch.
        trust: Callables that a resumed run may call to build its network.
        trainer: The arguments of Lightning's trainer.
        upsampling: Of the VisualBackProp masks.
        paths: Where data and results are stored.
        data: Settings of the data module.
        model: Settings of the classifier.
        callbacks: Settings of the callbacks by name.
        logger: Settings of the loggers by name.
    """

    seed: Seed
    threads: PositiveCount | Literal["auto"]
    trainer: TrainerSettings
    upsampling: Upsamplings
    data: Mapping[StrictStr, Any]
    model: Mapping[StrictStr, Any]
    optimized_metric: StrictStr = "val/auroc"
    tags: tuple[StrictStr | StrictInt | StrictFloat, ...] = ()
    resume: PathName | None = None
    check: StrictBool = False
    init_from: PathName | None = None
    gallery: StrictBool | None = None
    tta: StrictBool = False
    trust: StrictStr | tuple[StrictStr, ...] | None = None
    paths: Folders | None = None
    callbacks: Mapping[StrictStr, Any] | None = None
    logger: Mapping[StrictStr, Any] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            name = self.upsampling.name
            names = (name,) if isinstance(name, str) else name
            optimized_value(None, self.optimized_metric, names)
        except UserError as error:
            raise ValueError(str(error)) from error
        return self


def check_settings(cfg: DictConfig) -> None:
    """Checks all settings of a run before anything is read or written.

    Args:
        cfg: The composed config of ``train.py``, which may hold ``auto``.

    Raises:
        UserError: A line for each setting of a wrong type or out of range.
    """
    name_upsampling(cfg)
    given: Any = OmegaConf.to_container(cfg, resolve=True)
    trainer = given.get("trainer")
    given["trainer"] = own_settings(trainer) if isinstance(trainer, dict) else trainer
    lines = made(RunSettings, "", {k: v for k, v in given.items() if k not in ADDED})[1]
    lines += _data_errors(given["data"], given["model"].get("architecture") == "custom")
    lines += _model_errors(given["model"])
    parts: list[tuple[str, Any, type]] = [
        *((f"callbacks.{k}", each, Callback) for k, each in (given.get("callbacks") or {}).items()),
        *((key, node, Logger) for key, node in logger_nodes(given.get("logger")).items()),
    ]
    if isinstance(trainer, dict) and isinstance(trainer.get("profiler"), dict):
        parts.append(("trainer.profiler", trainer["profiler"], Profiler))
    for name, node, base in parts:
        lines += built_errors(name, node, base, *_RESUMING) if node is not None else []
    lines += missing_packages(given.get("logger"))
    for name, node, base in (
        ("data", given["data"], RoadTileDataModule),
        ("model", given["model"], RoadClassifier),
        ("trainer", trainer, Trainer),
    ):
        if isinstance(node, dict) and (line := target_error(name, node, base)):
            lines.append(line)
    if found := own_errors(cfg, lines):
        raise UserError(*found)
    if cfg.resume is not None:  # its settings come from a file, not from the command line
        trusted(given["model"].get("network"), cfg.get("trust"), str(cfg.resume), "resume")
    if cfg.get("init_from") is not None:  # older runs lack it
        cfg.init_from = str(cfg.init_from)


def _model_errors(settings: Mapping[str, Any]) -> list[str]:
    """One line for each wrong setting of the classifier."""
    values = own_settings(settings)
    weights, network = values.pop("weights", None), values.get("network")
    lines = argument_errors("model", RoadClassifier, values, *_OF_DATA)
    lines += made(StartingWeights, "model", {"weights": weights})[1]
    if values.get("architecture") == "custom":
        lines += setting_errors(network, "model.network")
    elif network is not None:
        lines.append("model.network: only model=custom takes a network of your own; add it")
    return lines


def _data_errors(settings: Mapping[str, Any], is_custom: bool) -> list[str]:
    """One line for each wrong setting of the data, for a road network or a custom one."""
    values = own_settings(settings)
    if values.get("num_workers") == "auto":
        values["num_workers"] = 0
    try:
        module = RoadTileDataModule(**values)
    except DataError as error:
        return list(error.lines)
    if is_custom:
        message = "data.context={}: only strided and maxpool crop the margin of a tile; give 0"
        return [message.format(module.context)] if module.context else []
    return [
        f"data.{name}={size}: must be a multiple of {TOTAL_STRIDE}, the distance of the network's"
        " features in pixels"
        for name, size in (("tile_size", module.tile_size), ("context", module.context))
        if size % TOTAL_STRIDE
    ]
