"""The network that ``explain.py`` explains, the meaning of its scores, and how it takes images."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from vbp_lightning.data.settings import DataSettings
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.custom_model import custom_model, photo_reader
from vbp_lightning.explaining.image_inputs import CutImages, ImageReader
from vbp_lightning.files import file_digest
from vbp_lightning.inspection.class_model import Standardised
from vbp_lightning.models import Normalize, RoadClassifier
from vbp_lightning.models.fetching import local_file
from vbp_lightning.models.metrics import numbers
from vbp_lightning.records import made, own_settings
from vbp_lightning.settings import gpus

_log = logging.getLogger(__name__)

_BATCH = 64
_CUSTOM_MODEL_SIDE = 224


@dataclass(frozen=True)
class Subject:
    """A network to explain.

    Args:
        model: In eval mode: raw ``(N, C, H, W)`` float to ``(N, 1)`` logits or ``(N, K)`` scores.
        reader: Makes its inputs from images.
        fill: Raw value of each band at nodata pixels.
        classifier: The same as ``model`` if it is a road classifier.
        fingerprint: SHA-256 of the file of its weights, in hexadecimal; empty without a file.
        device: Where ``model`` is; inputs have to be moved there.
    """

    model: nn.Module
    reader: ImageReader
    fill: tuple[float, ...]
    classifier: RoadClassifier | None
    fingerprint: str
    device: torch.device

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Bands, height and width of an input, context included.

        They are 224 × 224 px for a custom model whose inputs have no fixed size.
        """
        side = self.reader.side or _CUSTOM_MODEL_SIDE
        return len(self.fill), side, side

    def class_name(self, target: int | None) -> str:
        """The name of a class for titles; None is road, or the likeliest class of each image."""
        if self.classifier is not None:
            return "non-road" if target == 0 else "road"
        return "likeliest class" if target is None else f"class {target}"

    @property
    def standardised(self) -> Standardised:
        """The model for standardised images, by mean and standard deviation of its first layer."""
        layer = next(each for each in self.model.modules() if isinstance(each, Normalize))
        return Standardised(self.model, layer.mean, layer.std)

    @property
    def knows_its_data(self) -> bool:
        """Whether the data that the network was trained with can be opened."""
        return self.classifier is not None and self.classifier.hparams["data"] is not None

    def one_class(self, target: str | int | None) -> int:
        """The class that ``target`` names for a task that needs exactly one; by default road.

        Raises:
            UserError: It names none, and the network is a custom model.
        """
        known = class_of(target)
        if known is None and self.classifier is None:
            raise UserError("target=null: give the class, as a number")
        return 1 if known is None else known

    def scores(self, tiles: Tensor) -> Tensor:
        """``(N, K)`` outputs on the CPU for ``(N, C, H, W)``, computed in chunks."""
        return numbers(self._in_chunks(self.model, tiles))

    @torch.no_grad()
    def _in_chunks(self, function: Callable[[Tensor], Tensor], tiles: Tensor) -> Tensor:
        parts = torch.split(tiles, _BATCH)
        return torch.cat([function(part.to(self.device)).cpu() for part in parts])

    def probabilities(self, tiles: Tensor, target: int | None) -> tuple[Tensor, list[str]]:
        """The probability of the explained class, and the name of that class.

        Args:
            tiles: ``(N, C, H, W)``.
            target: A class; None for road, or each image's likeliest class.

        Returns:
            The probabilities ``(N,)``, float64 in [0, 1] and always P(road) for a road classifier;
            and ``(N,)`` names of the classes that they belong to.

        Raises:
            UserError: There is no such class, or a score is not a number.
        """
        if self.classifier is None:
            scores = self.scores(tiles).double()
        else:
            scores = self._in_chunks(self.classifier.probability, tiles)[:, None]
        known = max(2, scores.shape[1])
        if target is not None and not 0 <= target < known:
            raise UserError(f"target={target}: the network knows classes 0 to {known - 1}")
        if scores.shape[1] == 1:
            if self.classifier is None:
                return scores.sigmoid()[:, 0], ["class 1"] * len(tiles)
            return scores[:, 0], ["road"] * len(tiles)
        shares = scores.softmax(dim=1)
        classes = shares.argmax(dim=1) if target is None else torch.full((len(tiles),), target)
        chosen = shares.gather(1, classes[:, None])[:, 0]
        return chosen, [self.class_name(each) for each in classes.tolist()]


