"""The classifier of a run."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.errors import UserError
from vbp_lightning.models import RoadClassifier
from vbp_lightning.models.fine_tuning import initialize_from
from vbp_lightning.models.networks import TOTAL_STRIDE


def build_model(cfg: DictConfig, datamodule: RoadTileDataModule) -> RoadClassifier:
    """A new classifier for a data module that is set up, with the weights of ``init_from`` if set.

    Args:
        cfg: The composed config of ``train.py``.
        datamodule: Its normalisation, settings and splits are stored in the classifier.

    Raises:
        CheckpointError: ``init_from`` cannot be used.
        UserError: The context of the tiles does not fit the networks.
    """
    if datamodule.context % TOTAL_STRIDE:
        raise UserError(
            f"data.context={datamodule.context}: must be a multiple of {TOTAL_STRIDE}, the distance"
            " of the network's features in pixels"
        )
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
    if cfg.init_from:
        print(initialize_from(model, Path(cfg.init_from)))
    return model
