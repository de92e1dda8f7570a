"""What the benchmark compares, and the tiles that it is judged by."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from vbp_lightning.attribution import UPSAMPLINGS
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import Split
from vbp_lightning.data.tiles.selection import where_road_is_known
from vbp_lightning.data.tiles.tile import Label
from vbp_lightning.errors import UserError
from vbp_lightning.evaluation.baselines import BASELINES, Attribution
from vbp_lightning.explaining.methods import chosen_methods, method_maker

Maps = npt.NDArray[np.float32]
Build = Callable[[nn.Module], Attribution]
"""Makes an attribution method for a network."""

_BLOCK = 64
"""Tiles whose maps are made at a time."""


@dataclass(frozen=True)
class ComparedMethod:
    """A row of the benchmark.

    Args:
        method: Its name in the config, or a baseline's.
        upsampling: The way back, where it has one; else empty.
        build: Makes it for a network.
    """

    method: str
    upsampling: str
    build: Build

    @property
    def name(self) -> str:
        """Unique among the rows."""
        return f"{self.method}/{self.upsampling}" if self.upsampling else self.method


@dataclass(frozen=True)
class EvaluationTiles:
    """Road tiles and where the road is.

    Args:
        tiles: ``(N, C, H, W)`` float32, raw.
        truth: ``(N, H, W)`` bool.
        scenes: The scene of each.
        corners: ``(N, 2)``, row and column of each one's first pixel in its scene.
    """

    tiles: Tensor
    truth: npt.NDArray[np.bool_]
    scenes: list[str]
    corners: npt.NDArray[np.int64]


def compared_methods_of(cfg: DictConfig) -> list[ComparedMethod]:
    """The baselines, and the chosen methods, each with every upsampling that it can be given.

    Args:
        cfg: The composed config of ``explain.py``. An ``upsampling`` that a method's options name
            themselves, not by the config group, is left as it is.

    Raises:
        UserError: A method or one of its options is unknown, or an option of a wrong kind.
    """
    compared_methods = [ComparedMethod(name, "", build) for name, build in BASELINES.items()]
    for name in chosen_methods(cfg):
        options = OmegaConf.to_container(cfg.methods[name], resolve=False)
        assert isinstance(options, dict)
        follows = str(options.get("upsampling", "")).startswith("${upsampling")
        for upsampling in UPSAMPLINGS if follows else [""]:
            given = OmegaConf.to_container(cfg.methods[name], resolve=True)
            assert isinstance(given, dict)
            own = {str(option): value for option, value in given.items()}
            if upsampling:
                own["upsampling"] = upsampling
            compared_methods.append(ComparedMethod(name, upsampling, method_maker(name, own)))
    return compared_methods


def road_tiles(
    datamodule: RoadTileDataModule, split: Split, count: int, seed: int
) -> EvaluationTiles:
    """Road tiles of a split, in a random order, whose first ones are thus a random subset.

    Args:
        datamodule: Set up.
        split: Whose tiles.
        count: At most so many.
        seed: Of the order.

    Raises:
        UserError: No tile of the split has known road pixels.
    """
    road = [tile for tile in datamodule.tiles_of(split) if tile.label == Label.ROAD]
    drawn = [road[place] for place in np.random.default_rng(seed).permutation(len(road))[:count]]
    drawn, truth = where_road_is_known(drawn, datamodule.read_masks(drawn).numpy())
    if not drawn:
        raise UserError(
            f"split={split}: no road tile whose road pixels are known: choose data with masks or "
            "road vectors"
        )
    scenes = [tile.tile.scene for tile in drawn]
    corners = np.array([(tile.tile.row, tile.tile.col) for tile in drawn], dtype=np.int64)
    return EvaluationTiles(datamodule.read_tiles(drawn), truth, scenes, corners)


def maps_of(method: Attribution, tiles: Tensor, target: int | None) -> Maps:
    """``(N, H, W)`` float32 of ``(N, C, H, W)``, some at a time."""
    parts = [
        method.attribute(part, target)[:, 0].float().numpy() for part in torch.split(tiles, _BLOCK)
    ]
    return np.concatenate(parts)
