"""The tiles that ``explain.py`` explains, and the files that it writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from torch import Tensor

from vbp_lightning.attribution import UnsupportedNetworkError
from vbp_lightning.callbacks.mask_panels import tile_caption
from vbp_lightning.callbacks.tile_choice import choose_by_share
from vbp_lightning.data import LabelledTile, Reading, Split, Tile, image_tiles, stored_datamodule
from vbp_lightning.errors import UserError
from vbp_lightning.files import replacing
from vbp_lightning.models import RoadClassifier
from vbp_lightning.plotting import (
    TileCaption,
    compress_page,
    encode_png,
    method_sheet,
    to_rgb,
)

PICTURE_FILE = "attribution.png"
ARRAYS_FILE = "attribution.npz"


@dataclass(frozen=True)
class ChosenTiles:
    """Tiles to explain.

    Args:
        tiles: ``(N, C, H, W)`` float32, raw.
        places: Where each lies.
        known: Label and share of each, where the imagery has labels; else empty.
    """

    tiles: Tensor
    places: Sequence[Tile]
    known: Sequence[LabelledTile] = ()


def tiles_of_run(model: RoadClassifier, split: Split, count: int) -> ChosenTiles:
    """Tiles of the data that a classifier was trained with, chosen like the panel's.

    Raises:
        DataError: The imagery is not where it was, or cannot be used.
    """
    if model.hparams["data"] is None:
        raise UserError("the checkpoint tells nothing of its data (ckpt): give an image (input)")
    datamodule = stored_datamodule(model.hparams["data"])
    datamodule.setup()
    tiles = datamodule.tiles_of(split)
    indices = [index for group in choose_by_share(tiles, count) for index in group.indices]
    known = [tiles[index] for index in indices]
    return ChosenTiles(datamodule.read_tiles(known), [item.tile for item in known], known)


def tiles_of_image(model: RoadClassifier, path: Path, count: int) -> ChosenTiles:
    """Tiles spread evenly over an image.

    Raises:
        DataError: The image cannot be read or does not suit the classifier.
    """
    data = model.hparams["data"] or {}
    bands = data.get("bands")
    reading = Reading(
        None if bands is None else tuple(bands), data.get("nodata"), data.get("resolution")
    )
    size = data.get("tile_size", 96)
    return ChosenTiles(*image_tiles(path, reading, model.hparams["mean"], size, count))


def chosen_methods(cfg: DictConfig) -> list[str]:
    """The names of the methods to apply.

    Args:
        cfg: The composed config of ``explain.py``: ``method`` is a name, a list of names, or
            ``all``.

    Raises:
        UserError: A name is unknown; the line lists those that are known.
    """
    known = list(cfg.methods)
    if cfg.method == "all":
        return known
    names = [cfg.method] if isinstance(cfg.method, str) else list(cfg.method)
    unknown = [str(name) for name in names if name not in known]
    if unknown or not names:
        raise UserError(
            f"method={','.join(unknown) or '[]'}: choose among {', '.join(known)}, a list of them,"
            " or all"
        )
    return names


def class_of(target: str | int | None) -> int | None:
    """The class that ``target`` names: ``road``, ``non_road`` or its number.

    Raises:
        UserError: It is neither.
    """
    named = {"road": 1, "non_road": 0}
    if target is None or isinstance(target, int):
        return target
    if target not in named:
        raise UserError(f"target={target}: choose road or non_road")
    return named[target]


def attributions(
    cfg: DictConfig, model: RoadClassifier, tiles: Tensor
) -> dict[str, npt.NDArray[np.float32]]:
    """The maps of all chosen methods.

    Methods that cannot explain this network are left out where all were asked for, and said so.

    Args:
        cfg: The composed config of ``explain.py``.
        model: What is explained.
        tiles: ``(N, C, H, W)``.

    Returns:
        ``(N, H, W)`` by method.

    Raises:
        UserError: A method that was asked for cannot be applied.
    """
    target = class_of(cfg.target)
    maps: dict[str, npt.NDArray[np.float32]] = {}
    names = chosen_methods(cfg)
    for name in track(names, "Explaining", console=Console(stderr=True), transient=True):
        try:
            method = instantiate(cfg.methods[name], model, _convert_="all")
            maps[name] = method.attribute(tiles, target)[:, 0].float().numpy()
        except (UnsupportedNetworkError, ValueError, InstantiationException) as error:
            reason = " ".join(str(error.__cause__ or error).split())
            if cfg.method != "all":
                raise UserError(f"methods.{name}: {reason}") from error
            print(f"{name} is left out: {reason}")
    return maps


def write_explanation(
    output: Path,
    cfg: DictConfig,
    model: RoadClassifier,
    chosen: ChosenTiles,
    maps: Mapping[str, npt.NDArray[np.float32]],
) -> list[Path]:
    """Writes the sheet of maps and the arrays behind it.

    Args:
        output: A folder, made if it is missing.
        cfg: The composed config of ``explain.py``, kept in the arrays' file.
        model: Gives probabilities and the decision threshold.
        chosen: What was explained.
        maps: ``(N, H, W)`` by method.

    Returns:
        The files.

    Raises:
        UserError: ``scale`` is unknown.
    """
    if cfg.scale not in ("each", "shared"):
        raise UserError(f"scale={cfg.scale}: choose each or shared")
    with torch.no_grad():
        logits = model.eval()(chosen.tiles)
    probabilities = logits.double().sigmoid().squeeze(1).numpy()
    threshold = float(model.threshold)
    captions = [
        tile_caption(tile, probability, threshold)
        for tile, probability in zip(chosen.known, probabilities.tolist(), strict=False)
    ] or [
        TileCaption(f"row {place.row}, column {place.col}", probability, wrong=False)
        for place, probability in zip(chosen.places, probabilities.tolist(), strict=True)
    ]
    about = "road" if class_of(cfg.target) != 0 else "non-road"
    title = f"What speaks for {about}"
    if list(maps) == ["visual_backprop"]:
        title = f"VisualBackProp, {cfg.upsampling.name}: where features fire"
    title += f"; road if P ≥ {threshold:.2f}"
    page = method_sheet(to_rgb(chosen.tiles.numpy()), maps, captions, title, cfg.scale)
    picture, arrays = output / PICTURE_FILE, output / ARRAYS_FILE
    with replacing(picture) as temporary:
        temporary.write_bytes(encode_png([compress_page(page)]))
    with replacing(arrays) as temporary:
        np.savez_compressed(
            temporary,
            **maps,  # type: ignore[arg-type]  # numpy's stub takes them for its own option
            methods=np.array(list(maps)),
            probabilities=probabilities,
            tiles=chosen.tiles.numpy(),
            scenes=np.array([tile.scene for tile in chosen.places]),
            rows=np.array([tile.row for tile in chosen.places]),
            cols=np.array([tile.col for tile in chosen.places]),
            config=np.array(OmegaConf.to_yaml(cfg)),
        )
    return [picture, arrays]
