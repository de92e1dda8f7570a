"""``task=benchmark``: every method scored against the road pixels of a split."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from timeit import repeat

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from vbp_lightning.attribution import UnsupportedNetworkError
from vbp_lightning.cli import shown_progress
from vbp_lightning.errors import UserError, one_line, plain
from vbp_lightning.evaluation.artefacts import artefacts, block_ratio, comb_energy
from vbp_lightning.evaluation.baselines import BASELINES, Attribution
from vbp_lightning.evaluation.bootstrap import mean_interval
from vbp_lightning.evaluation.complexity import entropy, gini
from vbp_lightning.evaluation.cross_fitting import (
    choose_setting,
    cross_fitted_scores,
    localisation_scores,
)
from vbp_lightning.evaluation.faithfulness import deletion, insertion, road, shift_response
from vbp_lightning.evaluation.localisation import positive_part
from vbp_lightning.evaluation.robustness import changed_tiles, robustness
from vbp_lightning.evaluation.sanity import cascade, cascade_similarity, rank_correlation
from vbp_lightning.explaining.benchmark_table import (
    CHANCE,
    Row,
    print_tables,
    score_table,
    with_bounds,
)
from vbp_lightning.explaining.compared_methods import (
    ComparedMethod,
    EvaluationTiles,
    Maps,
    compared_methods_of,
    maps_of,
    road_tiles,
)
from vbp_lightning.explaining.outputs import write_arrays, write_csv
from vbp_lightning.explaining.settings import ExplainSettings
from vbp_lightning.explaining.sorted_tiles import sorted_tiles_sheet
from vbp_lightning.explaining.subject import Subject, class_of, layer_name
from vbp_lightning.explaining.tile_sources import SplitTiles, open_tiles
from vbp_lightning.graph.network_graph import graph_of
from vbp_lightning.plotting.benchmark_figure import cascade_figure, score_figure
from vbp_lightning.plotting.curves import figure_to_array
from vbp_lightning.plotting.png import write_picture
from vbp_lightning.records import RECORD, Count, PositiveCount

_FIGURE_SCORES = {
    "average_precision": "average precision",
    "sharpened_mass": "relevance mass, best power",
    "pointing_game_2px": "pointing game, 2 px",
}

_TIMED = 16
"""Tiles in the batch whose time is measured."""

Rows = dict[ComparedMethod, Row]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, config=RECORD)
class Options(ExplainSettings):
    """The settings of the task, with their ranges."""

    tuned: PositiveCount
    perturbed: Count
    cascaded: Count
    draw: Count


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Scores the methods and writes tables and figures.

    Exponents and thresholds are chosen on validation data. On the validation split itself, each
    half of the scenes is scored with the choice on the other half.

    Args:
        cfg: The composed config of ``explain.py``.
        subject: A road classifier whose data has road pixels.

    Yields:
        ``benchmark.csv``, ``benchmark.npz``, ``localisation.png``, ``cascade.png``,
        ``sorted_tiles.png``.

    Raises:
        UserError: A setting is wrong, or there are no road pixels.
    """
    target = class_of(cfg.target)
    if target not in (None, 1):
        raise UserError(f"target={cfg.target}: only road can be scored: leave it out")
    source = open_tiles(cfg, subject)
    if not isinstance(source, SplitTiles):
        raise UserError(f"input={cfg.input}: images have no labels to score against: leave it out")
    datamodule, model, device = source.datamodule, subject.model, subject.device
    tiles = road_tiles(datamodule, source.split, cfg.tiles, cfg.draw, device)
    val = None
    if source.split != "val":
        val = road_tiles(datamodule, "val", cfg.tuned, cfg.draw, device)
    elif len(set(tiles.scenes)) < 2:
        raise UserError("split=val: one scene cannot be halved; choose split=test, or more data")
    rows = _scored(compared_methods_of(cfg), model, tiles, val, target)
    for compared, row in shown_progress(rows.items(), "Timing"):
        row.numbers |= _costs(compared.build(model), tiles.tiles, target)
    if cfg.perturbed:
        _perturb(rows, model, tiles, cfg.perturbed, target)
        _disturb(rows, subject, tiles, cfg.perturbed, target)
    if cfg.cascaded:
        _cascade(rows, model, tiles.tiles[: cfg.cascaded], target)
    found = list(rows.values())
    print(f"{len(tiles.tiles)} road tiles of {len(set(tiles.scenes))} scenes, {source.split}")
    print_tables(found, tiles.scenes)
    yield from _write(cfg, found, tiles)
    methods = {compared: row for compared, row in rows.items() if compared.method not in BASELINES}
    if methods:
        sheet = sorted_tiles_sheet(methods, model, tiles, target)
        yield write_picture(Path(cfg.output) / "sorted_tiles.png", sheet)


