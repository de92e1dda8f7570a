"""``task=clusters``: tiles grouped by what the network looks at, the most suspicious first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass as record
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import DictConfig
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy import ndimage
from torch import Tensor

from vbp_lightning.attribution.activation_maps import at_map, last_map
from vbp_lightning.cli import shown_progress
from vbp_lightning.data.tiles.selection import road_is_known, spread_road_tiles
from vbp_lightning.data.tiles.tile import Label, LabelledTile
from vbp_lightning.errors import UserError
from vbp_lightning.evaluation.localisation import positive_part, relevance_mass
from vbp_lightning.evaluation.replacement import (
    FlipTest,
    brightest,
    elsewhere,
    flip_test,
    replaced,
    softened,
)
from vbp_lightning.explaining.donors import Donors
from vbp_lightning.explaining.methods import attributions
from vbp_lightning.explaining.outputs import write_csv, write_results
from vbp_lightning.explaining.settings import ExplainSettings
from vbp_lightning.explaining.subject import Subject, class_of
from vbp_lightning.explaining.tile_sources import (
    ChosenTiles,
    SplitTiles,
    evenly_spread,
    open_tiles,
    road_probabilities,
)
from vbp_lightning.graph.network_graph import graph_of
from vbp_lightning.inspection.clusters import mask_summaries, peak_features, spectral_clusters
from vbp_lightning.plotting.display import RGB, outlined, overlay, scaled, to_rgb
from vbp_lightning.plotting.picture_grid import GridRow, picture_grid
from vbp_lightning.records import RECORD, Count, Positive, PositiveCount

Floats = npt.NDArray[np.float64]
Areas = npt.NDArray[np.bool_]

_SUSPICIOUS_DROP = 0.3
_SUSPICIOUS_P = 0.01
"""A cluster is suspicious from this mean drop of P(road), and up to this p-value."""

_LARGE_OVERLAP = 0.1
"""Share of the equal areas on the area itself from which a drop is underestimated."""

_BATCH = 64
_PATCH = 32
"""Side in pixels of the patch around the brightest pixel that is drawn."""


@dataclass(frozen=True, config=RECORD)
class Options(ExplainSettings):
    """The settings of the task, with their ranges."""

    clusters: PositiveCount
    descriptor: Literal["peaks", "masks"]
    share: Annotated[Positive, Field(le=1)]
    margin: Count
    replacements: PositiveCount
    typical: PositiveCount
    draw: Count


@record(frozen=True)
class _Tiles:
    """Tiles that the network calls road.

    Args:
        numbers: Their numbers in the split.
        known: The tiles with their labels.
        raw: ``(N, C, H, W)``.
        road: ``(N, H, W)`` road pixels.
        masks: ``(N, H, W)`` saliency maps, not negative.
        probabilities: ``(N,)`` P(road).
        donors: The numbers of the tiles without road whose pixels replace parts of each.
    """

    numbers: list[int]
    known: list[LabelledTile]
    raw: Tensor
    road: Areas
    masks: Floats
    probabilities: Floats
    donors: list[list[int]]


@record(frozen=True)
class _Removal:
    """What happens if the brightest pixels off the road are replaced: ``(N, …)`` each.

    Args:
        areas: ``(N, H, W)`` these pixels.
        without: ``(N,)`` mean P(road) with them replaced.
        control: ``(N,)`` mean P(road) with equal areas elsewhere replaced.
        overlaps: ``(N,)`` mean share of these areas that lies on the first ones.
    """

    areas: Areas
    without: Floats
    control: Floats
    overlaps: Floats


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Clusters the tiles that the network calls road, and tests each cluster for a cheat.

    Args:
        cfg: The composed config of ``explain.py``: ``tiles``, ``clusters``, ``descriptor``,
            ``share``, ``margin``, ``replacements``, ``typical``, ``draw``; and one attribution
            method.
        subject: A road classifier whose data has road pixels.

    Yields:
        ``clusters.png``, ``clusters.npz``, ``clusters.csv``.

    Raises:
        UserError: A setting is wrong, there are no road pixels, or no tile is called road.
    """
    if len(cfg.method) != 1:
        raise UserError(f"method={list(cfg.method)}: give one method, whose maps are clustered")
    source = open_tiles(cfg, subject)
    if not isinstance(source, SplitTiles):
        raise UserError(
            f"input={cfg.input}: images have no road pixels to compare with: leave it out"
        )
    if round(cfg.share * (subject.reader.side or 0) ** 2) < 1:
        raise UserError(f"share={cfg.share:g}: is less than one pixel of a tile: give a larger one")
    tiles = _called_road(cfg, subject, source)
    removal = _without_brightest(cfg, subject, source, tiles)
    described = _descriptors(cfg, subject, tiles)
    found, distances = spectral_clusters(described, cfg.clusters, cfg.draw)
    test = flip_test(removal.control - removal.without, found, seed=cfg.draw)
    order = np.argsort(-test.means, kind="stable")  # the largest drop first
    test = FlipTest(*(each[order] for each in test))
    clusters = np.argsort(order)[found]
    table = [
        _summary(number, clusters == number, tiles, removal, test) for number in range(len(order))
    ]
    conclusion = _conclusion(table, test, float(removal.overlaps.mean()))
    print(conclusion)
    nearest = np.argsort(distances, kind="stable")
    typical = [nearest[clusters[nearest] == number][: cfg.typical] for number in range(len(table))]
    places = [tile.tile for tile in tiles.known]
    yield from write_results(
        cfg,
        "clusters",
        _sheet(cfg, table, typical, tiles, removal, conclusion),
        clusters=clusters,
        distances_to_centre=distances,
        descriptors=described,
        probabilities=tiles.probabilities,
        probabilities_replaced=removal.without,
        probabilities_elsewhere=removal.control,
        overlaps=removal.overlaps,
        maps=tiles.masks.astype(np.float32),
        areas=removal.areas,
        labels=[int(tile.label) for tile in tiles.known],
        scenes=[place.scene for place in places],
        rows=[place.row for place in places],
        cols=[place.col for place in places],
    )
    import pandas as pd

    yield write_csv(Path(cfg.output) / "clusters.csv", pd.DataFrame(table))
    source.report()


