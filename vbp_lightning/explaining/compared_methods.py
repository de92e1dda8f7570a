"""The methods that the benchmark compares, and the tiles that it evaluates them on."""

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

_BATCH = 64


@dataclass(frozen=True)
class ComparedMethod:
    """A row of the benchmark.

    Args:
        method: Its name in the config, or that of a baseline.
        upsampling: Its upsampling; empty if it has none.
        build: Builds it for a network.
    """

    method: str
    upsampling: str
    build: Callable[[nn.Module], Attribution]


@dataclass(frozen=True)
class EvaluationTiles:
    """Road tiles and their road pixels.

    Args:
        tiles: ``(N, C, H, W)`` float32, raw, on the device of the network.
        truth: ``(N, H, W)`` bool, the road pixels.
        scenes: The scene of each tile.
        corners: ``(N, 2)``, row and column of the first pixel of each tile in its scene.
    """

    tiles: Tensor
    truth: npt.NDArray[np.bool_]
    scenes: list[str]
    corners: npt.NDArray[np.int64]


def compared_methods_of(cfg: DictConfig) -> list[ComparedMethod]:
    """The baselines, and the chosen methods, each with every upsampling that it can use.

    Args:
        cfg: The composed config of ``explain.py``. Only methods whose option ``upsampling`` refers
            to the config group get every upsampling.

    Raises:
        UserError: A line for each option that is unknown or of a wrong type.
    """
    compared = [ComparedMethod(name, "", build) for name, build in BASELINES.items()]
    for name, options in chosen_methods(cfg).items():
        if "upsampling" in options and OmegaConf.is_interpolation(options, "upsampling"):
            for upsampling in UPSAMPLINGS:
                build = method_maker(name, options, upsampling=upsampling)
                compared.append(ComparedMethod(name, upsampling, build))
        else:
            compared.append(ComparedMethod(name, "", method_maker(name, options)))
    return compared


def road_tiles(
    datamodule: RoadTileDataModule, split: Split, count: int, seed: int, device: torch.device
) -> EvaluationTiles:
    """Road tiles of a split in a random order, so that the first ones are a random subset.

    Args:
        datamodule: Set up.
        split: Split of the tiles.
        count: Largest number of tiles.
        seed: Seed of the order.
        device: Where the tiles are stored.

    Raises:
        UserError: No tile of the split has known road pixels.
    """
    road = [tile for tile in datamodule.tiles_of(split) if tile.label == Label.ROAD]
    drawn = [road[place] for place in np.random.default_rng(seed).permutation(len(road))[:count]]
    drawn, truth = where_road_is_known(drawn, datamodule.read_road_masks(drawn).numpy())
    if not drawn:
        raise UserError(
            f"split={split}: no road tile whose road pixels are known: choose data with masks or "
            "road vectors"
        )
    scenes = [tile.tile.scene for tile in drawn]
    corners = np.array([(tile.tile.row, tile.tile.col) for tile in drawn], dtype=np.int64)
    return EvaluationTiles(datamodule.read_tiles(drawn).to(device), truth, scenes, corners)


def maps_of(method: Attribution, tiles: Tensor, target: int | None) -> Maps:
    """``(N, H, W)`` float32 maps of ``(N, C, H, W)`` tiles, computed in chunks."""
    parts = [method.attribute(part, target)[:, 0] for part in torch.split(tiles, _BATCH)]
    return np.concatenate([part.float().cpu().numpy() for part in parts])
