"""``task=benchmark``: every method scored against the road pixels of a split."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from timeit import repeat

import numpy as np
from omegaconf import DictConfig
from torch import Tensor, nn

from vbp_lightning.attribution import UnsupportedNetworkError
from vbp_lightning.cli import shown_progress
from vbp_lightning.errors import UserError, one_line
from vbp_lightning.evaluation.artefacts import artefacts, block_ratio, comb_energy
from vbp_lightning.evaluation.bootstrap import mean_interval
from vbp_lightning.evaluation.cross_fitting import (
    choose_setting,
    cross_fitted_scores,
    localisation_scores,
)
from vbp_lightning.evaluation.faithfulness import deletion, insertion, road, shift_response
from vbp_lightning.evaluation.localisation import positive_part
from vbp_lightning.evaluation.sanity import cascade, cascade_similarity, rank_correlation
from vbp_lightning.explaining.benchmark_table import (
    CHANCE,
    Row,
    csv_rows,
    print_tables,
    with_bounds,
    write_csv,
)
from vbp_lightning.explaining.compared_methods import (
    Build,
    ComparedMethod,
    EvaluationTiles,
    Maps,
    compared_methods_of,
    maps_of,
    road_tiles,
)
from vbp_lightning.explaining.inspecting import layer_name
from vbp_lightning.explaining.outputs import write_arrays, write_picture
from vbp_lightning.explaining.subject import Subject, class_of
from vbp_lightning.explaining.tile_sources import SplitTiles, open_tiles
from vbp_lightning.models.networks import TOTAL_STRIDE
from vbp_lightning.plotting.benchmark_figure import cascade_figure, score_figure
from vbp_lightning.plotting.curves import figure_to_array

_FIGURE_SCORES = {
    "average_precision": "average precision",
    "sharpened_mass": "relevance mass, best power",
    "pointing_game_2px": "pointing game, 2 px",
}


_TIMED = 16
"""Tiles at once when the cost of one among others is taken."""


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Scores the methods and writes what was found.

    Exponents and thresholds are chosen on validation data: of the validation split itself, each
    half of the scenes is judged with what was chosen on the other half.

    Args:
        cfg: The composed config of ``explain.py``.
        subject: A road classifier whose data has road pixels.

    Yields:
        ``benchmark.csv``, ``benchmark.npz``, ``localisation.png``, ``cascade.png``.

    Raises:
        UserError: A setting is wrong, or there is nothing to score against.
    """
    for name, least in (("perturbed", 0), ("cascaded", 0), ("tuned", 1)):
        if not isinstance(cfg[name], int) or cfg[name] < least:
            raise UserError(f"{name}={cfg[name]}: give a number of tiles, at least {least}")
    target = class_of(cfg.target)
    if target not in (None, 1):
        raise UserError(f"target={cfg.target}: what is scored against is the road: leave it out")
    source = open_tiles(cfg, subject)
    if not isinstance(source, SplitTiles):
        raise UserError(f"input={cfg.input}: images have no labels to score against: leave it out")
    evaluation_tiles = road_tiles(source.datamodule, source.split, cfg.tiles, cfg.draw)
    if source.split == "val" and len(set(evaluation_tiles.scenes)) < 2:
        raise UserError("split=val: one scene cannot be halved; choose split=test, or more data")
    apart = None
    if source.split != "val":
        apart = road_tiles(source.datamodule, "val", cfg.tuned, cfg.draw)
    compared_methods = compared_methods_of(cfg)
    rows = _scored(compared_methods, subject.model, evaluation_tiles, apart, target)
    kept = [each for each in compared_methods if each.name in rows]
    _time(kept, rows, subject.model, evaluation_tiles.tiles, target)
    if cfg.perturbed:
        _perturb(kept, rows, subject.model, evaluation_tiles, cfg.perturbed, target)
    if cfg.cascaded:
        _cascade(kept, rows, subject.model, evaluation_tiles.tiles[: cfg.cascaded], target)
    count = len(evaluation_tiles.tiles)
    scenes = len(set(evaluation_tiles.scenes))
    print(f"{count} road tiles of {scenes} scenes, {source.split}")
    print_tables(list(rows.values()), evaluation_tiles.scenes)
    yield from _write(Path(cfg.output), cfg, list(rows.values()), evaluation_tiles)