def _called_road(cfg: DictConfig, subject: Subject, source: SplitTiles) -> _Tiles:
    """Tiles that the network calls road, evenly spread, with known road pixels."""
    assert subject.classifier is not None
    every = range(len(source.places))
    probabilities = road_probabilities(source, subject)
    threshold = float(subject.classifier.threshold)
    called = [number for number in every if probabilities[number] >= threshold]
    if not called:
        raise UserError(
            f"split={source.split}: the network calls no tile road: choose another, or another"
            " checkpoint (ckpt)"
        )
    called = [called[place] for place in evenly_spread(len(called), cfg.tiles)]
    known = [source.known[number] for number in called]
    road = source.datamodule.read_road_masks(known).numpy()
    fit = np.array([tile.road_pixels_fit and tile.label != Label.ROAD for tile in known])
    is_known = road_is_known(known, road) | (fit & ~road.any(axis=(1, 2)))  # or without any road
    if not road[is_known].any():
        # as of images that are labelled as a whole, unless no road is called road
        roads = spread_road_tiles(source.known, _BATCH)
        if not road_is_known(roads, source.datamodule.read_road_masks(roads).numpy()).any():
            raise UserError(
                f"split={source.split}: no tile whose road pixels are known: choose data with masks"
                " or road vectors"
            )
    donors = Donors(source, subject, (), cfg.replacements)
    chosen, of_chosen = donors.of_all([called[rank] for rank in np.flatnonzero(is_known)])
    road_of = dict(zip(called, road, strict=True))
    raw, places = source.read(chosen), [source.places[number] for number in chosen]
    (maps,) = attributions(cfg, subject, ChosenTiles(raw, places), class_of(cfg.target)).values()
    return _Tiles(
        chosen,
        [source.known[number] for number in chosen],
        raw,
        np.stack([road_of[number] for number in chosen]),
        positive_part(maps),
        probabilities[chosen],
        of_chosen,
    )