def load_subject(cfg: DictConfig) -> Subject:
    """Loads a road classifier's checkpoint or a custom model.

    Args:
        cfg: The composed config of ``explain.py``: ``ckpt`` or ``network``, and ``device``.

    Raises:
        UserError: Both or neither are given, they cannot be loaded, or the device is missing.
    """
    device = device_named(cfg.device)
    is_custom = cfg.network.get("_target_") is not None
    if is_custom == (cfg.ckpt is not None):
        raise UserError(
            "give either a run's checkpoint (ckpt=RUN/checkpoints/best.ckpt) or a custom model "
            "(network._target_=CALLABLE network.weights=FILE)"
        )
    if not is_custom:
        path = local_file(str(cfg.ckpt), "ckpt")
        model = _classifier(path, cfg.get("trust"), cfg.tta)
        fill = tuple(model.hparams["mean"])
        model.to(device)
        return Subject(
            model, _tile_reader(model, fill, path), fill, model, file_digest(path), device
        )
    reader = photo_reader(cfg)
    weights = cfg.network.weights
    if weights is None:
        print("network.weights is not given: the weights are those that the callable returns")
    custom = custom_model(cfg).to(device)
    fingerprint = (
        "" if weights is None else file_digest(local_file(str(weights), "network.weights"))
    )
    return Subject(custom, reader, reader.fill, None, fingerprint, device)


def device_named(name: str) -> torch.device:
    """The device that ``device`` names.

    Args:
        name: ``cpu``, ``cuda``, ``mps``, or ``auto`` for a GPU if there is one.

    Raises:
        UserError: There is no such device on this machine.
    """
    devices = [*gpus(), "cpu"]
    if name not in ("auto", *devices):
        known = ", ".join(("auto", *devices))
        raise UserError(f"device={name}: is not available on this machine; choose {known}")
    return torch.device(devices[0] if name == "auto" else name)


def class_of(target: str | int | None) -> int | None:
    """The class that ``target`` names.

    Args:
        target: ``road``, ``non_road``, the number of a class, or None.

    Raises:
        UserError: It is none of these.
    """
    named = {"road": 1, "non_road": 0}
    if target is None or (isinstance(target, int) and not isinstance(target, bool)):
        return target
    if target not in named:
        raise UserError(f"target={target}: choose road, non_road or the number of a class")
    return named[target]


def _classifier(path: Path, trust: str | Sequence[str] | None, tta: bool | None) -> RoadClassifier:
    """Loads a checkpoint, and warns if its threshold was chosen under another ``tta``."""
    model = RoadClassifier.load_from_checkpoint(path, trust=trust, map_location="cpu")
    if tta is not None and tta != model.hparams["tta"]:
        _log.warning(
            "%s: its threshold, %.3f, was chosen with tta=%s (tta): for one that belongs to tta=%s,"
            " evaluate the run again with python train.py resume=RUN tta=%s",
            *(path, float(model.threshold), *(str(each).lower() for each in (not tta, tta, tta))),
        )
        model.hparams["tta"] = tta
    return model


def _tile_reader(model: RoadClassifier, fill: tuple[float, ...], path: Path) -> CutImages:
    """How images were read in training; the settings in the checkpoint are checked first."""
    data = model.hparams["data"] or {}
    own = {k: value for k, value in own_settings(data).items() if k not in ("root", "source")}
    settings, lines = made(DataSettings, "data", own)
    source = data.get("source") or {}
    white_area: Any = source.get("white_area", 0) if isinstance(source, Mapping) else None
    if not isinstance(white_area, int) or isinstance(white_area, bool) or white_area < 0:
        lines.append("data.source.white_area: must be a whole number of at least 0")
    if settings is None or lines:
        raise UserError(
            *(f"{path}: its data settings do not fit this version (ckpt): {line}" for line in lines)
        )
    context: int = model.hparams["context"]
    return CutImages(settings.reading, fill, settings.tile_size, context, white_area)


def layer_name(name: str) -> str:
    """The name of a layer inside the network, without that of the module that holds it."""
    return name.removeprefix("network.").removeprefix("backbone.")
