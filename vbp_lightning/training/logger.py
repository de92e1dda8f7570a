"""The logger of a run."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import StrictBool, StrictInt, StrictStr
from pytorch_lightning.core.saving import save_hparams_to_yaml
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from vbp_lightning.files import replacing
from vbp_lightning.models import read_checkpoint
from vbp_lightning.records import Count, PositiveCount, checked


class RunLogger(TensorBoardLogger):
    """TensorBoard's logger, whose ``hparams.yaml`` is written completely or not at all.

    Args:
        save_dir: The folder of the run.
        name: Folder inside of it; empty for none.
        version: Folder inside of that; empty for none.
        default_hp_metric: Whether a metric is logged for runs that have none.
        purge_step: Events from this step on are discarded.
        flush_secs: Seconds after which events are written.
        max_queue: Events after which they are written.
    """

    @checked
    def __init__(
        self,
        save_dir: StrictStr | Path,
        name: StrictStr | None = "",
        version: StrictInt | StrictStr | None = "",
        default_hp_metric: StrictBool = False,
        purge_step: Count | None = None,
        flush_secs: PositiveCount = 120,
        max_queue: PositiveCount = 10,
    ) -> None:
        super().__init__(
            save_dir,
            name,
            version,
            default_hp_metric=default_hp_metric,
            purge_step=purge_step,
            flush_secs=flush_secs,
            max_queue=max_queue,
        )

    @rank_zero_only
    def save(self) -> None:
        """Writes the events that are due, and the hyperparameters once.

        Raises:
            OSError: A file cannot be written.
        """
        self.experiment.flush()  # makes the folder
        path = Path(self.log_dir) / self.NAME_HPARAMS_FILE
        if not path.is_file():
            with replacing(path) as temporary:
                temporary.touch()
                save_hparams_to_yaml(temporary, self.hparams)
        super().save()


def build_logger(cfg: DictConfig, last_checkpoint: Path | None) -> Logger | None:
    """The configured logger; it discards the events that a killed run logged after its checkpoint.

    Args:
        cfg: The composed config of ``train.py``.
        last_checkpoint: The checkpoint to continue from, or None for a new run.

    Raises:
        CheckpointError: The checkpoint cannot be read.
    """
    logger: Logger | None = instantiate(cfg.get("logger"))
    if isinstance(logger, TensorBoardLogger):
        epoch = -1
        if last_checkpoint is not None:
            epoch = read_checkpoint(last_checkpoint, config_key="resume")["epoch"]
        logger = instantiate(cfg.logger, purge_step=epoch + 1)
    return logger
