"""The settings of ``explain.py``: types and ranges, checked before anything is read."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, Self

from omegaconf import DictConfig, ListConfig, OmegaConf
from pydantic import StrictBool, StrictInt, StrictStr, model_validator
from pydantic.dataclasses import dataclass

from vbp_lightning.data.datasets.scene import Split
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.methods import chosen_methods, method_maker
from vbp_lightning.records import (
    RECORD,
    Number,
    PathName,
    Positive,
    PositiveCount,
    made,
    own_settings,
)
from vbp_lightning.settings import Folders, Upsampling, name_upsampling, own_errors

_NAMES = (
    *("ckpt", "input", "output", "network.weights"),
    *("data.root", "data.split_file", "data.corrections"),
)
"""Settings that name files and folders, also by a number."""


@dataclass(frozen=True, config=RECORD)
class OwnData:
    """Changes of the data that a checkpoint names.

    Args:
        root: Folder of imagery that was moved.
        split_file: A CSV that replaces the splits of the run.
        corrections: A CSV that replaces the corrections of labels of the run.
    """

    root: PathName | None
    split_file: PathName | None
    corrections: PathName | None


@dataclass(frozen=True, config=RECORD)
class Preprocessing:
    """How a custom model takes images.

    Args:
        bands: Bands of an image, in the order of the network.
        resize: New length of the shorter side in pixels; None for the original size.
        crop: Side in pixels of the square at the centre; None for the whole image.
        scale: Number that pixel values are divided by.
        mean: Mean of each band, after the division.
        std: Standard deviation of each band, after the division.
    """

    bands: tuple[PositiveCount | StrictStr, ...]
    resize: PositiveCount | None
    crop: PositiveCount | None
    scale: Positive
    mean: tuple[Number, ...]
    std: tuple[Positive, ...]


@dataclass(frozen=True, config=RECORD)
class ExplainSettings:
    """The settings that all tasks share.

    Args:
        ckpt: A checkpoint of a run.
        network: A custom model: ``_target_``, ``weights`` and its arguments.
        input: An image or a folder of them; None for tiles of the run's own data.
        split: Split of the run's own data.
        data: Changes of the run's own data.
        tiles: How many tiles are explained.
        target: The class whose score is explained.
        tta: Whether P(road) is averaged over the symmetries of a tile; None as in the run.
        scale: Whether every map is drawn in its own range, or all maps in one.
        device: Where the network runs.
        skip_unsupported: Whether methods that cannot explain the network are left out.
        trust: Callables that may be called to build the network of the checkpoint.
        output: Where pictures and arrays go.
        upsampling: Of the VisualBackProp masks.
        preprocess: How a custom model takes images.
        paths: Where data and results are stored.
        method: The attribution methods by name, with their options.
        task: The function that runs the task.
    """

    ckpt: PathName | None
    network: Mapping[StrictStr, Any]
    input: PathName | None
    split: Split
    data: OwnData
    tiles: PositiveCount
    target: StrictStr | StrictInt | None
    tta: StrictBool | None
    scale: Literal["each", "shared"]
    device: StrictStr
    skip_unsupported: StrictBool
    trust: StrictStr | tuple[StrictStr, ...] | None
    output: PathName
    upsampling: Upsampling
    preprocess: Preprocessing
    paths: Folders
    method: Mapping[StrictStr, Any]
    task: Mapping[StrictStr, Any]

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = self.preprocess
        bands, means, deviations = map(len, (given.bands, given.mean, given.std))
        if not 0 < bands == means == deviations:
            raise ValueError(
                f"preprocess: {bands} bands, {means} means and {deviations} deviations: give one"
                " per band (preprocess.bands, mean, std)"
            )
        return self


def check_settings(cfg: DictConfig, task: Callable[..., Any]) -> None:
    """Checks all settings of a call before anything is read or written.

    Args:
        cfg: The composed config of ``explain.py``; names of files that are numbers become text.
        task: The function ``run`` of a task, whose module holds the record ``Options`` of the
            settings if the task has some of its own.

    Raises:
        UserError: A line for each setting of a wrong type or out of range.
    """
    name_upsampling(cfg)
    if isinstance(cfg.upsampling.name, ListConfig):
        raise UserError(
            f"upsampling={list(cfg.upsampling.name)}: explain.py takes one upsampling; several are"
            " compared by task=benchmark, which scores all of them, and by train.py"
        )
    given: Any = OmegaConf.to_container(cfg, resolve=True)
    if isinstance(given.get("trainer"), dict):
        given["trainer"] = own_settings(given["trainer"])
    lines = [
        f"task.{name}: is no setting; options of a task are given as {name}=…"
        for name in own_settings(given["task"])
    ]
    function = task.func if isinstance(task, partial) else task
    options = getattr(sys.modules[function.__module__], "Options", ExplainSettings)
    lines += made(options, "", given)[1]
    for name, options in chosen_methods(cfg).items():
        try:
            method_maker(name, options)
        except UserError as error:
            lines += error.lines
    if found := own_errors(cfg, lines):
        raise UserError(*found)
    for name in _NAMES:
        if (value := OmegaConf.select(cfg, name)) is not None:
            OmegaConf.update(cfg, name, str(value))
