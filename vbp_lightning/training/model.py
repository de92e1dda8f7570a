"""The classifier of a run."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.files import file_digest
from vbp_lightning.models import RoadClassifier
from vbp_lightning.models.checkpoint import CheckpointError
from vbp_lightning.models.fetching import local_file
from vbp_lightning.models.fine_tuning import initialize_from
from vbp_lightning.training.resumption import START


def build_model(
    cfg: DictConfig, datamodule: RoadTileDataModule, is_continued: bool = False
) -> RoadClassifier:
    """A new classifier for a data module that is set up, with the weights of ``init_from`` if set.

    Args:
        cfg: The composed config of ``train.py``, with the digest of ``init_from``.
        datamodule: Its normalisation, settings and splits are stored in the classifier.
        is_continued: Whether the run has a checkpoint of its own to go on from.

    Raises:
        CheckpointError: ``init_from`` cannot be used.
    """
    model: RoadClassifier = instantiate(
        cfg.model,
        mean=datamodule.mean,
        std=datamodule.std,
        low=datamodule.normalisation.low,
        high=datamodule.normalisation.high,
        context=datamodule.context,
        data=datamodule.data_config,
        splits=datamodule.scene_splits,
        digests=datamodule.scene_digests,
        imagery=datamodule.imagery,
        _convert_="all",
        _recursive_=False,  # the data's config is stored as it is
    )
    if cfg.init_from and not is_continued:
        path = local_file(str(cfg.init_from), "init_from")
        if path.is_file() and file_digest(path) != cfg.get(START):
            raise CheckpointError(
                f"{path}: is not the checkpoint that the run was started with (init_from, resume):"
                " put that one back, or start a new run"
            )
        print(initialize_from(model, path))
    return model
