"""The settings of a data module: types, ranges, and the rules that concern several of them."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, Strict, StrictBool, StrictInt, StrictStr, model_validator
from pydantic.dataclasses import dataclass

from vbp_lightning.data.datasets.labelled_images import LabelledImages
from vbp_lightning.data.datasets.pattern_scenes import PatternScenes
from vbp_lightning.data.datasets.scene import Scene
from vbp_lightning.data.datasets.virtual_path import SourcePath
from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.data.synthetic.generator import SyntheticScenes
from vbp_lightning.data.tiles.augmentation import Augmentation
from vbp_lightning.data.tiles.evidence import Evidence
from vbp_lightning.records import (
    RECORD,
    Count,
    Number,
    Positive,
    PositiveCount,
    Seed,
    made,
    own_settings,
)

SceneSource: TypeAlias = Callable[[], list[Scene]]
"""The layout of a data set, a dataclass; calling it returns the scenes."""

Layout = PatternScenes | LabelledImages | SyntheticScenes

_LAYOUTS: dict[str, type[Layout]] = {
    layout.__name__: layout for layout in (PatternScenes, LabelledImages, SyntheticScenes)
}


@dataclass(frozen=True, config=RECORD)
class DataSettings:
    """How scenes become labelled, augmented tiles.

    Args:
        bands: Bands to read, each by its number counted from 1, its description or its colour
            interpretation; None reads all but an alpha band.
        alpha: Whether an alpha band that is not selected is transparency; False ignores it. None
            takes it for transparency, and refuses images where its values do not look like it.
        nodata: Image pixels of this value are nodata, besides those that the files declare.
        resolution: Ground sampling distance in metres that all images are resampled to; None leaves
            each its own.
        stretch: Two percentiles of each band's training pixels that become -1 and 1 in the network;
            values beyond them are clipped. None scales by mean and standard deviation.
        tile_size: Tile size in pixels, at most 4096.
        context: Margin in pixels, at most 256, that each tile is read with on every side, for
            networks whose features are to come from real pixels up to the tile's border. Beyond
            the scene it holds the fill value of nodata. Labels, shares and bounds are those of the
            tile alone.
        stride: Distance in pixels between validation and test tiles; None for ``tile_size``.
        train_stride: Distance in pixels between training tiles; None for half a tile.
        cover_edges: Whether last tiles, shifted inwards, cover the pixels beyond the last stride.
        road_share: Least road share of a road tile, in (0, 1]; below it and above 0 a tile is
            ignored.
        max_invalid: Largest share of invalid pixels in [0, 1]; tiles above it are dropped.
        mask_threshold: Values of a road mask above it are road, unless ``road_values`` are given.
        road_values: Values of a road mask that are road; None for those above ``mask_threshold``.
        non_road_values: Values of a road mask that are not road, if ``road_values`` are given; a
            mask that holds values of neither list is refused.
        ignore_values: Values of a road mask where the label is not known.
        val_fraction: Part of the scenes without a split of their own that validates, in [0, 1).
        test_fraction: Part of the scenes without a split of their own that tests, in [0, 1).
        split_by: ``scene`` draws whole scenes, ``block`` the blocks of a grid within scenes.
        block_size: Side of a block.
        block_unit: Unit of ``block_size``: ``m`` or ``px``.
        block_margin: Pixels that lie at least between a training tile and each held-out pixel of
            its scene, where scenes are divided; None for the jitter of the augmentation and twice
            the context, so that no pixel is read for training and for a held-out tile.
        split_file: A ``splits.csv`` that a run has written, or another CSV with the columns
            ``scene`` and ``split``; splits are then read and not drawn. The split ``none`` leaves
            scenes alone.
        corrections: A CSV of labels that people have corrected, see
            :class:`~vbp_lightning.data.tiles.corrections.Corrections`.
        train_fraction: Part of the training split that is used: a fraction in (0, 1], or a number
            of scenes as an integer (of blocks, where scenes are divided). ``split_seed`` draws it,
            and a larger part holds every smaller one; None for all.
        split_seed: Seed of the drawing of splits, apart from ``seed``, so that runs of different
            seeds are evaluated on the same scenes.
        tiles_per_epoch: Training tiles drawn in an epoch, over all processes, rounded down to
            whole batches (one at least); None for the number of labelled training tiles.
        batch_size: Tiles of a batch over all processes, at least 2 for each; must divide among
            them evenly.
        memory: GiB that the main process may take. Decoded scenes of up to half of it are kept in
            memory; larger data sets are read from disk tile by tile, an epoch's tiles ordered by
            place.
        num_workers: Worker processes of each loader; 0 cuts the tiles in the main process.
        augment: Augmentation of training tiles; None or False for none.
        evidence: Composites that replace some of the training tiles; None for none.
        seed: Seed of drawing and augmentation.
    """

    bands: tuple[StrictInt | StrictStr, ...] | StrictInt | StrictStr | None = None
    alpha: StrictBool | None = None
    nodata: Number | None = None
    resolution: Annotated[Number, Field(ge=1e-3, le=1e5)] | None = None
    stretch: tuple[Number, ...] | None = None
    tile_size: Annotated[PositiveCount, Field(le=4096)] = 96
    context: Annotated[Count, Field(le=256)] = 0
    stride: PositiveCount | None = None
    train_stride: PositiveCount | None = None
    cover_edges: StrictBool = False
    road_share: Annotated[Number, Field(gt=0, le=1)] = 0.05
    max_invalid: Annotated[Number, Field(ge=0, le=1)] = 0.25
    mask_threshold: Annotated[Number, Field(ge=0)] = 127
    road_values: tuple[Number, ...] | None = None
    non_road_values: tuple[Number, ...] = (0,)
    ignore_values: tuple[Number, ...] = ()
    val_fraction: Number = 0.15
    test_fraction: Number = 0.15
    split_by: Literal["scene", "block"] = "scene"
    block_size: Positive = 500
    block_unit: Literal["m", "px"] = "m"
    block_margin: StrictInt | None = None
    split_file: SourcePath | None = None
    corrections: SourcePath | None = None
    train_fraction: (
        PositiveCount | Annotated[float, Strict(), Field(gt=0, le=1, allow_inf_nan=False)] | None
    ) = None
    split_seed: Seed = 0
    tiles_per_epoch: PositiveCount | None = None
    batch_size: Annotated[StrictInt, Field(ge=2)] = 64
    memory: Annotated[Positive, Field(le=1e6)] = 2.0
    num_workers: Annotated[Count, Field(le=256)] = 0
    augment: Augmentation | Literal[False] | None = Augmentation()
    evidence: Evidence | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        lines = []
        if self.bands == ():
            lines.append("bands=[]: name at least one band, or null for all")
        if self.stretch is not None and not (
            len(self.stretch) == 2 and 0 <= self.stretch[0] < self.stretch[1] <= 100
        ):
            given = ", ".join(f"{percentile:g}" for percentile in self.stretch)
            lines.append(f"stretch=[{given}]: give two percentiles, as in [2, 98], or null")
        if min(self.fractions) < 0 or sum(self.fractions) >= 1:
            lines.append(
                f"val_fraction={self.val_fraction}, data.test_fraction={self.test_fraction}: "
                "must not be negative and leave something to train on"
            )
        meanings = Counter(
            value
            for values in (self.road_values or (), self.non_road_values, self.ignore_values)
            for value in set(values)
        )
        twice = [f"{value:g}" for value, count in meanings.items() if count > 1]
        if self.road_values == () or (self.road_values is not None and twice):
            wrong = f"{', '.join(twice)} has two meanings" if twice else "names no value"
            lines.append(
                f"road_values={list(self.road_values)}: {wrong}: give each value of the road masks "
                "in one of data.road_values, data.non_road_values and data.ignore_values"
            )
        _, stride = self.strides
        if self.block_unit == "px" and self.block_size < self.tile_size + stride - 1:
            lines.append(
                f"block_size={self.block_size:g}: must be at least data.tile_size + data.stride"
                f" - 1 = {self.tile_size + stride - 1} px, so that each block holds a tile"
            )
        if self.block_margin is not None and self.block_margin < self._reach:
            of_context = " + 2 · data.context = " if self.context else "="
            lines.append(
                f"block_margin={self.block_margin}: must be at least data.augment.jitter"
                f"{of_context}{self._reach}, by which training tiles move, or null"
            )
        if lines:
            raise ValueError("\n".join(lines))
        return self

    @property
    def reading(self) -> Reading:
        """How scenes are read."""
        bands = (self.bands,) if isinstance(self.bands, int | str) else self.bands
        return Reading(
            bands,
            self.nodata,
            self.resolution,
            self.mask_threshold,
            self.alpha,
            self.road_values,
            self.non_road_values,
            self.ignore_values,
        )

    @property
    def strides(self) -> tuple[int, int]:
        """Distance between training tiles and between other tiles, pixels."""
        training = self.train_stride or max(1, self.tile_size // 2)
        return training, self.stride or self.tile_size

    @property
    def fractions(self) -> tuple[float, float]:
        """Parts of the scenes that validate and test."""
        return self.val_fraction, self.test_fraction

    @property
    def margin(self) -> int:
        """Pixels between training tiles and held-out pixels."""
        return self._reach if self.block_margin is None else self.block_margin

    @property
    def _reach(self) -> int:
        """Pixels beyond a training tile that may be read for training or a held-out tile."""
        return (self.augment.jitter if self.augment else 0) + 2 * self.context


def made_layout(
    source: SceneSource | Mapping[str, Any], root: str | Path | None
) -> tuple[SceneSource | None, list[str]]:
    """Makes a layout from plain values; code that they name is not imported.

    Args:
        source: The settings of the layout with, under ``_target_``, a path that ends in its class;
            or a layout, which is returned.
        root: Folder of the data set.

    Returns:
        The layout, or None and one line for each error.
    """
    if not isinstance(source, Mapping):
        is_layout = callable(source)
        line = f"data.source={source}: is no layout: choose one with data=, as data=folder"
        return (source, []) if is_layout else (None, [line])
    settings = own_settings(source)
    target = str(source.get("_target_"))
    layout = _LAYOUTS.get(target.rsplit(".", 1)[-1])
    if layout is None or target.split(".")[0] != "vbp_lightning":
        return None, [
            f"data.source: names {target}, which is no layout of this package: refused, not run; "
            "choose one with data=, as data=folder"
        ]
    if root is None:
        return None, ["data.root: is not set: name the folder of the data set, as in data.root=DIR"]
    found, lines = made(layout, "data.source", settings | {"root": root})
    return found, [line.replace("data.source.root", "data.root") for line in lines]
