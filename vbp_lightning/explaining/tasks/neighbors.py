"""``task=neighbors``: nearest tiles in feature space and in pixel space."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from pydantic.dataclasses import dataclass

from vbp_lightning.data.tiles.tile import Label
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.features import features_of
from vbp_lightning.explaining.outputs import write_results
from vbp_lightning.explaining.settings import ExplainSettings
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.explaining.tile_sources import (
    TileSource,
    compared_tiles,
    in_batches,
    label_names,
    open_tiles,
)
from vbp_lightning.inspection.neighbors import Neighbors, nearest
from vbp_lightning.plotting.display import to_rgb
from vbp_lightning.plotting.picture_grid import GridRow, picture_grid
from vbp_lightning.records import RECORD, Count, PositiveCount


@dataclass(frozen=True, config=RECORD)
class Options(ExplainSettings):
    """The settings of the task, with their ranges."""

    queries: PositiveCount | tuple[Count, ...]
    neighbors: PositiveCount


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws tiles with their nearest neighbours in both spaces.

    Args:
        cfg: The composed config of ``explain.py``: ``queries``, a list of tile numbers or how many
            tiles are chosen; ``neighbors`` of each.
        subject: The network.

    Yields:
        ``neighbors.png``, ``neighbors.npz``. Its ``tiles`` are the numbers of the tiles that were
        compared; the other arrays refer to tiles by these numbers.

    Raises:
        UserError: A setting is wrong, or there are too few tiles.
    """
    source = open_tiles(cfg, subject)
    if len(source.places) < 2:
        raise UserError("there is only one tile (input, split): neighbours need at least two")
    queries = _queries(cfg, source)
    numbers = sorted({*compared_tiles(range(len(source.places))), *queries})
    tiles, ranks = np.array(numbers), np.searchsorted(numbers, queries)
    features, _ = features_of(subject, source, numbers)
    batches = (batch.numpy() for batch in in_batches(source, numbers, "Comparing pixels"))
    asked = source.read(queries).numpy()
    spaces = {
        "feature": nearest([features], features[ranks], ranks, cfg.neighbors),
        "pixel": nearest(batches, asked, ranks, cfg.neighbors),
    }
    spaces = {
        name: Neighbors(tiles[found.indices], found.distances) for name, found in spaces.items()
    }
    rows = _rows(source, queries, spaces)
    title = f"Nearest of {len(numbers)} tiles, by distance"
    notes = (
        f"Feature space: the {features.shape[1]} inputs of the last linear layer. "
        "Pixel space: raw pixels of all bands. Euclidean distance d.",
    )
    places = [source.places[number] for number in numbers]
    labels = [int(tile.label) for tile in source.known] or [Label.IGNORED] * len(source.places)
    yield from write_results(
        cfg,
        "neighbors",
        picture_grid(rows, title, notes, columns=cfg.neighbors + 1),
        **{f"{name}_neighbors": found.indices for name, found in spaces.items()},
        **{f"{name}_distances": found.distances for name, found in spaces.items()},
        queries=queries,
        tiles=tiles,
        scenes=[place.scene for place in places],
        rows=[place.row for place in places],
        cols=[place.col for place in places],
        labels=[labels[number] for number in numbers],
    )
    source.report()


def _queries(cfg: DictConfig, source: TileSource) -> list[int]:
    """The numbers of the tiles that are given or chosen."""
    if isinstance(cfg.queries, int):
        numbers = {place: number for number, place in enumerate(source.places)}
        return [numbers[place] for place in source.choose(cfg.queries).places[: cfg.queries]]
    given = list(cfg.queries)
    if not given or max(given) >= len(source.places):
        raise UserError(
            f"queries={given}: give numbers from 0 to {len(source.places) - 1}, or how many"
        )
    return given


def _rows(
    source: TileSource, queries: Sequence[int], spaces: dict[str, Neighbors]
) -> list[GridRow]:
    labels = label_names(source)
    shown = sorted({*queries, *np.concatenate([found.indices for found in spaces.values()]).flat})
    pictures = dict(zip(shown, to_rgb(source.read(shown).numpy()), strict=True))

    def caption(number: int, what: str) -> str:
        place = source.places[number]
        return f"{labels[number]}\n{what}\n{place.scene}\n{place.row}, {place.col}"

    rows = []
    for rank, query in enumerate(queries):
        for name, found in spaces.items():
            near = found.indices[rank].tolist()
            same = sum(labels[each] == labels[query] for each in near)
            known = f": {same} of {len(near)} with its label" if source.known else ""
            distances = [f"d {distance:.4g}" for distance in found.distances[rank]]
            captions = map(caption, (query, *near), ("the query", *distances))
            tiles = [pictures[number] for number in (query, *near)]
            heading = f"tile {query}, nearest in {name} space{known}"
            rows.append(GridRow(heading, tiles, list(captions)))
    return rows
