"""From tiles of a data set or of images, with their probabilities, to the files of a gallery."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from vbp_lightning.cli import shown_progress
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.imagery.extent import PixelGrid, longitude_latitude
from vbp_lightning.data.tiles.corrections import Correction
from vbp_lightning.data.tiles.grid import tile_bounds
from vbp_lightning.data.tiles.selection import road_is_known
from vbp_lightning.data.tiles.tile import Label, LabelledTile, Tile
from vbp_lightning.evaluation.localisation import positive_part, relevance_mass
from vbp_lightning.gallery.page import write_gallery
from vbp_lightning.gallery.tiles import GalleryPictures, GalleryTiles
from vbp_lightning.models.metrics import binary_metrics
from vbp_lightning.plotting.display import scale_saliency, scaled, to_rgb

MAP_SIDE = 24
"""Height and width of the saliency maps of a gallery in pixels; the largest features that one shows
are as wide as a road."""

_BATCH = 64

_SAMPLE = 256
"""Tiles whose percentiles are black and full brightness."""


@dataclass(frozen=True)
class GallerySource:
    """What a gallery reads of N tiles. The functions are given ascending numbers of tiles.

    Args:
        places: Scene and corner of each tile.
        grid: Where the pixels of a tile's scene lie, by the number of the tile.
        read: Raw tiles ``(n, C, size, size)`` with their context.
        digests: Of the pixels of tiles.
        tile_size: In pixels, without context.
        known: The tiles with their labels; empty if these are not known.
        road_masks: Road pixels ``(n, size, size)`` bool of tiles and their context; None if these
            and the labels are not known.
        corrections: Answer and note of each tile whose label is corrected.
    """

    places: Sequence[Tile]
    grid: Callable[[int], PixelGrid]
    read: Callable[[Sequence[int]], Tensor]
    digests: Callable[[Sequence[int]], list[str]]
    tile_size: int
    known: Sequence[LabelledTile] = ()
    road_masks: Callable[[Sequence[int]], NDArray[np.bool_]] | None = None
    corrections: Mapping[Tile, Correction] = field(default_factory=dict)

    @classmethod
    def of_data(
        cls, datamodule: RoadTileDataModule, tiles: Sequence[LabelledTile]
    ) -> "GallerySource":
        """The tiles of a data module that is set up.

        Args:
            datamodule: Gives the pixels.
            tiles: Some of its tiles.
        """
        known, grids = list(tiles), datamodule.grids  # a table makes its records each time

        def chosen(numbers: Sequence[int]) -> list[LabelledTile]:
            return [known[number] for number in numbers]

        return cls(
            [labelled.tile for labelled in known],
            lambda number: grids[known[number].tile.scene],
            lambda numbers: datamodule.read_tiles(chosen(numbers)),
            lambda numbers: datamodule.tile_digests(chosen(numbers)),
            datamodule.tile_size,
            known,
            lambda numbers: datamodule.read_road_masks(chosen(numbers)).numpy(),
            datamodule.corrections.by_tile,
        )


@dataclass(frozen=True, eq=False)
class Suspicions:
    """What networks that did not train on the tiles say about their labels.

    Args:
        scores: ``(N,)`` 1 − P(given label), in [0, 1].
        flagged: ``(N,)`` bool, whether the label is suspected to be wrong.
    """

    scores: NDArray[np.float64]
    flagged: NDArray[np.bool_]


def gallery(
    folder: Path,
    name: str,
    title: str,
    source: GallerySource,
    probabilities: NDArray[np.float64],
    methods: Mapping[str, Callable[[Tensor], Tensor]],
    *,
    threshold: float,
    checkpoint: str,
    suspicions: Suspicions | None = None,
) -> Iterator[Path]:
    """Writes the gallery of all tiles of a source, the most certain errors first.

    Args:
        folder: Where the files are written or replaced.
        name: Of the files, without suffix.
        title: Shown above.
        source: The tiles.
        probabilities: ``(N,)`` P(road) of its tiles.
        methods: Relevance ``(n, 1, size, size)`` of raw tiles, by attribution method. The share on
            road pixels is that of the first one.
        threshold: P(road) from which a tile is called road.
        checkpoint: Digest of the checkpoint.
        suspicions: By which tiles are ordered instead.

    Yields:
        Each file when it is finished.

    Raises:
        UserError: An image cannot be read.
        OSError: A file cannot be written; an older one is left as it was.
    """
    labels = np.array([labelled.label for labelled in source.known], np.int64)
    losses = tile_losses(probabilities, labels) if source.known else probabilities
    scores = losses if suspicions is None else suspicions.scores
    order = np.argsort(-np.nan_to_num(scores, nan=-1), kind="stable")
    numbers: list[int] = order.tolist()
    count = len(numbers)
    maps, on_road = _small_maps(source, methods)
    digests = source.digests(range(count))
    known = [source.known[number] for number in numbers] if source.known else []
    places = [source.places[number] for number in numbers]
    grids = [source.grid(number) for number in numbers]
    corrected = [source.corrections.get(place) for place in places]
    tiles = GalleryTiles(
        places,
        np.array([_bounds(*each, source.tile_size) for each in zip(grids, places, strict=True)]),
        np.stack([_corners(*each, source.tile_size) for each in zip(grids, places, strict=True)]),
        [labelled.split for labelled in known] or [""] * count,
        labels[order] if known else np.full(count, Label.IGNORED),
        bool(known),
        np.array([labelled.share for labelled in known]) if known else np.full(count, np.nan),
        probabilities[order],
        np.full(count, np.nan) if suspicions is None else suspicions.scores[order],
        np.zeros(count, bool) if suspicions is None else suspicions.flagged[order],
        on_road[order],
        [digests[number] for number in numbers],
        [each.answer if each else "" for each in corrected],
        [each.note if each else "" for each in corrected],
    )
    sample = source.read(range(0, count, -(-count // _SAMPLE))).numpy()

    def pictures(part: slice) -> GalleryPictures:
        places = np.argsort(order[part])
        ascending: list[int] = order[part][places].tolist()
        back = np.argsort(places)
        raw = source.read(ascending).numpy()
        own = _without_context(raw.shape[-1], source.tile_size)
        roads = None if source.road_masks is None else source.road_masks(ascending)
        return GalleryPictures(
            to_rgb(raw, reference=sample)[back][:, own, own],
            {method: small[order[part]] for method, small in maps.items()},
            None if roads is None else roads[back][:, own, own],
        )

    yield from write_gallery(
        folder,
        name,
        title,
        tiles,
        pictures,
        threshold=threshold,
        metrics=_metrics(tiles, threshold),
        checkpoint=checkpoint,
    )


def tile_losses(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The cross-entropy of each tile in nats; NaN where the tile is ignored.

    Args:
        probabilities: ``(N,)`` P(road).
        labels: ``(N,)`` values of :class:`~vbp_lightning.data.tiles.tile.Label`.
    """
    given = np.where(labels == Label.ROAD, probabilities, 1 - probabilities)
    losses = -np.log(np.maximum(given, np.finfo(np.float64).tiny))
    return np.where(labels == Label.IGNORED, np.nan, losses)


