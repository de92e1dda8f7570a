"""``task=suspects``: the labels that are likely to be wrong, the most suspicious first."""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from pydantic import Field, StrictInt
from pydantic.dataclasses import dataclass as record

from vbp_lightning.cli import progress_bar
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.tiles.corrections import CORRECTION_FIELDS
from vbp_lightning.data.tiles.tile import Label, LabelledTile
from vbp_lightning.data.tiles.tiles_csv import tile_fields
from vbp_lightning.errors import UserError
from vbp_lightning.evaluation.label_errors import flagged, suspicion
from vbp_lightning.explaining.folds import Splits, fold_data, fold_splits, probabilities_of, trained
from vbp_lightning.explaining.methods import explaining_functions
from vbp_lightning.explaining.settings import ExplainSettings
from vbp_lightning.explaining.subject import Subject, class_of
from vbp_lightning.explaining.tasks.gallery import run_name
from vbp_lightning.explaining.tile_sources import own_data
from vbp_lightning.files import replacing
from vbp_lightning.gallery.collecting import GallerySource, Suspicions, gallery
from vbp_lightning.records import RECORD, PositiveCount

_FOLDER = ".folds"
"""In the folder ``output``: P(road) of the folds that are finished."""


@record(frozen=True, config=RECORD)
class Options(ExplainSettings):
    """The settings of the task, with their ranges."""

    folds: Annotated[StrictInt, Field(ge=2, le=100)]
    epochs: PositiveCount


@dataclass(frozen=True)
class Suspects:
    """The judged tiles, the most suspicious first.

    Args:
        datamodule: Reads them.
        tiles: Labelled training and validation tiles, each with the split that it has in the run.
        probabilities: ``(N,)`` P(road) by classifiers that did not train on their scenes.
        suspicion: ``(N,)`` 1 - P(given label).
        flagged: ``(N,)`` see :func:`~vbp_lightning.evaluation.label_errors.flagged`.
        folds: ``(N,)`` number of the fold of each tile, from 1 on.
    """

    datamodule: RoadTileDataModule
    tiles: Sequence[LabelledTile]
    probabilities: NDArray[np.float64]
    suspicion: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    folds: NDArray[np.int64]


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Writes the table and the gallery of the judged tiles.

    Args:
        cfg: The composed config of ``explain.py``: ``folds`` and ``epochs``.
        subject: The road classifier whose settings are used.

    Yields:
        ``suspects.csv``, and ``suspects.html``, with the maps of the checkpoint's own network.

    Raises:
        UserError: The data of the classifier are not known, or have too few scenes.
    """
    found = find_suspects(cfg, subject)
    for name, label in (("road", Label.ROAD), ("non-road", Label.NON_ROAD)):
        own = np.array([tile.label == label for tile in found.tiles])
        print(f"{np.count_nonzero(found.flagged & own)} of {own.sum()} {name} tiles are suspects")
    yield write_suspects(Path(cfg.output) / "suspects.csv", found)
    source = GallerySource.of_data(found.datamodule, found.tiles)
    yield from gallery(
        Path(cfg.output),
        "suspects",
        f"{run_name(cfg)}, P(road) by networks that did not train on the scene",
        source,
        found.probabilities,
        explaining_functions(cfg, subject, source.read([0]), class_of(cfg.target)),
        threshold=0.5,
        checkpoint=subject.fingerprint,
        suspicions=Suspicions(found.suspicion, found.flagged),
    )


def find_suspects(cfg: DictConfig, subject: Subject) -> Suspects:
    """Trains a classifier for each fold of scenes, and judges the labels of the fold by it.

    A fold is stored when it is finished, so that a call with the same ``output`` goes on.

    Args:
        cfg: The composed config of ``explain.py``: ``folds``, ``epochs``, ``data``, ``output``.
        subject: The road classifier whose settings are used; its weights are not.

    Raises:
        UserError: The data of the classifier are not known, or have too few scenes.
    """
    classifier = subject.classifier
    if classifier is None or cfg.input is not None:
        raise UserError(
            "task=suspects: judges the labels that a checkpoint of train.py was trained with: give"
            " it with ckpt, and leave input and network out"
        )
    if isinstance(classifier.hparams["network"], str):
        raise UserError(
            f"task=suspects: the network of the checkpoint, a {classifier.hparams['network']}, was"
            " given in Python and cannot be built again (ckpt): train it by"
            " model.network._target_=CALLABLE"
        )
    datamodule = own_data(classifier, cfg.data)
    folds = fold_splits(datamodule.scene_splits, cfg.folds)
    depends_on = (subject.fingerprint, cfg.epochs, folds, datamodule.scene_digests)
    content = repr((*depends_on, datamodule.corrections.rows))
    stored = hashlib.sha256(content.encode()).hexdigest()[:16]
    tiles: list[LabelledTile] = []
    probabilities, numbers = [], []
    with progress_bar() as bar:
        progress = bar.add_task("Training without each fold", total=len(folds) * cfg.epochs)
        for number, splits in enumerate(folds, 1):
            data = fold_data(datamodule, splits)
            path = Path(cfg.output) / _FOLDER / f"{stored}_{number}.npy"
            if path.is_file():
                found = np.load(path)
            else:
                model = trained(
                    data,
                    classifier.hparams,
                    cfg.epochs,
                    data.settings.seed + number,
                    subject.device,
                    partial(bar.advance, progress),
                )
                found = probabilities_of(model, data, "val")
                with replacing(path, subfolder=True) as temporary, temporary.open("wb") as file:
                    np.save(file, found)
            bar.update(progress, completed=number * cfg.epochs)
            tiles += [_with_split(tile, datamodule.scene_splits) for tile in data.tiles_of("val")]
            probabilities.append(found)
            numbers.append(np.full(len(found), number))
    p = np.concatenate(probabilities)
    labels = np.array([int(tile.label) for tile in tiles], dtype=np.int64)
    judged = np.flatnonzero(labels != Label.IGNORED)
    scores = suspicion(labels[judged], p[judged])
    flags = flagged(labels[judged], p[judged])
    order = np.argsort(-scores, kind="stable")
    judged = judged[order]
    return Suspects(
        datamodule,
        [tiles[index] for index in judged.tolist()],
        p[judged],
        scores[order],
        flags[order],
        np.concatenate(numbers)[judged],
    )


def write_suspects(path: Path, found: Suspects) -> Path:
    """Writes the suspects as a file of corrections, in which ``new_label`` is to be filled in.

    Args:
        path: The file to write or replace.
        found: The suspects. Those that are corrected already keep their answers.

    Returns:
        The path.

    Raises:
        OSError: The file cannot be written; an older one stays as it was.
    """
    digests = found.datamodule.tile_digests(found.tiles)
    known = found.datamodule.corrections.by_tile
    values = (found.probabilities, found.suspicion, found.flagged, found.folds)
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow((*CORRECTION_FIELDS, "flagged", "fold"))
        for item, digest, p, score, flag, fold in zip(found.tiles, digests, *values, strict=True):
            *place, _, label = tile_fields(item)
            note = known[item.tile].note if item.answer else ""
            row = (*place, label, f"{p:.6g}", f"{score:.6g}", item.answer, note, digest)
            writer.writerow((*row, int(flag), fold))
    return path


def _with_split(item: LabelledTile, splits: Splits) -> LabelledTile:
    """A tile with the split of a run."""
    own, tile = splits[item.tile.scene], item.tile
    if not isinstance(own, str):
        (own,) = (
            split
            for row, col, height, width, split in own
            if row <= tile.row < row + height and col <= tile.col < col + width
        )
    return replace(item, split=own)