def _scored(
    compared_methods: Sequence[ComparedMethod],
    model: nn.Module,
    tiles: EvaluationTiles,
    val: EvaluationTiles | None,
    target: int | None,
) -> Rows:
    """Localisation, artefacts and similarity to LRP of all methods that suit the network."""
    rows: dict[ComparedMethod, Future[Row]] = {}
    of_lrp: Maps | None = None
    stride = _stride(model, tiles.tiles)
    # LRP first, since the others are compared with it
    order = sorted(compared_methods, key=lambda each: each.method != "lrp")
    # Scoring takes as long as some methods, so it runs in parallel with the next method.
    with ThreadPoolExecutor(max_workers=1) as scorer:
        for compared in shown_progress(order, "Scoring"):
            try:
                method = compared.build(model)
                maps = maps_of(method, tiles.tiles, target)
            except (UnsupportedNetworkError, ValueError) as error:
                name = f"{compared.method} {compared.upsampling}".strip()
                print(f"{name} is left out: {plain(one_line(error))}")
                continue
            if compared.method == "lrp":
                of_lrp = maps
            numbers = {}
            if compared.method == "visual_backprop":
                numbers = vars(artefacts(model, compared.upsampling, tiles.tiles))
            tuning = None if val is None else (maps_of(method, val.tiles, target), val)
            rows[compared] = scorer.submit(
                _row, compared, numbers, maps, tiles, tuning, of_lrp, stride
            )
    return {each: rows[each].result() for each in compared_methods if each in rows}


def _stride(model: nn.Module, tiles: Tensor) -> int | None:
    """The distance of the places of the last maps, if there is one that divides the tiles."""
    try:
        stride = graph_of(model, tiles[:1]).stride
    except UnsupportedNetworkError:
        return None
    fits = stride is not None and not any(side % stride for side in tiles.shape[2:])
    return stride if fits else None


def _row(
    compared: ComparedMethod,
    numbers: dict[str, float],
    maps: Maps,
    tiles: EvaluationTiles,
    tuning: tuple[Maps, EvaluationTiles] | None,
    of_lrp: Maps | None,
    stride: int | None,
) -> Row:
    """The scores of the maps, with the numbers that are known already."""
    if tuning is None:
        scores, settings = cross_fitted_scores(maps, tiles.truth, tiles.scenes)
    else:
        settings = [choose_setting(tuning[0], tuning[1].truth)]
        scores = localisation_scores(maps, tiles.truth, settings[0])
    pooled = positive_part(maps)
    found = {
        "exponent": float(np.mean([each.exponent for each in settings])),
        "threshold": float(np.mean([each.threshold for each in settings])),
    }
    if stride is not None:
        found["tile_comb_energy"] = float(comb_energy(pooled, stride).mean())
        found["tile_block_ratio"] = block_ratio(pooled, stride)
    found |= with_bounds("entropy", mean_interval(entropy(pooled), tiles.scenes))
    found |= with_bounds("gini", mean_interval(gini(pooled), tiles.scenes))
    if of_lrp is not None:
        similarity = rank_correlation(pooled, positive_part(of_lrp)).mean()
        of_sizes = rank_correlation(np.abs(maps), np.abs(of_lrp)).mean()
        found |= {"lrp_correlation": float(similarity), "lrp_size_correlation": float(of_sizes)}
    return Row(compared.method, compared.upsampling, scores, numbers | found)


def _costs(method: Attribution, tiles: Tensor, target: int | None) -> dict[str, float]:
    """Milliseconds per tile, alone and in a batch."""

    def milliseconds(part: Tensor) -> float:
        # copying the maps waits for the end of the computation on a GPU
        seconds = repeat(lambda: method.attribute(part, target).cpu(), number=1, repeat=3)
        return 1e3 * min(seconds) / len(part)

    method.attribute(tiles[:1], target)  # initialisation
    return {"ms_single": milliseconds(tiles[:1]), "ms_batch": milliseconds(tiles[:_TIMED])}