def _without_brightest(
    cfg: DictConfig, subject: Subject, source: SplitTiles, tiles: _Tiles
) -> _Removal:
    """Replaces the brightest pixels off the road, and equal areas elsewhere off the road."""
    areas = np.zeros_like(tiles.road)
    found = []
    for rank in shown_progress(range(len(tiles.numbers)), "Replacing what the mask shows"):
        near = ndimage.distance_transform_edt(~tiles.road[rank]) <= cfg.margin
        near &= tiles.road[rank].any()
        area = areas[rank] = brightest(tiles.masks[rank], ~near, cfg.share)
        others = source.read(tiles.donors[rank])
        weights = softened(area)
        places, moved = elsewhere(
            area, weights, len(others), cfg.draw + tiles.numbers[rank], area | near
        )
        changed = torch.cat([replaced(tiles.raw[rank], others, each) for each in (weights, moved)])
        means = subject.probabilities(changed, 1)[0].view(2, -1).mean(1).tolist()
        found.append((*means, (places & area).sum() / (len(others) * max(area.sum(), 1))))
    return _Removal(areas, *np.array(found).T)


def _descriptors(cfg: DictConfig, subject: Subject, tiles: _Tiles) -> Floats:
    masks = torch.from_numpy(tiles.masks)[:, None].float()
    if cfg.descriptor == "masks":
        return mask_summaries(masks)
    parts = []
    for start in range(0, len(masks), _BATCH):
        inputs = tiles.raw[start : start + _BATCH].to(subject.device)
        graph = graph_of(subject.model, inputs)
        maps, _ = at_map(graph, last_map(graph, None), inputs, None)
        parts.append(peak_features(masks[start : start + _BATCH], maps.detach().float().cpu()))
    return np.concatenate(parts)


def _summary(
    number: int, own: Areas, tiles: _Tiles, removal: _Removal, test: FlipTest
) -> dict[str, float]:
    """A row of the table."""
    drop, chance = float(test.means[number]), float(test.p_values[number])
    labels = np.array([int(tile.label) for tile in tiles.known])[own]
    decided = labels[labels != Label.IGNORED]
    offsets = [
        ndimage.distance_transform_edt(~road)[np.unravel_index(mask.argmax(), mask.shape)]
        for mask, road in zip(tiles.masks[own], tiles.road[own], strict=True)
        if road.any()
    ]
    return {
        "cluster": number + 1,
        "suspicious": drop >= _SUSPICIOUS_DROP and chance <= _SUSPICIOUS_P,
        "tiles": int(own.sum()),
        "road": float(np.mean(labels == Label.ROAD)),
        "ignored": float(np.mean(labels == Label.IGNORED)),
        "errors": float(np.mean(decided == Label.NON_ROAD)) if len(decided) else np.nan,
        "px_off_road": float(np.median(offsets)) if offsets else np.nan,
        "mass_on_road": float(relevance_mass(tiles.masks[own], tiles.road[own]).mean()),
        "road_pixels": float(tiles.road[own].mean()),
        "probability": float(tiles.probabilities[own].mean()),
        "replaced": float(removal.without[own].mean()),
        "elsewhere": float(removal.control[own].mean()),
        "drop": drop,
        "p_value": chance,
    }


