"""The logger of a run."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from vbp_lightning.models import read_checkpoint


def build_logger(cfg: DictConfig, last_checkpoint: Path | None) -> Logger | None:
    """The configured logger; it discards the events that a killed run logged after its checkpoint.

    Args:
        cfg: The composed config of ``train.py``.
        last_checkpoint: The checkpoint to continue from, or None for a new run.

    Raises:
        CheckpointError: The checkpoint cannot be read.
    """
    logger: Logger | None = instantiate(cfg.logger)
    if isinstance(logger, TensorBoardLogger):
        epoch = -1
        if last_checkpoint is not None:
            epoch = read_checkpoint(last_checkpoint, config_key="resume")["epoch"]
        logger = instantiate(cfg.logger, purge_step=epoch + 1)
    return logger
