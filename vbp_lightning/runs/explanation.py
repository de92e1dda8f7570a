"""The tiles that ``explain.py`` explains, and the files that it writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from vbp_lightning.callbacks.mask_panels import tile_caption
from vbp_lightning.callbacks.tile_choice import choose_by_share
from vbp_lightning.data import LabelledTile, Reading, Split, Tile, image_tiles, stored_datamodule
from vbp_lightning.errors import UserError
from vbp_lightning.files import replacing
from vbp_lightning.models import RoadClassifier
from vbp_lightning.plotting import TileCaption, compress_page, encode_png, mask_panel, to_rgb

PICTURE_FILE = "masks.png"
ARRAYS_FILE = "masks.npz"


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


def write_explanation(
    output: Path,
    cfg: DictConfig,
    model: RoadClassifier,
    chosen: ChosenTiles,
    logits: Tensor,
    masks: Tensor,
) -> list[Path]:
    """Writes the sheet of masks and the arrays behind it.

    Args:
        output: A folder, made if it is missing.
        cfg: The composed config of ``explain.py``, kept in the arrays' file.
        model: Gives the decision threshold.
        chosen: What was explained.
        logits: ``(N, 1)``.
        masks: ``(N, 1, H, W)`` in [0, 1].

    Returns:
        The files.
    """
    probabilities = logits.double().sigmoid().squeeze(1).numpy()
    threshold = float(model.threshold)
    captions = [
        tile_caption(tile, probability, threshold)
        for tile, probability in zip(chosen.known, probabilities.tolist(), strict=False)
    ] or [
        TileCaption(f"row {place.row}, column {place.col}", probability, wrong=False)
        for place, probability in zip(chosen.places, probabilities.tolist(), strict=True)
    ]
    page = mask_panel(
        to_rgb(chosen.tiles.numpy()),
        masks.squeeze(1).numpy(),
        captions,
        f"VisualBackProp, {cfg.upsampling.name}",
        f"road if P ≥ {threshold:.2f}",
        ["Where features fire on the way up, not for which class."],
    )
    picture, arrays = output / PICTURE_FILE, output / ARRAYS_FILE
    with replacing(picture) as temporary:
        temporary.write_bytes(encode_png([compress_page(page)]))
    with replacing(arrays) as temporary:
        np.savez_compressed(
            temporary,
            masks=masks.squeeze(1).numpy(),
            probabilities=probabilities,
            tiles=chosen.tiles.numpy(),
            scenes=np.array([tile.scene for tile in chosen.places]),
            rows=np.array([tile.row for tile in chosen.places]),
            cols=np.array([tile.col for tile in chosen.places]),
            config=np.array(OmegaConf.to_yaml(cfg)),
        )
    return [picture, arrays]
