"""``task=projection``: the features of tiles in two dimensions."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import DictConfig
from pydantic.dataclasses import dataclass
from torch.utils.tensorboard import SummaryWriter

from vbp_lightning.errors import UserError
from vbp_lightning.explaining.features import features_of
from vbp_lightning.explaining.outputs import write_results
from vbp_lightning.explaining.settings import ExplainSettings
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.explaining.tile_sources import (
    compared_tiles,
    evenly_spread,
    label_names,
    open_tiles,
)
from vbp_lightning.files import replacing
from vbp_lightning.inspection.projection import on_grid, principal_components, tsne
from vbp_lightning.plotting.curves import figure_to_array
from vbp_lightning.plotting.display import to_rgb
from vbp_lightning.plotting.inspection_figures import scatter_figure, thumbnail_map
from vbp_lightning.plotting.picture_grid import GridRow, below_each_other, picture_grid
from vbp_lightning.records import RECORD, Positive, PositiveCount, Seed

_LEAST = 4
_PROJECTOR = "projector_config.pbtxt"
_SPRITE = 32


@dataclass(frozen=True, config=RECORD)
class Options(ExplainSettings):
    """The settings of the task, with their ranges."""

    points: PositiveCount
    thumbnails: PositiveCount
    perplexity: Positive
    seed: Seed


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws PCA and t-SNE of the features and a map of thumbnails, and writes the projector.

    Args:
        cfg: The composed config of ``explain.py``: at most ``points`` tiles are projected, at most
            ``thumbnails`` of them are placed on a grid.
        subject: The network.

    Yields:
        ``projection.png``, ``projection.npz``, and the folder ``projector`` for
        ``tensorboard --logdir``.

    Raises:
        UserError: A setting is wrong, or there are too few tiles.
    """
    source = open_tiles(cfg, subject)
    count = len(source.places)
    if count < _LEAST:
        raise UserError(f"there are {count} tiles (input, split): give at least {_LEAST}")
    spread = evenly_spread(count, max(_LEAST, cfg.points))
    numbers = compared_tiles(spread.tolist())
    features, outputs = features_of(subject, source, numbers)
    names = label_names(source)
    labels = [names[number] for number in numbers]
    linear = principal_components(features)
    points = tsne(features, cfg.perplexity, cfg.seed)
    shown = evenly_spread(len(numbers), max(_LEAST, cfg.thumbnails))
    tiles = to_rgb(source.read(numbers).numpy())
    cells = on_grid(points[shown], max(1, int(np.ceil(np.sqrt(1.6 * len(shown))))))
    first, second = (
        f"component {i + 1} ({s:.0%} of variance)" for i, s in enumerate(linear.explained)
    )
    scatter = scatter_figure(
        {
            "PCA": (linear.points, (first, second)),
            "t-SNE": (points, ("t-SNE 1 (distances between groups have no meaning)", "t-SNE 2")),
        },
        labels,
        f"Features of {len(numbers)} of {count} tiles ({features.shape[1]} values each)",
    )
    mosaic = thumbnail_map(tiles[shown], cells, [labels[number] for number in shown])
    row = GridRow(
        f"{len(shown)} of them on a grid, by their t-SNE coordinates",
        [mosaic],
        side=max(mosaic.shape[:2]),
    )
    note = "Each tile has its own cell; the sum of squared shifts is minimal. Frames show labels."
    grid = picture_grid([row], "The same tiles as thumbnails", [note])
    yield from write_results(
        cfg,
        "projection",
        below_each_other([figure_to_array(scatter), grid]),
        numbers=numbers,
        pca=linear.points,
        explained=linear.explained,
        tsne=points,
        thumbnails=[numbers[place] for place in shown],
        cells=cells,
        labels=labels,
    )
    places = [source.places[number] for number in numbers]
    metadata = [
        [label, f"{score:.4f}", place.scene, str(place.row), str(place.col)]
        for label, score, place in zip(labels, outputs[:, 0], places, strict=True)
    ]
    yield _projector(Path(cfg.output) / "projector", features, tiles, metadata)
    source.report()


def _projector(
    folder: Path,
    features: npt.NDArray[np.float32],
    pictures: npt.NDArray[np.uint8],
    metadata: Sequence[Sequence[str]],
) -> Path:
    """Writes features, labels and thumbnails in the format of TensorBoard's projector."""
    step = max(1, pictures.shape[1] // _SPRITE)
    sprites = torch.tensor(pictures[:, ::step, ::step]).permute(0, 3, 1, 2)
    with replacing(folder) as temporary:
        with SummaryWriter(str(temporary)) as writer:
            writer.add_embedding(
                torch.from_numpy(features),
                metadata=metadata,
                label_img=sprites.float() / 255,
                metadata_header=["label", "score", "scene", "row", "column"],
                tag="features",
            )
        if (folder / _PROJECTOR).is_file():
            shutil.rmtree(folder)  # of an earlier call
    return folder