def _scored(
    compared_methods: Sequence[ComparedMethod],
    model: nn.Module,
    evaluation_tiles: EvaluationTiles,
    apart: EvaluationTiles | None,
    target: int | None,
) -> dict[str, Row]:
    """Localisation, artefacts and likeness to LRP of each, by its name."""
    rows: dict[str, Future[Row]] = {}
    of_lrp: Maps | None = None
    # LRP first, since the others are compared with it
    order = sorted(compared_methods, key=lambda each: each.method != "lrp")
    # Sorting and counting pixels takes as long as many a method: it goes on beside the next one.
    with ThreadPoolExecutor(max_workers=1) as scorer:
        for compared_method in shown_progress(order, "Scoring"):
            try:
                method = compared_method.build(model)
                maps = maps_of(method, evaluation_tiles.tiles, target)
            except (UnsupportedNetworkError, ValueError) as error:
                print(f"{compared_method.name} is left out: {one_line(error)}")
                continue
            if compared_method.method == "lrp":
                of_lrp = maps
            numbers = _artefacts(compared_method, model, evaluation_tiles.tiles)
            tuning = None
            if apart is not None:
                tuning = maps_of(method, apart.tiles, target), apart
            rows[compared_method.name] = scorer.submit(
                _row, compared_method, numbers, maps, evaluation_tiles, tuning, of_lrp
            )
    return {each.name: rows[each.name].result() for each in compared_methods if each.name in rows}


def _row(
    compared_method: ComparedMethod,
    numbers: dict[str, float],
    maps: Maps,
    evaluation_tiles: EvaluationTiles,
    tuning: tuple[Maps, EvaluationTiles] | None,
    of_lrp: Maps | None,
) -> Row:
    """What the maps of the tiles tell, beside the numbers that are known already."""
    if tuning is None:
        scores, settings = cross_fitted_scores(
            maps, evaluation_tiles.truth, evaluation_tiles.scenes
        )
    else:
        settings = [choose_setting(tuning[0], tuning[1].truth)]
        scores = localisation_scores(maps, evaluation_tiles.truth, settings[0])
    pooled = positive_part(maps)
    found = {
        "exponent": float(np.mean([each.exponent for each in settings])),
        "threshold": float(np.mean([each.threshold for each in settings])),
    }
    if not any(side % TOTAL_STRIDE for side in pooled.shape[1:]):
        found["tile_comb_energy"] = float(comb_energy(pooled, TOTAL_STRIDE).mean())
        found["tile_block_ratio"] = block_ratio(pooled, TOTAL_STRIDE)
    if of_lrp is not None:
        likeness = rank_correlation(pooled, positive_part(of_lrp)).mean()
        of_sizes = rank_correlation(np.abs(maps), np.abs(of_lrp)).mean()
        found |= {"lrp_correlation": float(likeness), "lrp_size_correlation": float(of_sizes)}
    return Row(compared_method.method, compared_method.upsampling, scores, numbers | found)


def _artefacts(
    compared_method: ComparedMethod, model: nn.Module, tiles: Tensor
) -> dict[str, float]:
    """Of an upsampling on given feature maps."""
    if compared_method.method != "visual_backprop":
        return {}
    return vars(artefacts(model, compared_method.upsampling, tiles))


def _time(
    compared_methods: Sequence[ComparedMethod],
    rows: dict[str, Row],
    model: nn.Module,
    tiles: Tensor,
    target: int | None,
) -> None:
    """What a tile costs by itself and among others, when nothing else is being computed."""
    sizes = {"ms_single": tiles[:1], "ms_batch": tiles[:_TIMED]}
    for compared_method in shown_progress(compared_methods, "Timing"):
        method = compared_method.build(model)
        method.attribute(tiles[:1], target)  # sets up what is set up once
        for name, part in sizes.items():
            seconds = repeat(partial(method.attribute, part, target), number=1, repeat=3)
            rows[compared_method.name].numbers[name] = 1e3 * min(seconds) / len(part)


