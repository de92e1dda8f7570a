"""``task=counterfactual``: P(road) of tiles with an area replaced by other tiles' pixels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass as record
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import DictConfig
from pydantic.dataclasses import dataclass
from torch import Tensor

from vbp_lightning.cli import shown_progress
from vbp_lightning.data.tiles.selection import spread_road_tiles, where_road_is_known
from vbp_lightning.errors import UserError
from vbp_lightning.evaluation.bootstrap import mean_interval
from vbp_lightning.evaluation.replacement import elsewhere, replaced, softened
from vbp_lightning.explaining.donors import Donors
from vbp_lightning.explaining.drawn_areas import areas_of
from vbp_lightning.explaining.image_inputs import CutImages
from vbp_lightning.explaining.methods import attributions
from vbp_lightning.explaining.outputs import write_csv, write_results
from vbp_lightning.explaining.settings import ExplainSettings
from vbp_lightning.explaining.subject import Subject, class_of
from vbp_lightning.explaining.tile_sources import (
    ChosenTiles,
    SplitTiles,
    TileSource,
    label_names,
    open_tiles,
)
from vbp_lightning.plotting.display import maps_to_rgb, outlined, to_rgb
from vbp_lightning.plotting.picture_grid import GridRow, picture_grid
from vbp_lightning.records import RECORD, Count, PathName, PositiveCount, Size

Areas = npt.NDArray[np.bool_]

_ROWS = 16
"""Largest number of tiles on the sheet."""


@dataclass(frozen=True, config=RECORD)
class Options(ExplainSettings):
    """The settings of the task, with their ranges."""

    area: PathName | None
    replacements: PositiveCount
    margin: Count
    feather: Size
    draw: Count


@record(frozen=True)
class _Experiment:
    """One tile with its area replaced, and with equal areas elsewhere replaced.

    Args:
        number: The tile.
        area: ``(H, W)`` the replaced pixels without margin.
        donors: ``(R,)`` the tiles whose pixels replace them.
        without: ``(R, C, H, W)`` the tile with the area replaced.
        control: ``(R, C, H, W)`` the tile with an equal area elsewhere replaced.
        places: ``(R, H, W)`` these areas.
    """

    number: int
    area: Areas
    donors: Sequence[int]
    without: Tensor
    control: Tensor
    places: Areas


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Replaces an area of tiles by the pixels of tiles without road, and draws what changes.

    Each replacement takes the pixels at the same place of another tile. The control replaces, with
    the pixels of the same tiles, areas of the same shape elsewhere in the tile.

    Args:
        cfg: The composed config of ``explain.py``: ``area``, ``replacements``, ``margin``,
            ``feather``, ``draw``; and the attribution methods whose maps are drawn.
        subject: A road classifier.

    Yields:
        ``counterfactual.png``, ``counterfactual.npz``, ``counterfactual.csv``.

    Raises:
        UserError: A setting is wrong, no tile has such an area, or no tile is without road.
    """
    target = class_of(cfg.target)
    if not isinstance(subject.reader, CutImages) or subject.classifier is None:
        raise UserError(
            "task=counterfactual needs a road classifier: give a run's checkpoint (ckpt)"
        )
    if cfg.area is None and cfg.input is not None:
        raise UserError(
            f"input={cfg.input}: the road pixels of images are not known: draw or paint the area to"
            " be replaced (area)"
        )
    source = open_tiles(cfg, subject)
    touched = {} if cfg.area is None else areas_of(str(cfg.area), source, subject.reader)
    numbers, areas = _areas_of_road(cfg, source) if cfg.area is None else _largest(cfg, touched)
    area_of = dict(zip(numbers, areas, strict=True))
    numbers, donors = Donors(source, subject, touched, cfg.replacements).of_all(numbers)
    done = [
        _experiment(cfg, source, number, area_of[number], others)
        for number, others in shown_progress(
            list(zip(numbers, donors, strict=True)), "Replacing the area"
        )
    ]
    tiles = source.read(numbers)
    before, _ = subject.probabilities(tiles, 1)
    after = torch.stack([subject.probabilities(each.without, 1)[0] for each in done]).numpy()
    control = torch.stack([subject.probabilities(each.control, 1)[0] for each in done]).numpy()
    result = _Result(source, done, tiles, before.numpy(), after, control)
    conclusion = _conclusion(cfg, result)
    print(conclusion)
    shown = [_middle(row) for row in after], [_middle(row) for row in control]
    changed = [
        torch.stack([each.without[i] for each, i in zip(done, shown[0], strict=True)]),
        torch.stack([each.control[i] for each, i in zip(done, shown[1], strict=True)]),
    ]
    versions = {"tile": tiles, "replaced": changed[0], "elsewhere": changed[1]}
    several = torch.cat(list(versions.values()))
    places = [source.places[number] for number in numbers] * len(versions)
    maps = attributions(cfg, subject, ChosenTiles(several, places), target)
    yield from write_results(
        cfg,
        "counterfactual",
        _sheet(result, maps, versions, shown, conclusion, cfg.area is None),
        **{
            f"{name}_{version}": part
            for name, values in maps.items()
            for version, part in zip(versions, np.split(values, len(versions)), strict=True)
        },
        methods=list(maps),
        tiles=tiles.numpy(),
        tiles_replaced=changed[0].numpy(),
        tiles_elsewhere=changed[1].numpy(),
        areas=np.stack([each.area for each in done]),
        areas_elsewhere=np.stack([each.places[i] for each, i in zip(done, shown[1], strict=True)]),
        probabilities=before.numpy(),
        probabilities_replaced=after,
        probabilities_elsewhere=control,
        overlaps=np.stack([_overlaps(each) for each in done]),
        scenes=[place.scene for place in places[: len(done)]],
        rows=[place.row for place in places[: len(done)]],
        cols=[place.col for place in places[: len(done)]],
        donor_scenes=[[source.places[i].scene for i in each.donors] for each in done],
        donor_rows=[[source.places[i].row for i in each.donors] for each in done],
        donor_cols=[[source.places[i].col for i in each.donors] for each in done],
    )
    yield _write_table(Path(cfg.output) / "counterfactual.csv", result)
    source.report()


