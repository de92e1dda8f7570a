"""``task=neighbors``: nearest tiles in feature space beside nearest in pixel space."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig

from vbp_lightning.errors import UserError
from vbp_lightning.explaining.features import features_of
from vbp_lightning.explaining.inspecting import counts_checked, in_batches, label_names
from vbp_lightning.explaining.outputs import RAW_UNIT, write_arrays, write_picture
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.explaining.tile_sources import TileSource, open_tiles
from vbp_lightning.inspection.neighbors import Neighbors, nearest, nearest_pixels
from vbp_lightning.plotting.display import to_rgb
from vbp_lightning.plotting.picture_grid import GridRow, picture_grid


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Draws each query with its neighbours in both spaces.

    Args:
        cfg: The composed config of ``explain.py``: ``queries`` are numbers of tiles or how many
            are chosen, ``neighbors`` is how many neighbours each gets.
        subject: What is looked at.

    Yields:
        ``neighbors.png``, ``neighbors.npz``.

    Raises:
        UserError: A setting is wrong, or there are too few tiles.
    """
    counts_checked(cfg, "neighbors")
    source = open_tiles(cfg, subject)
    if len(source.places) < 2:
        raise UserError("there is one tile only (input, split): neighbours need at least two")
    queries = _queries(cfg, source)
    store = features_of(cfg, subject, source, cfg.split)
    features = nearest(store.features, queries, cfg.neighbors)
    tiles = source.read(queries.tolist())
    batches = (batch.numpy() for batch in in_batches(source, "Comparing pixels"))
    pixels = nearest_pixels(batches, tiles.numpy(), queries, cfg.neighbors)
    spaces = {"feature space": features, "pixel space": pixels}
    rows = _rows(source, queries, spaces)
    title = f"Nearest of {len(store)} tiles, by distance"
    notes = (
        f"Feature space: what the last linear layer reads, {store.features.shape[1]} values. "
        "Pixel space: raw pixels of all bands. Euclidean distance d.",
    )
    output = Path(cfg.output)
    yield write_picture(
        output / "neighbors.png", picture_grid(rows, title, notes, columns=cfg.neighbors + 1)
    )
    yield write_arrays(
        output / "neighbors.npz",
        cfg,
        {
            "feature_distances": "of the features",
            "pixel_distances": RAW_UNIT,
            "rows": "px",
            "cols": "px",
        },
        queries=queries,
        feature_neighbors=features.indices,
        feature_distances=features.distances,
        pixel_neighbors=pixels.indices,
        pixel_distances=pixels.distances,
        scenes=store.scenes,
        rows=store.rows,
        cols=store.cols,
        labels=store.labels,
    )
    source.report()


def _queries(cfg: DictConfig, source: TileSource) -> npt.NDArray[np.int64]:
    """Numbers of tiles: those that are given, or those of chosen tiles."""
    if isinstance(cfg.queries, int):
        chosen = source.choose(max(1, cfg.queries))
        numbers = {(tile.scene, tile.row, tile.col): i for i, tile in enumerate(source.places)}
        found = [numbers[tile.scene, tile.row, tile.col] for tile in chosen.places]
        return np.array(found[: cfg.queries], np.int64)
    given = [int(number) for number in cfg.queries]
    if not given or not all(0 <= number < len(source.places) for number in given):
        raise UserError(
            f"queries={given}: give numbers from 0 to {len(source.places) - 1}, or how many"
        )
    return np.array(given, np.int64)


def _rows(
    source: TileSource, queries: npt.NDArray[np.int64], spaces: dict[str, Neighbors]
) -> list[GridRow]:
    labels = label_names(source)
    shown = sorted({*queries.tolist(), *np.concatenate([s.indices for s in spaces.values()]).flat})
    pictures = dict(zip(shown, to_rgb(source.read(shown).numpy()), strict=True))

    def caption(number: int, distance: float | None) -> str:
        place = source.places[number]
        where = "the query" if distance is None else f"d {distance:.4g}"
        return f"{labels[number]}, {where}\n{place.scene}\n{place.row}, {place.col}"

    rows = []
    for rank, query in enumerate(queries.tolist()):
        for name, found in spaces.items():
            near = found.indices[rank].tolist()
            same = sum(labels[each] == labels[query] for each in near)
            known = f": {same} of {len(near)} of its label" if source.known else ""
            distances = [None, *found.distances[rank].tolist()]
            rows.append(
                GridRow(
                    f"tile {query}, nearest in {name}{known}",
                    [pictures[number] for number in (query, *near)],
                    [
                        caption(number, d)
                        for number, d in zip((query, *near), distances, strict=True)
                    ],
                )
            )
    return rows