@torch.no_grad()
def _small_maps(
    source: GallerySource, methods: Mapping[str, Callable[[Tensor], Tensor]]
) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.float64]]:
    """Saliency maps ``(N, 24, 24)`` as displayed, and the share of the first one on road pixels."""
    count = len(source.places)
    maps = {name: np.zeros((count, MAP_SIDE, MAP_SIDE), np.uint8) for name in methods}
    on_road = np.full(count, np.nan)
    for start in shown_progress(range(0, count, _BATCH), "Explaining"):
        part = slice(start, start + _BATCH)
        chosen = range(count)[part]
        raw = source.read(chosen)
        own = _without_context(raw.shape[-1], source.tile_size)
        for place, (name, explain) in enumerate(methods.items()):
            relevance = positive_part(explain(raw)[:, 0, own, own].double().cpu().numpy())
            if place == 0 and source.road_masks is not None:
                roads = source.road_masks(chosen)[:, own, own]
                known = road_is_known([source.known[number] for number in chosen], roads)
                if known.any():
                    on_road[part][known] = relevance_mass(relevance[known], roads[known])
            unit = torch.from_numpy(scaled(relevance, "each"))
            small = adaptive_avg_pool2d(unit[:, None], MAP_SIDE)[:, 0].numpy()
            maps[name][part] = np.rint(255 * scale_saliency(scaled(small, "each")))
    return maps, on_road


def _without_context(side: int, tile_size: int) -> slice:
    margin = (side - tile_size) // 2
    return slice(margin, margin + tile_size)


def _bounds(grid: PixelGrid, place: Tile, tile_size: int) -> tuple[float, float, float, float]:
    return tile_bounds(grid.transform, place.row, place.col, tile_size)


def _corners(grid: PixelGrid, place: Tile, tile_size: int) -> NDArray[np.float64]:
    """(4, 2) longitude and latitude of a tile's corners; NaN where it has no place."""
    if not grid.is_georeferenced:
        return np.full((4, 2), np.nan)
    cols, rows = np.array([[0, 1, 1, 0], [0, 0, 1, 1]], np.float64) * tile_size
    return np.stack(longitude_latitude(grid, place.col + cols, place.row + rows), axis=1)


def _metrics(tiles: GalleryTiles, threshold: float) -> dict[str, dict[str, float]]:
    """The metrics of the labelled tiles of each split that holds both classes."""
    found = {}
    for split in sorted(set(tiles.splits)):
        here = (np.array(tiles.splits) == split) & (tiles.labels != Label.IGNORED)
        labels = torch.from_numpy(tiles.labels[here])
        if len(np.unique(tiles.labels[here])) == 2:
            scores = torch.from_numpy(tiles.probabilities[here])
            found[split] = binary_metrics(scores, labels, threshold)
    return found