@record(frozen=True)
class _Result:
    """All experiments: P(road) before ``(N,)``, and ``(N, R)`` with either area replaced."""

    source: TileSource
    done: Sequence[_Experiment]
    tiles: Tensor
    before: npt.NDArray[np.float64]
    after: npt.NDArray[np.float64]
    control: npt.NDArray[np.float64]


def _areas_of_road(cfg: DictConfig, source: TileSource) -> tuple[list[int], list[Areas]]:
    """Road tiles, evenly spread over the split, and their road pixels."""
    assert isinstance(source, SplitTiles)
    road = spread_road_tiles(source.known, cfg.tiles)
    known, masks = where_road_is_known(road, source.datamodule.read_road_masks(road).numpy())
    if not known:
        raise UserError(
            f"split={source.split}: no road tile whose road pixels are known: draw or paint the"
            " area to be replaced (area)"
        )
    numbers = {tile: number for number, tile in enumerate(source.places)}
    return [numbers[each.tile] for each in known], list(masks)


def _largest(cfg: DictConfig, touched: dict[int, Areas]) -> tuple[list[int], list[Areas]]:
    """The tiles that the drawn area covers most."""
    numbers = sorted(touched, key=lambda number: -int(touched[number].sum()))[: cfg.tiles]
    if len(touched) > len(numbers):
        print(f"The {len(numbers)} tiles of {len(touched)} that the area covers most (tiles)")
    return numbers, [touched[number] for number in numbers]


def _experiment(
    cfg: DictConfig, source: TileSource, number: int, area: Areas, donors: Sequence[int]
) -> _Experiment:
    tile, others = source.read([number])[0], source.read(donors)
    weights = softened(area, cfg.margin, cfg.feather)
    places, moved = elsewhere(area, weights, len(donors), cfg.draw + number)
    return _Experiment(
        number,
        area,
        donors,
        replaced(tile, others, weights),
        replaced(tile, others, moved),
        places,
    )


def _overlaps(experiment: _Experiment) -> npt.NDArray[np.float64]:
    """The share of each equal area elsewhere that lies on the area itself, ``(R,)``."""
    both = (experiment.places & experiment.area).sum(axis=(1, 2))
    shares: npt.NDArray[np.float64] = both / experiment.area.sum()
    return shares


