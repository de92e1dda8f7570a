"""The data module of a run: a resumed run keeps its splits."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.tiles.corrections import Corrections
from vbp_lightning.data.tiles.splits import KnownSplits
from vbp_lightning.models import read_checkpoint
from vbp_lightning.training.folder import CORRECTIONS_FILE, SPLITS_FILE
from vbp_lightning.training.predictions import refuse_missing_metric
from vbp_lightning.training.preparation import resolve_auto_settings
from vbp_lightning.training.resumption import add_origin

_WAY_OUT = (
    "the run is finished: restore the data set that it was trained on, or choose another folder "
    "(hydra.run.dir, hydra.sweep.dir)"
)


def build_data(cfg: DictConfig, run_dir: Path) -> RoadTileDataModule:
    """The data module of a run, not set up yet.

    A resumed run takes its splits from its ``splits.csv``, or from its last checkpoint if
    that file is missing. ``resume=RUN data.split_file=FILE`` replaces them. Corrections of labels
    are likewise those that it has begun with.

    Args:
        cfg: The composed config of ``train.py``.
        run_dir: The run's folder.

    Raises:
        UserError: A setting is wrong.
    """
    datamodule: RoadTileDataModule = instantiate(cfg.data, _convert_="all")
    if cfg.resume is None:
        given = []
    else:
        is_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        overrides = [] if is_sweep else HydraConfig.get().overrides.task
        given = [override.lstrip("+").partition("=")[0] for override in overrides]
    is_new_check = cfg.check and cfg.resume is None
    if "data.split_file" in given:
        add_origin(cfg, anew=True)
    elif not is_new_check:
        datamodule.known_splits = _stored_splits(run_dir)
    if datamodule.settings.corrections is not None and not is_new_check:
        datamodule.known_corrections = _stored_corrections(run_dir)
    return datamodule


def refuse_small_data(datamodule: RoadTileDataModule, optimized_metric: str) -> None:
    """Checks that a data set is large enough for a training.

    Args:
        datamodule: Set up.
        optimized_metric: The setting of this name.

    Raises:
        UserError: A batch is larger than the training split, or the metric cannot be computed.
    """
    refuse_missing_metric(datamodule, optimized_metric)
    if line := batch_error(datamodule):
        raise DataError(line)


def batch_error(datamodule: RoadTileDataModule) -> str | None:
    """The line about a batch that is larger than the training split, if it is."""
    counts, batch_size = datamodule.counts["train"], datamodule.settings.batch_size
    labelled = counts["road"] + counts["non_road"]
    if labelled >= batch_size:
        return None

    return (
        f"data.batch_size={batch_size}: must be at most {labelled}, the number of labelled training"
        " tiles: lower it, or add scenes (data.root)"
    )


def refuse_other_scenes(cfg: DictConfig, run_dir: Path) -> None:
    """Compares the scenes on disk with those of a finished run.

    Args:
        cfg: The composed config of ``train.py``. A resumed run keeps its scenes, and those that
            came later are named; a new one would be trained on them.
        run_dir: The folder of the finished run.

    Raises:
        DataError: A scene has changed, is gone, or came later; one line for each.
    """
    completed, is_new = cfg.copy(), cfg.resume is None
    add_origin(completed)
    resolve_auto_settings(completed)
    datamodule = build_data(completed, run_dir)
    known = datamodule.known_splits
    if known is not None:
        origin = (known.origin[0], "(data.root)" if is_new else "(resume)")
        datamodule.known_splits = replace(known, origin=origin, way_out=_WAY_OUT)
        datamodule.compare_scenes(whole=is_new)


def _stored_splits(run_dir: Path) -> KnownSplits | None:
    """The splits of a run, or None if it has none yet."""
    if (path := run_dir / SPLITS_FILE).is_file():
        return KnownSplits.read(path, run=True)
    stored = _stored_hyperparameters(run_dir)
    if not stored.get("splits"):
        return None
    return KnownSplits.of_checkpoint(stored["splits"], stored.get("digests") or {})


def _stored_corrections(run_dir: Path) -> Corrections | None:
    """The corrections of a run, or None if it has none yet."""
    if (path := run_dir / CORRECTIONS_FILE).is_file():
        return Corrections.read(path, of_run=True)
    stored = _stored_hyperparameters(run_dir)
    return Corrections.of_checkpoint(stored.get("corrections") or ()) if stored else None


def _stored_hyperparameters(run_dir: Path) -> Mapping[str, Any]:
    """Those of the last checkpoint of a run; empty if it has none yet."""
    path = run_dir / "checkpoints" / "last.ckpt"
    if not path.is_file():
        return {}
    found: Mapping[str, Any] = read_checkpoint(path, "resume")["hyper_parameters"]
    return found