def _perturb(
    rows: Rows, model: nn.Module, evaluation: EvaluationTiles, count: int, target: int | None
) -> None:
    """Adds deletion, insertion, ROAD and the shift test on the first tiles."""
    tiles, scenes = evaluation.tiles[:count], evaluation.scenes[:count]
    for compared, row in shown_progress(rows.items(), f"Removing pixels of {len(tiles)} tiles"):
        maps = maps_of(compared.build(model), tiles, target)
        shifts = vars(shift_response(model, tiles, maps, target))
        found = {
            "deletion": deletion(model, tiles, maps, target),
            "insertion": insertion(model, tiles, maps, target),
            "road": road(model, tiles, maps, target),
            **{f"shift_{name}": changes for name, changes in shifts.items()},
        }
        for name, values in found.items():
            row.numbers |= with_bounds(name, mean_interval(values, scenes))


def _disturb(
    rows: Rows, subject: Subject, evaluation: EvaluationTiles, count: int, target: int | None
) -> None:
    """Adds the robustness to noise and to brightness on the first tiles."""
    tiles, scenes = evaluation.tiles[:count], evaluation.scenes[:count]
    changed = changed_tiles(tiles)

    def probability(images: Tensor) -> Floats:
        return np.asarray(subject.probabilities(images, 1)[0], dtype=np.float64)

    for compared, row in shown_progress(rows.items(), f"Disturbing {len(tiles)} tiles"):
        method = compared.build(subject.model)
        for name, copies in changed.items():

            def explain(images: Tensor, method: Attribution = method) -> Maps:
                return maps_of(method, images, target)

            values = robustness(explain, probability, tiles, copies)
            known = np.isfinite(values)
            if known.any():
                of_scenes = [
                    scene for scene, is_known in zip(scenes, known, strict=True) if is_known
                ]
                row.numbers |= with_bounds(
                    f"robustness_{name}", mean_interval(values[known], of_scenes)
                )


def _cascade(rows: Rows, model: nn.Module, tiles: Tensor, target: int | None) -> None:
    """Adds the rank correlation with the maps of networks randomised from the output down."""
    stages = cascade(model)
    for compared, row in shown_progress(rows.items(), f"Randomising layers, {len(tiles)} tiles"):

        def explained(network: nn.Module, compared: ComparedMethod = compared) -> Maps:
            return maps_of(compared.build(network), tiles, target)

        similar, of_sizes = cascade_similarity(explained, model, stages).mean(axis=2).tolist()
        # the last stage of each part remains, where all of it is randomised
        for stage, signed, size in zip(stages, similar, of_sizes, strict=True):
            row.cascade[layer_name(stage.layer)] = signed
            row.numbers[f"cascade_{stage.part}"] = signed
            row.numbers[f"cascade_{stage.part}_sizes"] = size


def _write(cfg: DictConfig, rows: Sequence[Row], tiles: EvaluationTiles) -> Iterator[Path]:
    output, scenes = Path(cfg.output), tiles.scenes
    yield write_csv(output / "benchmark.csv", score_table(rows, scenes))
    yield write_arrays(
        output / "benchmark.npz",
        cfg,
        methods=[row.method for row in rows],
        upsamplings=[row.upsampling for row in rows],
        scenes=scenes,
        corners=tiles.corners,
        road_shares=tiles.truth.mean(axis=(1, 2)),
        **{name: np.stack([row.tiles[name] for row in rows]) for name in rows[0].tiles},
    )
    intervals = {
        title: {row.name: mean_interval(row.tiles[name], scenes) for row in rows}
        for name, title in _FIGURE_SCORES.items()
    }
    figure = score_figure(intervals, CHANCE, f"{len(scenes)} road tiles, {cfg.split} split")
    yield write_picture(output / "localisation.png", figure_to_array(figure))
    curves = {row.name: row.cascade for row in rows if row.cascade}
    if curves:
        count = min(cfg.cascaded, len(scenes))
        figure = cascade_figure(curves, f"{count} road tiles, {cfg.split} split")
        yield write_picture(output / "cascade.png", figure_to_array(figure))
