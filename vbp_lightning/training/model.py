"""The classifier of a run."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from vbp_lightning.attribution import UnsupportedNetworkError, VisualBackProp
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.errors import UserError, one_line
from vbp_lightning.files import file_digest
from vbp_lightning.models import RoadClassifier
from vbp_lightning.models.checkpoint import CheckpointError
from vbp_lightning.models.custom_network import (
    CustomNetwork,
    build,
    described,
    fit_bands,
    plain_settings,
)
from vbp_lightning.models.fetching import local_file
from vbp_lightning.models.fine_tuning import initialize_from
from vbp_lightning.models.weights import start_from_weights
from vbp_lightning.records import own_settings
from vbp_lightning.training.resumption import START, WEIGHTS


def build_model(
    cfg: DictConfig, datamodule: RoadTileDataModule, is_continued: bool = False
) -> RoadClassifier:
    """A new classifier for a data module that is set up, with the weights of ``init_from`` if set.

    Args:
        cfg: The composed config of ``train.py``, with the digests of ``init_from`` and
            ``model.weights``.
        datamodule: Its normalisation, settings and splits are stored in the classifier.
        is_continued: Whether the run has a checkpoint of its own to go on from.

    Raises:
        CheckpointError: ``init_from`` cannot be used.
        UserError: The network or its weights cannot be used.
    """
    settings: Any = OmegaConf.to_container(cfg.model, resolve=True)
    weights = settings.pop("weights", None)
    if is_continued or cfg.resume is not None:
        # the weights come from the checkpoint, and trust= showed these arguments alone
        settings["network"] = settings.get("network") and plain_settings(settings["network"])
    model: RoadClassifier = get_class(cfg.model["_target_"])(
        **own_settings(settings),
        mean=datamodule.mean,
        std=datamodule.std,
        low=datamodule.normalisation.low,
        high=datamodule.normalisation.high,
        context=datamodule.context,
        data=datamodule.data_config,
        splits=datamodule.scene_splits,
        digests=datamodule.scene_digests,
        corrections=datamodule.corrections.rows or None,
        imagery=datamodule.imagery,
    )
    check_network(model, datamodule)
    if weights is not None and not is_continued:
        network = getattr(model.network, "backbone", model.network)
        file = _first_file(cfg, str(weights), "model.weights", WEIGHTS)
        print(start_from_weights(network, file, "model.weights"))
    if cfg.init_from and not is_continued:
        print(initialize_from(model, _first_file(cfg, str(cfg.init_from), "init_from", START)))
    return model


def _first_file(cfg: DictConfig, name: str, key: str, digest: str) -> Path:
    """A file that a run starts from, which must be the one that it was started with."""
    path = local_file(name, key)
    if path.is_file() and file_digest(path) != cfg.get(digest):
        raise CheckpointError(
            f"{path}: is not the file that the run was started with ({key}, resume): put that one"
            " back, or start a new run"
        )
    return path


def check_network(model: RoadClassifier, datamodule: RoadTileDataModule) -> None:
    """Checks before the training that a network of another package can be trained and explained.

    It is run on two blank tiles, in training and in evaluation, and explained by VisualBackProp.
    Its weights, its statistics and the random numbers stay as they are.

    Args:
        model: A new classifier.
        datamodule: Gives bands and size of the tiles.

    Raises:
        UserError: The network fails, returns something else than logits, cannot be explained, or
            would not be built alike from its checkpoint.
    """
    if not isinstance(model.network, CustomNetwork):
        return
    called = described(model.hparams["network"])
    backbone = model.network.backbone
    shape = (2, len(datamodule.mean), datamodule.tile_size, datamodule.tile_size)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for training in (True, False):
            copy = deepcopy(backbone).train(training)
            try:
                returned = copy(torch.zeros(shape))
            except Exception as error:
                raise UserError(
                    f"model.network: {called} cannot take tiles of shape {shape}"
                    f" ({one_line(error)}): give a network for {shape[1]} bands and tiles of"
                    f" {shape[2]}×{shape[3]} px, or other data.tile_size"
                ) from error
            if found := _wrong_output(returned):
                when = "in training" if training else "in evaluation"
                raise UserError(
                    f"model.network: {called} returns {found} {when}, for 2 tiles: a classifier"
                    " returns (2, 1) logits, or (2, 2) scores of non-road and road; set the"
                    " number of classes, as model.network.num_classes=1"
                )
        stored = model.hparams["network"]
        if isinstance(stored, Mapping) and _shapes(backbone) != _shapes(_rebuilt(model, stored)):
            dropped = "arguments that are paths, addresses or name weights"
            raise UserError(
                f"model.network: {called}, as the checkpoint would store it, is another network:"
                f" {dropped} are left out; give its shape by other arguments"
            )
        try:
            # of the module that the callbacks explain: they find its export
            VisualBackProp(model).attribute(torch.zeros(shape))
        except UnsupportedNetworkError as error:
            raise UserError(
                f"model.network: {called} cannot be explained, so it is not trained: {error}"
            ) from error


def _wrong_output(returned: object) -> str:
    """What a network returns for two tiles; empty if these are logits or two scores."""
    if not isinstance(returned, torch.Tensor):
        return f"a {type(returned).__name__}"
    is_known = returned.shape in ((2, 1), (2, 2)) and returned.is_floating_point()
    return "" if is_known else f"{tuple(returned.shape)} {returned.dtype}".replace("torch.", "")


def _rebuilt(model: RoadClassifier, stored: Mapping[str, Any]) -> torch.nn.Module:
    with torch.device("meta"):
        network = build(stored, "model.network")
    fit_bands(network, len(model.hparams["mean"]))
    return network


def _shapes(network: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: each.shape for name, each in network.state_dict().items()}
