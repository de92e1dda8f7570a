"""The maps of one scene: computed block by block, then written as two rasters."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.imagery.extent import PixelGrid
from vbp_lightning.data.imagery.fingerprint import Fingerprint, fingerprint
from vbp_lightning.data.imagery.opening import opened_raster
from vbp_lightning.data.imagery.raster import Reading, readable, without_place
from vbp_lightning.data.imagery.unlabelled import INPUT_KEY, ReadPixels, checked_grid, opened_filled
from vbp_lightning.files import remove_unfinished
from vbp_lightning.scene_maps.block_maps import Mapper, block_maps
from vbp_lightning.scene_maps.block_store import BlockStore, Range
from vbp_lightning.scene_maps.geotiff import CACHE, NOWHERE, Placement, tags_of, writing_cog
from vbp_lightning.scene_maps.output_grid import Block, CellGrid, blocks_of

Scaling = Literal["percentile", "extremes", "none"]

_IMAGE, _CONTENT, _FILES = "IMAGE", "IMAGE_SHA256", "IMAGE_FILES"
"""Tags: the path of the image, and its fingerprint."""

PERCENT = 99.5
"""``scaling=percentile``: the percentile of the VisualBackProp mask that is mapped to 1."""


@dataclass(frozen=True)
class MapSettings:
    """Settings shared by the maps of all scenes.

    Args:
        output: Existing folder that the maps are written to.
        reading: How images are read.
        fill: Value of nodata pixels, one per band.
        window: Side of a window in pixels.
        step: Distance between windows in pixels.
        block: Side of a block in pixels, a multiple of the step.
        scaling: How VisualBackProp masks are scaled to [0, 1]: ``percentile`` maps the smallest
            value to 0 and the 99.5th percentile to 1 and clips, ``extremes`` maps the smallest and
            the largest value, ``none`` leaves the values unchanged. Masks blended from
            tiles are in [0, 1] already.
        tags: Settings that the values depend on, written to the tags of the rasters.
        white_area: Number of saturated pixels from which a white area is nodata; 0 for never.
    """

    output: Path
    reading: Reading
    fill: tuple[float, ...]
    window: int
    step: int
    block: int
    scaling: Scaling
    tags: Mapping[str, str] = field(default_factory=dict)
    white_area: int = 0


@dataclass(frozen=True)
class SceneJob:
    """The maps of one scene.

    Args:
        name: Name of the scene; the maps are named after it.
        image: The raster file of the scene.
        grid: Size and georeference of the image.
        settings: Shared by all scenes.
    """

    name: str
    image: Path
    grid: PixelGrid
    settings: MapSettings

    @property
    def probability_path(self) -> Path:
        """The raster of P(road)."""
        return self.settings.output / f"{self.name}_probability.tif"

    @property
    def mask_path(self) -> Path:
        """The raster of the VisualBackProp mask."""
        return self.settings.output / f"{self.name}_visual_backprop.tif"

    @property
    def cells(self) -> CellGrid:
        """The cells of the probability raster."""
        return CellGrid(self.grid.shape, self.settings.window, self.settings.step)

    @cached_property
    def store(self) -> BlockStore:
        """Temporary storage of the blocks."""
        return BlockStore(
            self.settings.output / f".{self.name}.blocks",
            list(blocks_of(self.grid.shape, self.settings.block)),
        )

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Of the image; taken from the stored blocks or maps if they are of the same files.

        Raises:
            DataError: A file cannot be read.
        """
        return fingerprint(self.image, _known(self.store.tags() or tags_of(self.mask_path)))

    def state(self) -> Literal["done", "other", "none"]:
        """``other`` if a map of another image or other settings exists, ``done`` if both fit."""
        if self.conflict() is not None:
            return "other"
        paths = (self.probability_path, self.mask_path)
        return "done" if all(path.exists() for path in paths) else "none"

    def conflict(self) -> str | None:
        """How an existing map differs from the one that is asked for, in words; None if none does.

        Raises:
            DataError: A file of the image cannot be read.
        """
        for path in (self.probability_path, self.mask_path):
            if not path.exists():
                continue
            stored = tags_of(path)
            if stored.get(_CONTENT) != self.fingerprint.content:
                image = stored.get(_IMAGE, "an unknown image")
                if image == str(self.image.absolute()):
                    return f"{path}: exists already and shows {image} as it was before a change"
                return f"{path}: exists already and shows {image}, which is not {self.image}"
            for name, value in self._tags.items():
                if stored.get(name) != value:
                    return (
                        f"{path}: exists already and belongs to another checkpoint or other"
                        f" settings: its {name} is {stored.get(name)}, not {value}"
                    )
        return None

    def prepare(self) -> None:
        """Creates the folder of the blocks and removes unfinished rasters of killed processes.

        One process calls it before any process uses the blocks.
        """
        self.store.prepare(
            {**self._tags, "BLOCK": str(self.settings.block)},
            {_IMAGE: str(self.image.absolute()), _FILES: self.fingerprint.files},
        )
        for path in (self.probability_path, self.mask_path):
            remove_unfinished(path)

    def limits(self) -> tuple[str | None, str | None]:
        """The mask values mapped to 0 and 1, from the tags of the existing mask raster."""
        tags = tags_of(self.mask_path)
        return tags.get("MASK_LOW"), tags.get("MASK_HIGH")

    def compute(self, mapper: Mapper, block: Block) -> None:
        """Computes the maps of a block and stores them.

        Raises:
            DataError: The image is damaged, or holds values that the network cannot take.
        """
        with self.opened() as read:
            try:
                maps = block_maps(mapper, read, self.grid.shape, block)
            except FloatingPointError as error:
                raise DataError(
                    f"{self.image}: {error}: it holds values that the network cannot take (input):"
                    " give imagery like that of the training"
                ) from error
            self.store.write(block, maps)

    def check_image(self) -> None:
        """Deletes the blocks if the image is not the one that they were begun with.

        Raises:
            DataError: It is another one, or cannot be read.
        """
        known = _known(self.store.tags())
        if fingerprint(self.image, known).content != known.content:
            self.store.remove()
            raise DataError(f"{self.image}: changed while it was mapped (input): map it again")

    @contextmanager
    def opened(self) -> Iterator[ReadPixels]:
        """Opens the image; yields a function that reads its windows with nodata pixels filled.

        Raises:
            DataError: The image is damaged.
        """
        its = self.settings
        with (
            rasterio.Env(GDAL_CACHEMAX=CACHE),
            opened_filled(self.image, its.reading, its.fill, its.white_area) as read,
        ):
            yield read

    def write(self, limits: Range | None) -> None:
        """Writes both rasters from the stored blocks, which must be complete, and deletes them.

        Args:
            limits: Range of the VisualBackProp mask; None if it holds no value.
        """
        scaling, shape = self.settings.scaling, self.cells.cells
        low, high = (0.0, 1.0) if limits is None else (limits.lowest, limits.highest)
        if limits is not None and scaling == "percentile":
            high = limits.percentile
        scaled = scaling != "none"
        tags = self.store.tags()
        scale = {"MASK_LOW": f"{low:.9g}", "MASK_HIGH": f"{high:.9g}"} if scaled else {}
        description = "VisualBackProp: where features are active, for any class"
        placement = self._placement()
        with writing_cog(
            self.mask_path,
            self.grid,
            description,
            tags | scale,
            as_bytes=scaled,
            placement=placement,
        ) as write:
            for block, maps in self.store.read():
                values = stretched(maps.mask, low, high) if scaled else maps.mask
                write(block.row, block.col, values)
        transform = self.grid.transform
        if transform.is_identity:  # without a place, QGIS shows an image with its rows downwards
            transform = Affine.scale(1, -1)
        transform = Affine.identity() if placement.is_known else self.cells.transform(transform)
        description = f"P(road) of the {self.settings.window} px window around each position"
        with writing_cog(
            self.probability_path,
            PixelGrid(*shape, transform, self.grid.crs),
            description,
            tags,
            as_bytes=False,
            placement=placement.of_cells(self.cells.shift, self.cells.step),
        ) as write:
            for block, maps in self.store.read():
                rows, cols = self.cells.block_cells(block)
                write(rows.start, cols.start, maps.probability)
        self.store.remove()

    def _placement(self) -> Placement:
        """What places an image that has no transform."""
        if not self.grid.transform.is_identity:
            return NOWHERE
        with readable(self.image, INPUT_KEY), without_place(), opened_raster(self.image) as raster:
            points, crs = raster.gcps
            return Placement(points, crs, raster.rpcs)

    @property
    def _tags(self) -> dict[str, str]:
        """What the values of the maps depend on."""
        its = self.settings
        inputs: tuple[object, ...] = (its.reading, its.fill, its.window, its.step, its.white_area)
        if its.reading.alpha is not None:
            inputs += (its.reading.alpha,)
        return {
            **its.tags,
            "MASK_SCALING": its.scaling,
            "INPUTS": repr(inputs),
            _CONTENT: self.fingerprint.content,
        }


def _known(tags: Mapping[str, str]) -> Fingerprint:
    return Fingerprint(tags.get(_CONTENT, ""), tags.get(_FILES, ""))


def stretched(mask: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """A mask scaled from [low, high] to [0, 1] and clipped; zeros if the limits are equal."""
    if not high > low:
        return mask * 0
    result: NDArray[np.float32] = np.clip((mask - low) / (high - low), 0, 1).astype(np.float32)
    return result


def scene_job(image: Path, settings: MapSettings, name: str | None = None) -> SceneJob:
    """Checks an image and creates its job.

    Args:
        image: A raster file.
        settings: Shared by all scenes.
        name: Name of the scene; None for the stem of the file name.

    Raises:
        DataError: The file is missing or damaged, has other bands, or is smaller than a window.
    """
    grid = checked_grid(image, settings.reading, len(settings.fill), settings.window)
    return SceneJob(name or image.stem, image, grid, settings)
