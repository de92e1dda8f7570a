"""``task=projection``: the features of tiles on a plane."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import DictConfig
from torch.utils.tensorboard import SummaryWriter

from vbp_lightning.errors import UserError
from vbp_lightning.explaining.features import features_of
from vbp_lightning.explaining.inspecting import counts_checked, label_names
from vbp_lightning.explaining.outputs import write_arrays, write_picture
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.explaining.tile_sources import open_tiles
from vbp_lightning.inspection.feature_store import FeatureStore
from vbp_lightning.inspection.projection import on_grid, principal_components, tsne
from vbp_lightning.plotting.curves import figure_to_array
from vbp_lightning.plotting.display import to_rgb
from vbp_lightning.plotting.inspection_figures import scatter_figure, thumbnail_map
from vbp_lightning.plotting.picture_grid import GridRow, below_each_other, picture_grid

_LEAST = 4
_SPRITE = 32


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws PCA and t-SNE of the features and a map of thumbnails, and fills the projector.

    Args:
        cfg: The composed config of ``explain.py``: ``points`` tiles at most are projected,
            ``thumbnails`` of them laid on a grid.
        subject: What is looked at.

    Yields:
        ``projection.png``, ``projection.npz``, and the folder ``projector`` for
        ``tensorboard --logdir``.

    Raises:
        UserError: There are too few tiles.
    """
    counts_checked(cfg, "points", "thumbnails")
    source = open_tiles(cfg, subject)
    store = features_of(cfg, subject, source, cfg.split)
    if len(store) < _LEAST:
        raise UserError(f"there are {len(store)} tiles (input, split): give at least {_LEAST}")
    spread = _spread(len(store), cfg.points)
    features = np.asarray(store.features[spread])
    names = label_names(source)
    labels = [names[number] for number in spread]
    linear = principal_components(features)
    points = tsne(features, cfg.perplexity, cfg.seed)
    shown = _spread(len(spread), cfg.thumbnails)
    tiles = source.read(spread.tolist()).numpy()
    cells = on_grid(points[shown], max(1, int(np.ceil(np.sqrt(1.6 * len(shown))))))
    first, second = (
        f"component {i + 1} ({s:.0%} of variance)" for i, s in enumerate(linear.explained)
    )
    scatter = scatter_figure(
        {
            "PCA": (linear.points, (first, second)),
            "t-SNE": (points, ("t-SNE 1 (distances between groups mean nothing)", "t-SNE 2")),
        },
        labels,
        f"Features of {len(spread)} of {len(store)} tiles ({features.shape[1]} values each)",
    )
    mosaic = thumbnail_map(to_rgb(tiles[shown]), cells, [labels[number] for number in shown])
    row = GridRow(
        f"{len(shown)} of them on a grid, by their places in the t-SNE",
        [mosaic],
        side=max(mosaic.shape[:2]),
    )
    note = "Each tile is in one cell, with the least sum of squared shifts; framed by its label."
    output = Path(cfg.output)
    picture = figure_to_array(scatter)
    yield write_picture(
        output / "projection.png",
        below_each_other([picture, picture_grid([row], "The same by thumbnails", [note])]),
    )
    yield write_arrays(
        output / "projection.npz",
        cfg,
        {"pca": "of the features", "explained": "share of the variance", "tsne": "none"},
        numbers=spread,
        pca=linear.points,
        explained=linear.explained,
        tsne=points,
        thumbnails=spread[shown],
        cells=cells,
        labels=labels,
    )
    yield _projector(output / "projector", features, tiles, store, spread, labels)
    source.report()


def _spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """At most so many numbers, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, max(_LEAST, most))).round().astype(int))


def _projector(
    folder: Path,
    features: npt.NDArray[np.float32],
    tiles: npt.NDArray[np.float32],
    store: FeatureStore,
    numbers: npt.NDArray[np.int64],
    labels: list[str],
) -> Path:
    """Features, labels and thumbnails as TensorBoard's projector reads them."""
    shown = to_rgb(tiles)
    step = max(1, shown.shape[1] // _SPRITE)
    sprites = torch.from_numpy(np.ascontiguousarray(shown[:, ::step, ::step])).permute(0, 3, 1, 2)
    metadata = [
        [label, *(f"{value:.4f}" for value in store.outputs[number][:1]), store.scenes[number],
         str(store.rows[number]), str(store.cols[number])]
        for label, number in zip(labels, numbers, strict=True)
    ]  # fmt: skip
    if (folder / "projector_config.pbtxt").is_file():
        shutil.rmtree(folder)  # the writer would add to what an earlier call left there
    with SummaryWriter(str(folder)) as writer:
        writer.add_embedding(
            torch.from_numpy(features),
            metadata=metadata,
            label_img=sprites.float() / 255,
            metadata_header=["label", "score", "scene", "row", "column"],
            tag="features",
        )
    return folder