def _perturb(
    compared_methods: Sequence[ComparedMethod],
    rows: dict[str, Row],
    model: nn.Module,
    evaluation_tiles: EvaluationTiles,
    count: int,
    target: int | None,
) -> None:
    """Deletion, insertion, ROAD and the shift test on the first tiles."""
    tiles, scenes = evaluation_tiles.tiles[:count], evaluation_tiles.scenes[:count]
    for compared_method in shown_progress(
        compared_methods, f"Taking pixels out of {len(tiles)} tiles"
    ):
        maps = maps_of(compared_method.build(model), tiles, target)
        shifts = vars(shift_response(model, tiles, maps, target))
        found = {
            "deletion": deletion(model, tiles, maps, target),
            "insertion": insertion(model, tiles, maps, target),
            "road": road(model, tiles, maps, target),
            **{f"shift_{name}": changes for name, changes in shifts.items()},
        }
        for name, values in found.items():
            rows[compared_method.name].numbers |= with_bounds(name, mean_interval(values, scenes))


def _cascade(
    compared_methods: Sequence[ComparedMethod],
    rows: dict[str, Row],
    model: nn.Module,
    tiles: Tensor,
    target: int | None,
) -> None:
    """Rank correlation with the maps of networks randomised from the output down."""
    stages = cascade(model)
    layers = [layer_name(stage.layer) for stage in stages]
    for compared_method in shown_progress(
        compared_methods, f"Randomising layers, {len(tiles)} tiles"
    ):
        row = rows[compared_method.name]

        def explained(network: nn.Module, build: Build = compared_method.build) -> Maps:
            return maps_of(build(network), tiles, target)

        similar, of_sizes = cascade_similarity(explained, model, stages).mean(axis=2).tolist()
        row.cascade = dict(zip(layers, similar, strict=True))
        # of each part, what it is when all of it is randomised
        for stage, signed, size in zip(stages, similar, of_sizes, strict=True):
            row.numbers[f"cascade_{stage.part}"] = signed
            row.numbers[f"cascade_{stage.part}_sizes"] = size


def _write(
    output: Path, cfg: DictConfig, rows: Sequence[Row], evaluation_tiles: EvaluationTiles
) -> Iterator[Path]:
    yield write_csv(output / "benchmark.csv", list(csv_rows(rows, evaluation_tiles.scenes)))
    names = list(rows[0].tiles)
    yield write_arrays(
        output / "benchmark.npz",
        cfg,
        {"corners": "px", "road_shares": "part of a tile"}
        | dict.fromkeys(names, "score of a tile"),
        methods=[row.method for row in rows],
        upsamplings=[row.upsampling for row in rows],
        scenes=evaluation_tiles.scenes,
        corners=evaluation_tiles.corners,
        road_shares=evaluation_tiles.truth.mean(axis=(1, 2)),
        **{name: np.stack([row.tiles[name] for row in rows]) for name in names},
    )
    intervals = {
        title: {row.name: mean_interval(row.tiles[name], evaluation_tiles.scenes) for row in rows}
        for name, title in _FIGURE_SCORES.items()
    }
    where = f"{len(evaluation_tiles.scenes)} road tiles, {cfg.split} split"
    figure = score_figure(intervals, CHANCE, where)
    yield write_picture(output / "localisation.png", figure_to_array(figure))
    curves = {row.name: row.cascade for row in rows if row.cascade}
    if curves:
        count = min(cfg.cascaded, len(evaluation_tiles.scenes))
        figure = cascade_figure(curves, f"{count} road tiles, {cfg.split} split")
        yield write_picture(output / "cascade.png", figure_to_array(figure))
