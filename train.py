"""Trains a road classifier and shows VisualBackProp masks every epoch: ``train.py --help``."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from vbp_lightning.cli import (
    end_with,
    names_as_text,
    one_line_errors,
    quiet_lightning,
    reported_once,
)
from vbp_lightning.jobs import is_first_process
from vbp_lightning.training.folder import claimed, finished_metrics
from vbp_lightning.training.resumption import expand_resume, is_extended, refuse_other_settings


def train(cfg: DictConfig) -> float:
    """Trains, evaluates and reports one run; returns its ``optimized_metric``."""
    # imported here: ``--help`` needs none of them, and torch and Lightning take seconds
    import pytorch_lightning as pl

    from vbp_lightning.callbacks import AtomicCheckpointIO
    from vbp_lightning.training.check import check_data
    from vbp_lightning.training.data import build_data, refuse_small_data
    from vbp_lightning.training.logger import run_loggers
    from vbp_lightning.training.model import build_model
    from vbp_lightning.training.preparation import SettingsOfResumedRun, prepare_run
    from vbp_lightning.training.report import report_end, report_start

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    prepare_run(cfg, run_dir)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule = build_data(cfg, run_dir)
    if cfg.check:
        if is_first_process():
            check_data(datamodule, run_dir, cfg.seed)
        return float("nan")
    datamodule.setup()
    refuse_small_data(datamodule, cfg.optimized_metric)
    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    last = checkpoint if checkpoint.is_file() else None
    model = build_model(cfg, datamodule, is_continued=last is not None)
    callbacks = [instantiate(callback) for callback in cfg.callbacks.values() if callback]
    settings = SettingsOfResumedRun(cfg, run_dir)
    with quiet_lightning(), run_loggers(cfg, last) as loggers:
        trainer = instantiate(
            cfg.trainer,
            callbacks=[settings, *callbacks],
            logger=loggers or False,
            plugins=[AtomicCheckpointIO()],
        )
        report_start(cfg, run_dir, trainer, datamodule)
        with settings.refusing(last):
            trainer.fit(model, datamodule, ckpt_path=last, weights_only=True)
        return report_end(cfg, run_dir, trainer, model, datamodule)


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    """One run, or one job of a sweep."""
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    try:
        # imported here: ``--help`` needs none of what it imports
        from vbp_lightning.training.settings import check_settings

        with claimed(run_dir), reported_once(run_dir):
            check_settings(cfg)
            done = None if is_extended(cfg, run_dir) else finished_metrics(run_dir)
            refuse_other_settings(cfg, run_dir)
            if done is None:
                return train(cfg)
            from vbp_lightning.training.data import refuse_other_scenes

            if is_first_process():
                refuse_other_scenes(cfg, run_dir)
                print(f"{run_dir} is done: nothing to do")
            from vbp_lightning.training.predictions import optimized_value

            return optimized_value(done, cfg.optimized_metric)
    except BaseException as error:
        end_with(error)
        return None


if __name__ == "__main__":
    with one_line_errors():
        sys.argv[1:] = expand_resume(names_as_text(sys.argv[1:]))
        main()
