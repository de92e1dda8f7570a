"""The report of a run before and after its training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from vbp_lightning.callbacks import (
    AtomicCheckpointIO,
    ExplanationScores,
    MaskPanels,
    RunSummary,
)
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import SPLITS, Split
from vbp_lightning.models import RoadClassifier, read_checkpoint
from vbp_lightning.models.custom_network import TARGET, described
from vbp_lightning.models.metrics import METRICS
from vbp_lightning.training.folder import CORRECTIONS_FILE, SPLITS_FILE
from vbp_lightning.training.logger import log_settings
from vbp_lightning.training.predictions import (
    COLUMNS,
    PREDICTIONS_FILE,
    choose_threshold,
    evaluate,
    optimized_value,
    run_metrics,
    tile_labels,
    write_metrics,
    write_predictions,
)
from vbp_lightning.training.run_gallery import write_run_gallery

TILES_FILE = "tiles.csv"


def hyperparameters(cfg: DictConfig) -> dict[str, str | int | float | bool]:
    """The settings by which runs are compared in TensorBoard's HParams tab.

    Args:
        cfg: The composed config of ``train.py``.
    """
    network = cfg.model.get("network")
    # TensorBoard sorts them and shows the first five
    chosen: dict[str, Any] = {
        "architecture": described(network) if network else cfg.model.architecture,
        "dataset": cfg.data.source["_target_"].rsplit(".", 1)[-1],
        "head": cfg.model.get("head") or "its own",
        "mask_upsampling": cfg.upsampling.name
        if isinstance(cfg.upsampling.name, str)
        else ", ".join(cfg.upsampling.name),
        "seed": cfg.seed,
    }
    left_out = ("source", "augment", "root", "seed")
    chosen |= {
        f"tiling/{name}": cfg.data[name]
        for name in cfg.data
        if name[0] != "_" and name not in left_out
    }
    chosen |= {f"training/{name}": cfg.trainer[name] for name in ("max_epochs", "precision")}
    chosen |= {f"training/{name}": cfg.model[name] for name in ("learning_rate", "weight_decay")}
    if cfg.tags:
        chosen["tags"] = ", ".join(map(str, cfg.tags))
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in chosen.items()
    }


def report_start(
    cfg: DictConfig, run_dir: Path, trainer: pl.Trainer, datamodule: RoadTileDataModule
) -> None:
    """Prints the numbers of tiles, writes their lists, logs hyperparameters.

    The lists are ``tiles.csv``, ``splits.csv`` and ``corrections.csv``, if there are corrections.

    Args:
        cfg: The composed config of ``train.py``.
        run_dir: The run's folder.
        trainer: The run's trainer, before ``fit``.
        datamodule: Set up.
    """
    if not trainer.is_global_zero:
        return
    datamodule.write_tiles(run_dir / TILES_FILE)
    datamodule.write_splits(run_dir / SPLITS_FILE)
    if lines := datamodule.correction_lines:
        datamodule.corrections.write(run_dir / CORRECTIONS_FILE)
        print(*lines, sep="\n")
    Console().print(tile_table(datamodule.counts))
    for logger in trainer.loggers:
        log_settings(logger, cfg, hyperparameters(cfg))


def tile_table(counts: Mapping[Split, Mapping[str, int]]) -> Table:
    """A table of the numbers of tiles by split.

    Args:
        counts: By split, then by label.
    """
    names = list(counts["train"])
    table = Table("tiles", *(name.replace("_", "-") for name in names))
    for split in SPLITS:
        table.add_row(split, *(str(counts[split][name]) for name in names))
    return table


def report_end(
    cfg: DictConfig,
    run_dir: Path,
    trainer: pl.Trainer,
    model: RoadClassifier,
    datamodule: RoadTileDataModule,
) -> float:
    """Evaluates the best checkpoint on validation and test, writes and prints the report.

    Every process predicts, and the first one reports. If ``tta`` is not what the checkpoint was
    evaluated with, the threshold is chosen again and stored in it.

    Args:
        cfg: The composed config of ``train.py``.
        run_dir: The run's folder.
        trainer: A trainer whose ``fit`` has ended.
        model: The trained classifier; used if no checkpoint was kept.
        datamodule: The data module it was trained on.

    Returns:
        The ``optimized_metric`` of the best checkpoint; not a number in the other processes.

    Raises:
        UserError: The run has no such metric.
    """
    best = run_dir / "checkpoints" / "best.ckpt"
    if best.is_file():
        own = (cfg.model.get("network") or {}).get(TARGET)  # the run itself was started with it
        model = RoadClassifier.load_from_checkpoint(best, trust=own)
    threshold_fits = model.hparams["tta"] == cfg.tta
    model.hparams["tta"] = cfg.tta
    predictions = evaluate(trainer, model, datamodule)
    if not trainer.is_global_zero:
        return float("nan")
    if not threshold_fits and "val" in predictions:
        choose_threshold(model, datamodule, predictions["val"])
        if best.is_file():
            stored = read_checkpoint(best)
            stored["state_dict"]["threshold"] = model.threshold.cpu()
            stored["hyper_parameters"]["tta"] = cfg.tta
            AtomicCheckpointIO().save_checkpoint(stored, best)
    threshold = float(model.threshold)
    metrics = run_metrics(datamodule, predictions, threshold)
    write_predictions(run_dir / PREDICTIONS_FILE, datamodule, predictions, threshold)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ExplanationScores) and "val" in predictions:
            metrics |= callback.scores(model, datamodule)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, MaskPanels) and "val" in predictions:
            callback.log_example_predictions(trainer, model, datamodule, predictions["val"])
        if isinstance(callback, RunSummary) and "test" in predictions:
            labels = tile_labels(datamodule, "test")
            known = labels >= 0
            test = predictions["test"][known].numpy(), labels[known].numpy()
            callback.log_evaluation(trainer, *test, metrics, hyperparameters(cfg))
    pages = []
    if "val" in predictions:
        pages = [*write_run_gallery(cfg, run_dir, model, datamodule, predictions["val"])]
    write_metrics(run_dir, metrics)
    Console().print(metrics_table(metrics))
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ExplanationScores) and (line := callback.doubt(metrics)):
            print(line)
    print(f"Run: {run_dir}")
    if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
        print(f"TensorBoard: tensorboard --logdir {run_dir} --samples_per_plugin images=1000")
    if pages:
        print(f"Gallery: {pages[-1]}")
    return optimized_value(metrics, cfg.optimized_metric)


def metrics_table(metrics: dict[str, float]) -> Table:
    """The printed table: metrics by split, with and without the ignored tiles."""
    columns = [each for each in COLUMNS if f"{each[0]}/{METRICS[0]}{each[1]}" in metrics]
    table = Table("metric", *(f"{split}{end.replace('_', ' ')}" for split, end in columns))
    for name in METRICS:
        values = (f"{metrics[f'{split}/{name}{end}']:.4f}" for split, end in columns)
        table.add_row(name.replace("_", " "), *values)
    table.caption = f"a tile is called road if P(road) ≥ {metrics['threshold']:.3f}"
    return table
