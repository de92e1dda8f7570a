"""The loggers of a run."""

import csv
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_fabric.utilities.logger import _convert_params, _flatten_dict
from omegaconf import DictConfig, OmegaConf
from pydantic import StrictBool, StrictInt, StrictStr
from pytorch_lightning.core.saving import save_hparams_to_yaml
from pytorch_lightning.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities import rank_zero_only

from vbp_lightning.errors import UserError, one_line
from vbp_lightning.files import replacing
from vbp_lightning.models import read_checkpoint
from vbp_lightning.records import Count, PathName, PositiveCount, checked


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


class _ContinuedWriter(ExperimentWriter):
    """Appends to the rows of an earlier start instead of deleting them."""

    def _check_log_dir_exists(self) -> None:
        pass


class RunCSVLogger(CSVLogger):
    """Lightning's CSV logger; a resumed run continues its file ``csv/metrics.csv``.

    Args:
        save_dir: The folder of the run.
        purge_step: Rows from this step on are discarded.
    """

    @checked
    def __init__(self, save_dir: PathName, purge_step: Count | None = None) -> None:
        super().__init__(save_dir, name="csv", version="")
        self._purge_step = purge_step or 0
        self._experiment: ExperimentWriter | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer of the file."""
        if self._experiment is None:
            writer = _ContinuedWriter(self.log_dir)
            path = Path(writer.metrics_file_path)
            if path.is_file():
                with path.open(newline="") as file:
                    reader = csv.DictReader(file)
                    rows = [row for row in reader if int(row["step"]) < self._purge_step]
                    writer.metrics_keys = list(reader.fieldnames or [])
                with replacing(path) as temporary, temporary.open("w", newline="") as file:
                    kept = csv.DictWriter(file, writer.metrics_keys)
                    kept.writeheader()
                    kept.writerows(rows)
            self._experiment = writer
        return self._experiment


class RunWandbLogger(WandbLogger):
    """Lightning's logger of Weights & Biases; a resumed run continues the run in its folder.

    Args:
        save_dir: The folder of the run, after which it is named.
        project: Holds the runs.
        group: Of runs within the project.
        offline: Whether everything stays in the folder.
    """

    @checked
    def __init__(
        self,
        save_dir: PathName,
        project: StrictStr = "vbp_lightning",
        group: StrictStr | None = None,
        offline: StrictBool = False,
    ) -> None:
        # the folders are (offline-)run-DATE_TIME-ID
        earlier = sorted(Path(save_dir, "wandb").glob("*run-*-*"))
        super().__init__(
            name=Path(save_dir).name,
            save_dir=save_dir,
            project=project,
            group=group,
            offline=offline,
            id=earlier[-1].name.rpartition("-")[2] if earlier else None,
            settings={"silent": True, "console": "off"},
        )
        del self._wandb_init["anonymous"]  # wandb warns of Lightning's default
        if offline or os.environ.get("WANDB_MODE") in ("offline", "dryrun"):
            del self._wandb_init["resume"]  # the id is enough, and wandb warns

    def close(self) -> None:
        """Ends the run, so that the next job of a sweep starts its own."""
        if self._experiment is not None:
            self._experiment.finish()


class RunMLFlowLogger(MLFlowLogger):
    """Lightning's MLflow logger; a resumed run continues the one that ``mlflow_run.txt`` names.

    Args:
        run_dir: The folder of the run, after which it is named.
        save_dir: Holds ``mlflow.db`` and ``mlflow_artifacts`` if no server is named.
        experiment_name: Holds the runs.
        tracking_uri: Address of a server or a database; None for the file in ``save_dir``.
    """

    @checked
    def __init__(
        self,
        run_dir: PathName,
        save_dir: PathName,
        experiment_name: StrictStr = "vbp_lightning",
        tracking_uri: StrictStr | None = None,
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        logging.getLogger("alembic").setLevel(logging.WARNING)  # the tables of a new database
        logging.getLogger(MLFlowLogger.__module__).setLevel(logging.ERROR)  # a new experiment
        self._id_file = Path(run_dir) / "mlflow_run.txt"
        run_id = None
        if self._id_file.is_file():  # the database lies where it was, from whichever folder
            run_id, tracking_uri = self._id_file.read_text(encoding="utf-8").split("\n")[:2]
        root = Path(save_dir).absolute()
        if tracking_uri is None:
            root.mkdir(parents=True, exist_ok=True)
        super().__init__(
            experiment_name,
            run_name=Path(run_dir).name,
            tracking_uri=tracking_uri or f"sqlite:///{root / 'mlflow.db'}",
            artifact_location=None if tracking_uri else (root / "mlflow_artifacts").as_uri(),
            run_id=run_id,
        )

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:  # noqa: ANN401
        """MLflow's client."""
        is_new = not self._initialized
        client = super().experiment
        if is_new and not self._id_file.is_file():
            with replacing(self._id_file, subfolder=True) as temporary:
                temporary.write_text(f"{self._run_id}\n{self._tracking_uri}\n", encoding="utf-8")
        return client

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:  # noqa: ANN401
        """Logs parameters; MLflow cannot change those of a resumed run, which become tags.

        Args:
            params: A mapping, nested or flat.
        """
        known = self.experiment.get_run(self.run_id).data.params
        flat = _flatten_dict(_convert_params(params))
        super().log_hyperparams({key: each for key, each in flat.items() if key not in known})
        for key, value in flat.items():
            if key in known and known[key] != str(value)[:250]:
                self.experiment.set_tag(self.run_id, key, str(value)[:250])