def _middle(values: npt.NDArray[np.float64]) -> int:
    """The rank of the middle one of some values, the lower of two."""
    return int(np.argsort(values, kind="stable")[(len(values) - 1) // 2])


def _conclusion(cfg: DictConfig, result: _Result) -> str:
    """One line: mean P(road) before and after, and how much the area matters."""
    what = "the road" if cfg.area is None else "the area"
    drops = (result.control - result.after).mean(axis=1)
    mean = mean_interval(drops, [result.source.places[each.number].scene for each in result.done])
    bounds = f" [{mean.low:.3f}, {mean.high:.3f}]" if np.isfinite(mean.low) else ""
    count = len(result.done)
    return (
        f"P(road) of {count} tile{'s' * (count > 1)}: {result.before.mean():.3f}; with {what}"
        f" replaced {result.after.mean():.3f}, with an equal area elsewhere replaced"
        f" {result.control.mean():.3f}: {what} accounts for {mean.mean:.3f}{bounds}"
    )


def _sheet(
    result: _Result,
    maps: dict[str, npt.NDArray[np.float32]],
    versions: dict[str, Tensor],
    shown: tuple[list[int], list[int]],
    conclusion: str,
    of_road: bool,
) -> npt.NDArray[np.uint8]:
    count = len(result.done)
    pictures = np.split(to_rgb(torch.cat(list(versions.values())).numpy()), len(versions))
    blank = np.zeros_like(result.done[0].area)
    outlines = [
        np.stack([each.area for each in result.done]),
        np.stack([blank] * count),
        np.stack([each.places[i] for each, i in zip(result.done, shown[1], strict=True)]),
    ]
    columns = {
        name: outlined(tiles, areas)
        for name, tiles, areas in zip(versions, pictures, outlines, strict=True)
    }
    for name, values in maps.items():
        # one scale for the three versions of a tile
        triples = values.reshape(len(versions), count, *values.shape[1:]).swapaxes(0, 1)
        drawn = np.stack([maps_to_rgb(triple, "shared") for triple in triples], axis=1)
        columns |= {f"{name} {each}": list(drawn[i]) for i, each in enumerate(versions)}
    labels = label_names(result.source)
    rows = []
    for rank, each in enumerate(result.done[:_ROWS]):
        place = result.source.places[each.number]
        donor = result.source.places[each.donors[shown[0][rank]]]
        after, control = result.after[rank], result.control[rank]
        overlap = float(_overlaps(each).mean())
        captions = [
            f"P {result.before[rank]:.3f}\narea {each.area.mean():.1%}",
            f"P {after[shown[0][rank]]:.3f}\nby {donor.scene} {donor.row}, {donor.col}",
            f"P {control[shown[1][rank]]:.3f}"
            + f"\n{overlap:.0%} on the area" * (overlap >= 0.005),
        ]
        for name in maps:
            title = name.replace("_", " ")
            captions += [title, "replaced", "elsewhere"]
        heading = (
            f"{labels[each.number]}, {place.scene} {place.row}, {place.col}: P"
            f" {result.before[rank]:.2f}; replaced {after.mean():.2f} ± {after.std():.2f},"
            f" elsewhere {control.mean():.2f} ± {control.std():.2f}"
        )
        rows.append(GridRow(heading, [column[rank] for column in columns.values()], captions))
    what = "the road" if of_road else "an area"
    notes = [
        conclusion + ".",
        f"Outlined: the area, and the equal area elsewhere. Mean ± standard deviation of"
        f" {result.after.shape[1]} replacements by tiles without road; the one with the middle P is"
        " shown. Maps of a row share one scale.",
    ]
    if count > len(rows):
        notes.append(f"The first {len(rows)} tiles of {count}; all are in counterfactual.csv.")
    title = f"P(road) with {what} replaced by the pixels of neighbouring tiles"
    return picture_grid(rows, title, notes, columns=len(columns), side=144)


def _write_table(path: Path, result: _Result) -> Path:
    import pandas as pd

    labels = label_names(result.source)
    records = []
    for rank, each in enumerate(result.done):
        place = result.source.places[each.number]
        record = {
            **{"scene": place.scene, "row": place.row, "col": place.col},
            "label": labels[each.number],
            "area_share": each.area.mean(),
            "probability": result.before[rank],
        }
        for name, values in (("replaced", result.after[rank]), ("elsewhere", result.control[rank])):
            record |= {
                name: values.mean(),
                f"{name}_std": values.std(),
                f"{name}_min": values.min(),
                f"{name}_max": values.max(),
            }
        record["elsewhere_overlap"] = _overlaps(each).mean()
        records.append(record)
    return write_csv(path, pd.DataFrame(records))
