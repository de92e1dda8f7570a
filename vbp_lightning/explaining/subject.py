"""What ``explain.py`` explains: a network, what its scores mean, and how it takes images."""

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.custom_model import custom_network, photo_reader
from vbp_lightning.explaining.image_inputs import CutImages, ImageReader
from vbp_lightning.files import file_digest
from vbp_lightning.models import RoadClassifier
from vbp_lightning.models.networks import TILE_SIZE

_BATCH = 64
_CUSTOM_NETWORK_SIDE = 224


@dataclass(frozen=True)
class Subject:
    """A network to explain.

    Args:
        model: In eval mode: raw ``(N, C, H, W)`` float to ``(N, 1)`` logits or ``(N, K)`` scores.
        reader: Makes its inputs from images.
        fill: Value of each band where there is no imagery, raw.
        classifier: The same as ``model`` if it is a road classifier.
        fingerprint: SHA-256 of the file of its weights, in hexadecimal; empty without a file.
    """

    model: nn.Module
    reader: ImageReader
    fill: tuple[float, ...]
    classifier: RoadClassifier | None
    fingerprint: str

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Bands, height and width of an image as the network takes it, context included.

        A foreign network without a fixed size is shown images of 224 × 224.
        """
        side = self.reader.side or _CUSTOM_NETWORK_SIDE
        return len(self.fill), side, side

    def class_name(self, target: int | None) -> str:
        """What people call a class; None is road, or each image's likeliest class."""
        if self.classifier is not None:
            return "non-road" if target == 0 else "road"
        return "likeliest class" if target is None else f"class {target}"

    def scores(self, tiles: Tensor) -> Tensor:
        """``(N, K)`` outputs for ``(N, C, H, W)``, some at a time."""
        with torch.no_grad():
            return torch.cat([self.model(part) for part in torch.split(tiles, _BATCH)])

    def probabilities(self, tiles: Tensor, target: int | None) -> tuple[Tensor, list[str]]:
        """How likely the network holds the explained class, and what that class is.

        Args:
            tiles: ``(N, C, H, W)``.
            target: A class; None for road, or each image's likeliest class.

        Returns:
            ``(N,)`` float64 in [0, 1]; of a road classifier always P(road). And the name of the
            class that each belongs to.

        Raises:
            UserError: There is no such class.
        """
        scores = self.scores(tiles).double()
        known = max(2, scores.shape[1])
        if target is not None and not 0 <= target < known:
            raise UserError(f"target={target}: the network knows classes 0 to {known - 1}")
        if scores.shape[1] == 1:
            name = "road" if self.classifier is not None else "class 1"
            return scores.sigmoid()[:, 0], [name] * len(tiles)
        shares = scores.softmax(dim=1)
        classes = shares.argmax(dim=1) if target is None else torch.full((len(tiles),), target)
        chosen = shares.gather(1, classes[:, None])[:, 0]
        return chosen, [self.class_name(each) for each in classes.tolist()]


def load_subject(cfg: DictConfig) -> Subject:
    """The network that the config names: a road classifier's checkpoint, or a foreign network.

    Args:
        cfg: The composed config of ``explain.py``.

    Raises:
        UserError: Both or neither are given, or what is given cannot be loaded.
    """
    is_custom = cfg.network.get("_target_") is not None
    if is_custom == (cfg.ckpt is not None):
        raise UserError(
            "give either a run's checkpoint (ckpt=RUN/checkpoints/best.ckpt) or a network of your "
            "own (network._target_=CALLABLE network.weights=FILE)"
        )
    if not is_custom:
        path = Path(cfg.ckpt)
        model = RoadClassifier.load_from_checkpoint(path, map_location="cpu")
        fill = tuple(model.hparams["mean"])
        return Subject(model, _tile_reader(model, fill), fill, model, file_digest(path))
    reader = photo_reader(cfg)
    weights = cfg.network.weights
    if weights is None:
        print("network.weights is not given: the network is explained as its callable returns it")
    network = custom_network(cfg)
    fingerprint = "" if weights is None else file_digest(Path(weights))
    return Subject(network, reader, reader.fill, None, fingerprint)


def class_of(target: str | int | None) -> int | None:
    """The class that ``target`` names: ``road``, ``non_road`` or its number.

    Raises:
        UserError: It is neither.
    """
    named = {"road": 1, "non_road": 0}
    if target is None or (isinstance(target, int) and not isinstance(target, bool)):
        return target
    if target not in named:
        raise UserError(f"target={target}: choose road, non_road or the number of a class")
    return named[target]


def _tile_reader(model: RoadClassifier, fill: tuple[float, ...]) -> CutImages:
    data = model.hparams["data"] or {}
    bands = data.get("bands")
    reading = Reading(
        None if bands is None else tuple(bands), data.get("nodata"), data.get("resolution")
    )
    return CutImages(
        reading,
        fill,
        data.get("tile_size", TILE_SIZE),
        model.hparams["context"],
        (data.get("source") or {}).get("white_area", 0),
    )
