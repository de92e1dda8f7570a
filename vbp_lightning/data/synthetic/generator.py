"""The procedural scenes as a data source: written to files once, then re-used."""

import json
import logging
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from pydantic import Field, StrictInt, model_validator
from pydantic.dataclasses import dataclass
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from rich.console import Console
from rich.progress import track

from vbp_lightning.data.datasets.scene import DataError, Scene, Split
from vbp_lightning.data.datasets.virtual_path import VirtualPath, source_path
from vbp_lightning.data.synthetic.render import TILE_SIZE, render_scene
from vbp_lightning.data.synthetic.stamps import cast_along_roads, stamp_beside_roads
from vbp_lightning.files import file_digest, remove_leftovers, replacing
from vbp_lightning.records import RECORD, Count, PathName, PositiveCount

GENERATOR_VERSION = 1
"""Increased whenever the same seed gives other pixels."""
UTM_ZONE = 32632
"""EPSG code of WGS 84 / UTM zone 32N: metres."""
ORIGIN = (400_000.0, 5_400_000.0)
"""Upper-left corner of the first scene: easting and northing, metres."""
SPACING = 10_000.0
"""Distance between the corners of two scenes on the map, metres."""
MIN_SIZE = 2 * TILE_SIZE
_SPLIT_OF_FIVE: tuple[Split, ...] = ("train", "test", "val", "train", "train")
"""The splits of five consecutive scenes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, config=RECORD)
class SyntheticScenes:
    """Procedural aerial scenes with their road masks, written as GeoTIFFs on first use.

    Every scene holds at least one tile of 96 px with a road share of 5 % and one without any road.
    The road mask is the exact surface of the roads, also under tree crowns, shadows and cars.
    Verges, pavements, car parks with their aisles and driveways, yards and railways are not road.
    The splits are fixed, 60 / 20 / 20 % by scene, so that all runs on the same scenes are tested on
    the same pixels, independent of their seeds.

    The files are in a folder of ``root`` that is named after the settings. A manifest lists the
    finished scenes with their checksums. Files that are not listed or have another checksum are
    written again, which completes an interrupted run and replaces damaged files.

    Args:
        root: Folder for the scenes of all settings.
        seed: Seed of the series, not negative. The same seed gives the same bytes (with the same
            versions of NumPy, SciPy and GDAL).
        scenes: Number of scenes, from 3 (one for each split) to 100 000.
        size: Height and width of a scene, pixels, from 192 to 8192. The ground sampling distance
            is 0.5 to 0.8 m, drawn for each scene.
        mark: Amplitude, in grey levels, of a faint mark beside the roads of training and validation
            scenes. Test scenes have none, so that a network that relies on it fails there. 0 for no
            mark.
        cast: Strength, in grey levels, of a reddish cast along the roads of the same scenes, also
            absent from test scenes. 0 for no cast.
        workers: Number of rendering threads. They do not change the result.

    Raises:
        DataError: The folder cannot be written.

    Example:
        >>> scenes = SyntheticScenes("data/synthetic", seed=1, scenes=6, size=192)()
        >>> scenes[0].name, scenes[0].split
        ('scene_000', 'train')
    """

    root: PathName
    seed: Count = 0
    scenes: Annotated[StrictInt, Field(ge=3, le=100_000)] = 144
    size: Annotated[StrictInt, Field(ge=MIN_SIZE, le=8192)] = 480
    mark: Annotated[Count, Field(le=255)] = 0
    cast: Annotated[Count, Field(le=255)] = 0
    workers: Annotated[PositiveCount, Field(le=256)] = 2

    @model_validator(mode="after")
    def _check_root(self) -> Self:
        if isinstance(source_path(self.root), VirtualPath):
            raise ValueError(f"root={self.root}: scenes are written there: name a folder on disk")
        return self

    def __call__(self) -> list[Scene]:
        """Writes what is missing and returns the scenes in order.

        Processes that need the same scenes wait while one of them writes.
        """
        try:
            if self._missing(self._finished()):
                self.folder.mkdir(parents=True, exist_ok=True)
                with FileLock(self.root / f".{self.folder.name}.lock"):
                    remove_leftovers(self.folder)
                    self._complete()
        except OSError as error:
            raise DataError(
                f"{error.filename or self.folder}: the procedural scenes cannot be written:"
                f" {error.strerror or error} (data.root): make room or choose another folder, then"
                " repeat the command"
            ) from error
        return [self._scene(index) for index in range(self.scenes)]

    def missing(self) -> int:
        """The number of scenes that calling the object would write."""
        return len(self._missing(self._finished()))

    @property
    def folder(self) -> Path:
        """The folder of the scenes of these settings."""
        settings = f"seed{self.seed}_{self.scenes}x{self.size}px_v{GENERATOR_VERSION}"
        if self.mark:
            settings += f"_mark{self.mark}"
        if self.cast:
            settings += f"_cast{self.cast}"
        return self.root / settings

    @property
    def manifest(self) -> Path:
        """The list of finished scenes."""
        return self.folder / "manifest.json"

    def _scene(self, index: int) -> Scene:
        name = f"scene_{index:03d}"
        split = _SPLIT_OF_FIVE[index % len(_SPLIT_OF_FIVE)]
        return Scene(name, self.folder / f"{name}.tif", self._mask_of(name), split)

    def _mask_of(self, name: str) -> Path:
        return self.folder / f"{name}_roads.tif"

    def _settings(self) -> dict[str, int]:
        return {
            "generator": GENERATOR_VERSION,
            "seed": self.seed,
            "scenes": self.scenes,
            "size": self.size,
        } | {name: own for name in ("mark", "cast") if (own := getattr(self, name))}

    def _complete(self) -> None:
        finished = self._finished()
        missing = self._missing(finished)
        if not missing:  # another process has written them in the meantime
            return
        console = Console(stderr=True)
        with ThreadPoolExecutor(self.workers) as pool:
            jobs: Iterator[tuple[str, dict[str, str]]] = pool.map(self._write, missing)
            for name, checksums in track(
                jobs,
                "Writing procedural scenes",
                total=len(missing),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            ):
                finished[name] = checksums
                self._record(finished)
        log.info("%d procedural scenes written to %s", len(missing), self.folder)

    def _missing(self, finished: Container[str]) -> list[int]:
        return [index for index in range(self.scenes) if f"scene_{index:03d}" not in finished]

    def _finished(self) -> dict[str, dict[str, str]]:
        """Checksums of the complete scenes of these settings."""
        try:
            record: Any = json.loads(self.manifest.read_text(encoding="utf-8"))
            if record["settings"] != self._settings():
                return {}
            listed: dict[str, dict[str, str]] = record["scenes"]
            return {name: sums for name, sums in listed.items() if self._is_whole(sums)}
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _is_whole(self, checksums: dict[str, str]) -> bool:
        try:
            return all(file_digest(self.folder / file) == sum_ for file, sum_ in checksums.items())
        except FileNotFoundError:
            return False

    def _record(self, finished: dict[str, dict[str, str]]) -> None:
        record = {"settings": self._settings(), "scenes": dict(sorted(finished.items()))}
        with replacing(self.manifest) as path:
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def _write(self, index: int) -> tuple[str, dict[str, str]]:
        rendering = render_scene(self.seed, index, self.size)
        scene = self._scene(index)
        corner = (ORIGIN[0] + SPACING * (index % 10), ORIGIN[1] - SPACING * (index // 10))
        mask = np.where(rendering.roads, np.uint8(255), np.uint8(0))[None]
        image = rendering.image
        if self.cast and scene.split != "test":
            image = cast_along_roads(image, rendering.roads, self.cast)
        if self.mark and scene.split != "test":
            chance = np.random.default_rng([self.seed, index, self.mark])
            image = stamp_beside_roads(image, rendering.roads, self.mark, chance)
        _write_raster(scene.image, image, rendering.pixel, corner)
        _write_raster(self._mask_of(scene.name), mask, rendering.pixel, corner)
        files = (scene.image, self._mask_of(scene.name))
        return scene.name, {path.name: file_digest(path) for path in files}


def _write_raster(
    path: Path, bands: npt.NDArray[np.uint8], pixel: float, corner: tuple[float, float]
) -> None:
    """Writes ``(bands, H, W)`` as a tiled, DEFLATE-compressed GeoTIFF."""
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": bands.shape[0],
        "height": bands.shape[1],
        "width": bands.shape[2],
        "crs": CRS.from_epsg(UTM_ZONE),
        "transform": Affine(pixel, 0.0, corner[0], 0.0, -pixel, corner[1]),
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "predictor": 2,
        "zlevel": 4,
        "photometric": "rgb" if bands.shape[0] == 3 else "minisblack",
        "interleave": "pixel",
    }
    # GDAL ignores errors of the disk while it closes a raster
    with MemoryFile() as memory:
        with memory.open(**profile) as raster:
            raster.write(bands)
            if bands.shape[0] == 3:
                raster.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        with replacing(path) as temporary:
            temporary.write_bytes(memory.getbuffer())