_PACKAGES = {RunWandbLogger: "wandb", RunMLFlowLogger: "mlflow"}


def logger_nodes(settings: object) -> dict[str, Any]:
    """The settings of each logger by config key.

    Args:
        settings: Of the group ``logger``: by name, or of the only one in runs of earlier versions.
    """
    if not isinstance(settings, Mapping | DictConfig) or "_target_" in settings:
        return {} if settings is None else {"logger": settings}
    return {f"logger.{name}": node for name, node in settings.items() if node is not None}


def missing_packages(settings: object) -> list[str]:
    """A line for each logger whose package is not installed.

    Args:
        settings: Of the group ``logger``.
    """
    nodes = [node for node in logger_nodes(settings).values() if isinstance(node, Mapping)]
    return [
        f'logger={name} needs {name}: pip install "vbp_lightning[{name}]"'
        for kind, name in _PACKAGES.items()
        if any(node.get("_target_") == f"{__name__}.{kind.__name__}" for node in nodes)
        and getattr(find_spec(name), "origin", None) is None  # a folder of that name has none
    ]


@contextmanager
def run_loggers(cfg: DictConfig, last_checkpoint: Path | None) -> Iterator[list[Logger]]:
    """The configured loggers; they discard what a killed run logged after its checkpoint.

    The block is the run: at its end, the services end theirs.

    Args:
        cfg: The composed config of ``train.py``.
        last_checkpoint: The checkpoint to continue from, or None for a new run.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        UserError: A service refuses the run or cannot be reached.
    """
    epoch = -1
    if last_checkpoint is not None:
        epoch = read_checkpoint(last_checkpoint, config_key="resume")["epoch"]
    loggers: list[Logger] = []
    try:
        for key, node in logger_nodes(cfg.get("logger")).items():
            with _explained(key):
                logger = instantiate(node)
                if isinstance(logger, TensorBoardLogger | RunCSVLogger):
                    logger = instantiate(node, purge_step=epoch + 1)
                loggers.append(logger)
                if isinstance(logger, RunWandbLogger | RunMLFlowLogger):
                    _ = logger.experiment  # connects before the training
        yield loggers
    finally:
        for logger in loggers:
            if isinstance(logger, RunWandbLogger):
                logger.close()


@contextmanager
def _explained(key: str) -> Iterator[None]:
    """Turns an error of a service into one line."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        raise UserError(
            f"{key}: cannot be started: {type(error).__name__}: {one_line(error)};"
            f" correct {key}, or choose another logger"
        ) from error


def log_settings(logger: Logger, cfg: DictConfig, compared: Mapping[str, Any]) -> None:
    """Logs the whole config, to TensorBoard the settings by which runs are compared.

    Args:
        logger: Any logger.
        cfg: The composed config of ``train.py``.
        compared: For the HParams tab.
    """
    whole: Any = OmegaConf.to_container(cfg, resolve=True)
    logger.log_hyperparams(dict(compared) if isinstance(logger, TensorBoardLogger) else whole)
