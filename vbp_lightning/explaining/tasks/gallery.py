"""``task=gallery``: every tile, its maps and its label on a page that takes corrections."""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path, PurePath

from omegaconf import DictConfig

from vbp_lightning.data.imagery.extent import PixelGrid
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.image_inputs import CutImages
from vbp_lightning.explaining.methods import explaining_functions
from vbp_lightning.explaining.subject import Subject, class_of
from vbp_lightning.explaining.tile_sources import (
    ImageTiles,
    TileSource,
    open_tiles,
    road_probabilities,
)
from vbp_lightning.gallery.collecting import GallerySource, gallery


def run(cfg: DictConfig, subject: Subject) -> Iterator[Path]:
    """Writes the gallery of all tiles of a split, or of images.

    Args:
        cfg: The composed config of ``explain.py``.
        subject: A road classifier.

    Yields:
        ``gallery.html``; with more tiles than a file holds, ``gallery_1.html`` and so on before it.

    Raises:
        UserError: A setting is wrong, or, at the end, some of the images could not be read.
    """
    if subject.classifier is None:
        raise UserError(
            "task=gallery: shows the tiles of a road classifier (ckpt); the images of a custom"
            " model are shown by task=attribution"
        )
    target = class_of(cfg.target)
    source = open_tiles(cfg, subject)
    methods = explaining_functions(cfg, subject, source.read([0]), target)
    of_what = cfg.input if cfg.input is not None else f"split {cfg.split}"
    yield from gallery(
        Path(cfg.output),
        "gallery",
        f"{run_name(cfg)}, {of_what}",
        _gallery_source(source, subject),
        road_probabilities(source, subject, target),
        methods,
        threshold=float(subject.classifier.threshold),
        checkpoint=subject.fingerprint,
    )
    source.report()


def _gallery_source(source: TileSource, subject: Subject) -> GallerySource:
    """The tiles with what a gallery shows beside them."""
    if not isinstance(source, ImageTiles):
        return GallerySource.of_data(source.datamodule, source.known)
    reader = source.reader
    assert isinstance(reader, CutImages)  # that of a road classifier

    @cache
    def grid(file: Path) -> PixelGrid:
        return reader.grid(file)

    def digests(numbers: Sequence[int]) -> list[str]:
        return [
            digest
            for file, group in groupby(numbers, source.owners.__getitem__)
            for digest in reader.digests(file, [source.places[number] for number in group])
        ]

    return GallerySource(
        source.places,
        lambda number: grid(source.owners[number]),
        source.read,
        digests,
        reader.tile_size,
    )


def run_name(cfg: DictConfig) -> str:
    """The name of the run that a checkpoint belongs to, or of its file.

    Args:
        cfg: The composed config of ``explain.py``: ``ckpt``.
    """
    path = PurePath(str(cfg.ckpt))
    return path.parent.parent.name if path.parent.name == "checkpoints" else path.name
