"""A scene on its way to its maps: what is computed of it, and what is written when all is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from numpy.typing import NDArray

from vbp_lightning.data.imagery.extent import PixelGrid
from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.data.imagery.unlabelled import ReadPixels, checked_grid, opened_filled
from vbp_lightning.files import remove_unfinished
from vbp_lightning.scene_maps.block_maps import BlockMaps, Mapper
from vbp_lightning.scene_maps.block_store import BlockStore, Range
from vbp_lightning.scene_maps.geotiff import CACHE, RasterPlan, tags_of, writing_cog
from vbp_lightning.scene_maps.output_grid import Block, CellGrid, blocks_of

Scaling = Literal["percentile", "extremes", "none"]

PERCENT = 99.5
"""``scaling=percentile``: what the mask reaches in one of 200 pixels becomes 1."""


@dataclass(frozen=True)
class MapSettings:
    """What the maps of all scenes have in common.

    Args:
        output: Folder of the maps.
        reading: How images are read.
        fill: What pixels without imagery hold, one value for each band.
        window: Side of a window in pixels.
        step: Distance between windows in pixels.
        block: Side of a block in pixels, a multiple of the step.
        scaling: How masks become values in [0, 1]: ``percentile`` maps the least value to 0 and the
            99.5th percentile to 1 and clips, ``extremes`` least and largest, ``none`` leaves them.
            Masks that are laid together from tiles are in [0, 1] already.
        tags: What the values depend on, for the tags of the rasters.
        white_area: Saturated pixels from which a white area of an image is a gap; 0 for never.
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
        name: Of the scene: the maps are named after it.
        image: The raster.
        grid: Where its pixels lie.
        settings: See there.
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
        """The raster of the masks."""
        return self.settings.output / f"{self.name}_visual_backprop.tif"

    @property
    def cells(self) -> CellGrid:
        """The cells of the probability raster."""
        return CellGrid(self.grid.shape, self.settings.window, self.settings.step)

    @cached_property
    def store(self) -> BlockStore:
        """Where the blocks are kept meanwhile."""
        return BlockStore(
            self.settings.output / f".{self.name}.blocks",
            list(blocks_of(self.grid.shape, self.settings.block)),
            self._tags | {"image": str(self.image.resolve()), "block": str(self.settings.block)},
        )

    def state(self) -> Literal["done", "other", "none"]:
        """Whether both maps are there, of these settings or of others."""
        found = [tags_of(path) for path in (self.probability_path, self.mask_path)]
        if all(self._tags.items() <= tags.items() for tags in found):
            return "done"
        exists = self.probability_path.exists() or self.mask_path.exists()
        return "other" if exists else "none"

    def prepare(self) -> None:
        """Makes the folder of the blocks; to be called by one process before any is asked for.

        What killed processes left of the rasters is taken away.
        """
        self.store.prepare()
        for path in (self.probability_path, self.mask_path):
            remove_unfinished(path)

    def limits(self) -> tuple[str | None, str | None]:
        """The mask values that became 0 and 1, as the tags of the mask, which is there, say."""
        tags = tags_of(self.mask_path)
        return tags.get("MASK_LOW"), tags.get("MASK_HIGH")

    def compute(self, mapper: Mapper, block: Block) -> None:
        """Computes a block and keeps it.

        Raises:
            DataError: The image is damaged.
        """
        self.store.write(block, self.maps(mapper, block))

    def maps(self, mapper: Mapper, block: Block) -> BlockMaps:
        """Computes a block.

        Raises:
            DataError: The image is damaged.
        """
        with self.opened() as read:
            return mapper.maps(read, self.grid.shape, block)

    @contextmanager
    def opened(self) -> Iterator[ReadPixels]:
        """Opens the image; yields what reads its windows, gaps filled.

        Raises:
            DataError: The image is damaged.
        """
        its = self.settings
        with (
            rasterio.Env(GDAL_CACHEMAX=CACHE),
            opened_filled(self.image, its.reading, its.fill, its.white_area) as read,
        ):
            yield read

    def write(self, limits: Range | None) -> list[Path]:
        """Writes both rasters from the blocks, all of which are there, and deletes the blocks.

        Args:
            limits: Of the mask; None where it has no value.

        Returns:
            The rasters.
        """
        scaling = self.settings.scaling
        low, high = (0.0, 1.0) if limits is None else (limits.lowest, limits.highest)
        if limits is not None and scaling == "percentile":
            high = limits.percentile
        scale = {"MASK_LOW": f"{low:.9g}", "MASK_HIGH": f"{high:.9g}"}
        probability = RasterPlan(
            self.cells.cells,
            self.cells.transform(self.grid.transform),
            self.grid.crs,
            "float32",
            f"P(road) of the {self.settings.window} px window around each position",
            self._tags,
        )
        mask = RasterPlan(
            self.grid.shape,
            self.grid.transform,
            self.grid.crs,
            "float32" if scaling == "none" else "uint8",
            "VisualBackProp: where features fire, for any class",
            self._tags | ({} if scaling == "none" else scale),
        )
        with writing_cog(self.mask_path, mask) as writer:
            for block, maps in self.store.read():
                values = maps.mask if scaling == "none" else stretched(maps.mask, low, high)
                writer.write(block.row, block.col, values)
        with writing_cog(self.probability_path, probability) as writer:
            for block, maps in self.store.read():
                rows, cols = self.cells.block_cells(block)
                writer.write(rows.start, cols.start, maps.probability)
        self.store.remove()
        return [self.probability_path, self.mask_path]

    @property
    def _tags(self) -> dict[str, str]:
        return {**self.settings.tags, "MASK_SCALING": self.settings.scaling}


def stretched(mask: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """A mask brought to [0, 1] and clipped; zeros where both limits are equal."""
    if not high > low:
        return mask * 0
    result: NDArray[np.float32] = np.clip((mask - low) / (high - low), 0, 1).astype(np.float32)
    return result


def scene_job(image: Path, settings: MapSettings, name: str | None = None) -> SceneJob:
    """The job of an image.

    Args:
        image: A raster.
        settings: See there.
        name: Of the scene; None for the file's.

    Raises:
        DataError: The file is missing or damaged, has other bands, or is smaller than a window.
    """
    grid = checked_grid(image, settings.reading, len(settings.fill), settings.window)
    return SceneJob(name or image.stem, image, grid, settings)
