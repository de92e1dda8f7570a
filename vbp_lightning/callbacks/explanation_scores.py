"""The callback that scores VisualBackProp masks against the road pixels every epoch."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.callbacks.tile_data import tile_data
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.tiles.selection import spread_road_tiles, where_road_is_known
from vbp_lightning.evaluation.localisation import (
    Truth,
    average_precision,
    chance,
    pointing_game,
    positive_part,
    rank_accuracy,
    relevance_mass,
)
from vbp_lightning.records import PositiveCount, checked
from vbp_lightning.settings import UpsamplingNames

SCORES: dict[str, Callable[..., npt.NDArray[np.float64]]] = {
    "explanation/average_precision": average_precision,
    "explanation/relevance_mass": relevance_mass,
    "explanation/rank_accuracy": rank_accuracy,
    "explanation/pointing_game_2px": partial(pointing_game, tolerance=2),
}
"""The functions of maps and road pixels, both ``(N, H, W)``, by the name that is logged."""

LIFTED = (
    "explanation/average_precision",
    "explanation/relevance_mass",
    "explanation/pointing_game_2px",
)
"""The scores whose lift over chance is logged too, as ``NAME_lift``."""

ROAD_SHARE = "explanation/chance"
"""The name of the mean road share, which is the same for all upsamplings."""

_POINTING = "explanation/pointing_game_2px"

_EXPECTED = {0.98: 0.3, 0.9: 0.0}
"""The least lift of the pointing game, by the balanced accuracy from which it is expected."""

_ENOUGH = 32
"""Fewer tiles say nothing about how often the brightest pixel hits the road."""


def score_names(upsamplings: Sequence[str]) -> list[str]:
    """The keys of the scores of a run: with several upsamplings, each has its own.

    Args:
        upsamplings: The upsamplings of the run.
    """
    names = [*SCORES, *(f"{name}_lift" for name in LIFTED)]
    return [_key(name, each, upsamplings) for each in upsamplings for name in names] + [ROAD_SHARE]


def _key(name: str, upsampling: str, upsamplings: Sequence[str]) -> str:
    return name if len(upsamplings) == 1 else name.replace("/", f"/{upsampling}/", 1)


class ExplanationScores(pl.Callback):
    """Logs ``explanation/…``: scores of VisualBackProp masks of validation tiles.

    A subset of ``task=benchmark`` that is cheap to compute: average precision, relevance mass, rank
    accuracy and pointing game (two pixels of tolerance) against the road pixels, means over the
    same road tiles every epoch, with the epoch as the step. ``explanation/chance`` is the mean road
    share: the expected mass and rank accuracy of a random saliency map, and nearly its average
    precision. ``explanation/…_lift`` is a score minus that of a constant map. With several
    upsamplings the keys are ``explanation/deconv/average_precision`` and so on.

    Training is the same to the last bit with and without this callback: no random number is drawn,
    and every module keeps its mode. Nothing is scored in the sanity check, in processes other than
    global rank zero, or where only labels of whole images are known.

    Args:
        upsampling: Upsampling of VisualBackProp, or several.
        tiles: Number of road tiles, evenly spread over the validation split.

    Raises:
        ValueError: ``tiles`` is below 1, or there is no such upsampling, or one twice.
    """

    @checked
    def __init__(
        self, upsampling: UpsamplingNames = "deconv_normalized", tiles: PositiveCount = 64
    ) -> None:
        self.upsampling = (upsampling,) if isinstance(upsampling, str) else tuple(upsampling)
        self.tiles = tiles
        self._evaluation_tiles: tuple[Tensor, Truth, dict[str, float]] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Discards the tiles of an earlier fit."""
        self._evaluation_tiles = None
        if stage == "fit":
            tile_data(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the scores of the epoch's VisualBackProp masks."""
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not fitting or not trainer.is_global_zero:
            return
        scores = self.scores(pl_module, tile_data(trainer))
        for logger in trainer.loggers:
            logger.log_metrics(scores, trainer.current_epoch)

    def scores(self, model: nn.Module, datamodule: RoadTileDataModule) -> dict[str, float]:
        """The scores of a model's VisualBackProp masks.

        Args:
            model: Its mode and gradients are left unchanged.
            datamodule: Set up; its validation tiles are used.

        Returns:
            By name, each in [0, 1], lifts in [-1, 1]; empty if no road pixels are known.
        """
        if self._evaluation_tiles is None:
            road = spread_road_tiles(datamodule.tiles_of("val"), self.tiles)
            road, truth = where_road_is_known(road, datamodule.read_road_masks(road).numpy())
            means = {
                name: float(chance(SCORES[name], truth).mean()) for name in LIFTED if len(truth)
            }
            self._evaluation_tiles = datamodule.read_tiles(road), truth, means
        tiles, truth, chances = self._evaluation_tiles
        if not len(tiles):
            return {}
        device = next(model.parameters()).device
        scores = {ROAD_SHARE: float(truth.mean())}
        for each in self.upsampling:
            masks = VisualBackProp(model, each).attribute(tiles.to(device))
            maps = positive_part(masks[:, 0].double().cpu().numpy())
            found = {name: float(np.mean(score(maps, truth))) for name, score in SCORES.items()}
            found |= {f"{name}_lift": found[name] - chances[name] for name in LIFTED}
            scores |= {_key(name, each, self.upsampling): found[name] for name in found}
        return scores

    def doubt(self, metrics: Mapping[str, float]) -> str | None:
        """One line if the network is accurate although its masks do not point at the road.

        That is so if the brightest pixel of a mask lies within 2 px of road hardly more often than
        a random pixel, with each upsampling, in at least 32 tiles: not more often at a balanced
        accuracy of validation of at least 0.9, by less than 0.3 at one of at least 0.98.

        Args:
            metrics: ``val/balanced_accuracy`` and the last :meth:`scores` of this callback.

        Returns:
            What was found and what to look at; None if there is nothing to doubt.
        """
        keys = [_key(_POINTING, each, self.upsampling) for each in self.upsampling]
        count = 0 if self._evaluation_tiles is None else len(self._evaluation_tiles[0])
        accuracy = metrics.get("val/balanced_accuracy", 0)
        expected = [least for reached, least in _EXPECTED.items() if accuracy >= reached]
        if count < _ENOUGH or not expected:
            return None
        best = max(keys, key=lambda key: metrics[key])
        hits, lift = metrics[best], metrics[f"{best}_lift"]
        if lift >= expected[0]:
            return None
        return (
            f"Validation is accurate (balanced accuracy {accuracy:.3f}), but the brightest pixel of"
            f" the mask lies at the road in only {hits:.0%} of {count} road tiles, a random one in"
            f" {hits - lift:.0%}: the network may decide by something else than the road. Look at"
            " explain.py task=clusters and task=counterfactual, see docs/cheats.md"
        )