def _conclusion(table: Sequence[dict[str, float]], test: FlipTest, overlap: float) -> str:
    suspicious = [row for row in table if row["suspicious"]]
    total = sum(int(row["tiles"]) for row in table)
    rule = f"from {_SUSPICIOUS_DROP:g} with p ≤ {_SUSPICIOUS_P:g}"
    small = int((test.lowest > _SUSPICIOUS_P).sum())
    if small == len(table):
        return (
            f"Not decided: each cluster of {len(table)} ({total} tiles) is too small for p ≤"
            f" {_SUSPICIOUS_P:g}: give more tiles, or fewer clusters"
        )
    if not suspicious:
        doubts = f"; {small} are too small to be tested (tiles, clusters)" if small else ""
        if overlap > _LARGE_OVERLAP:
            doubts += (
                f"; {overlap:.0%} of the equal areas elsewhere lie on what the mask shows: give a"
                " smaller share"
            )
        return (
            f"No cluster of {len(table)} ({total} tiles) is suspicious: without what the mask shows"
            f" beside the road, P(road) falls by {table[0]['drop']:.3f} at most (suspicious {rule})"
            + doubts
        )
    tiles = sum(int(row["tiles"]) for row in suspicious)
    return (
        f"SUSPICIOUS: {len(suspicious)} of {len(table)} clusters, {tiles} of {total} tiles: without"
        " what the mask shows beside the road, P(road) falls by"
        f" {suspicious[-1]['drop']:.3f} to {suspicious[0]['drop']:.3f} (suspicious {rule})"
    )


def _sheet(
    cfg: DictConfig,
    table: Sequence[dict[str, float]],
    typical: Sequence[npt.NDArray[np.int64]],
    tiles: _Tiles,
    removal: _Removal,
    conclusion: str,
) -> RGB:
    shown = np.concatenate(list(typical))
    pictures = to_rgb(tiles.raw[shown].numpy(), reference=tiles.raw.numpy())
    masks = tiles.masks[shown]
    drawn = dict(zip(shown.tolist(), pictures, strict=True))
    over = dict(zip(shown.tolist(), overlay(pictures, scaled(masks, "each")), strict=True))
    outlines = dict(zip(shown.tolist(), outlined(pictures, removal.areas[shown]), strict=True))
    rows = []
    for row, ranks in zip(table, typical, strict=True):
        heading = (
            f"{'SUSPICIOUS: ' * bool(row['suspicious'])}{row['tiles']} tiles,"
            f" {row['road']:.0%} road, {row['errors']:.0%} errors; brightest pixel"
            f" {row['px_off_road']:.0f} px off the road; P {row['probability']:.2f}, without what"
            f" is outlined {row['replaced']:.2f}, elsewhere {row['elsewhere']:.2f}"
            f" (p {row['p_value']:.3f})"
        )
        own = ranks.tolist()
        blank = [np.full((1, 1, 3), 255, np.uint8)] * (cfg.typical - len(own))
        lines = [
            [outlines[rank] for rank in own],
            [over[rank] for rank in own],
            [_patch(drawn[rank], tiles.masks[rank]) for rank in own],
        ]
        captions = [
            f"P {tiles.probabilities[rank]:.2f} → {removal.without[rank]:.2f}" for rank in own
        ]
        captions += [""] * (3 * cfg.typical - len(own))
        rows.append(GridRow(heading, [each for line in lines for each in line + blank], captions))
    what = "by the features where the mask is brightest"
    if cfg.descriptor == "masks":
        what = "by their masks"
    notes = [
        conclusion + ".",
        f"The most typical tiles of each cluster, {cfg.typical} at most: the"
        f" {cfg.share:.0%} of the pixels outlined that are brightest in the mask and more than"
        f" {cfg.margin} px off the road; below, the mask on the tile; and {_PATCH} px around its"
        " brightest pixel. P → mean P(road) with the outlined pixels replaced by those of tiles"
        " without road.",
    ]
    return picture_grid(
        rows, f"Tiles called road, clustered {what}", notes, columns=cfg.typical, side=128
    )


def _patch(picture: RGB, mask: Floats) -> RGB:
    """The pixels around the brightest one, moved into the tile."""
    corner = [
        min(max(at - _PATCH // 2, 0), max(side - _PATCH, 0))
        for at, side in zip(np.unravel_index(mask.argmax(), mask.shape), mask.shape, strict=True)
    ]
    return picture[corner[0] : corner[0] + _PATCH, corner[1] : corner[1] + _PATCH]
