"""The cost of reading tiles: ``python benchmarks/reading.py [memory]``.

All figures are medians of repeated measurements in one process, as ratios to the bare library call
on the same files. Tiles are raw float32 tensors in batches of 64, before augmentation, without
workers. With ``memory``: the peak memory of a process that streams a sparse data set of ten times
its memory budget.
"""

import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyogrio.raw
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.features import rasterize
from rasterio.windows import Window

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import RoadWidths, Scene, VectorLabels
from vbp_lightning.data.imagery.extent import PixelGrid
from vbp_lightning.data.imagery.raster import OpenImage, Reading
from vbp_lightning.data.imagery.vectors import draw_roads, road_shapes
from vbp_lightning.data.tiles.dataset import crops
from vbp_lightning.data.tiles.grid import tile_grid
from vbp_lightning.data.tiles.store import SceneStore
from vbp_lightning.training.preparation import keep_freed_memory

SIZE = 8192
REPEATS = 7
CORNER = Affine(0.5, 0, 4e5, 0, -0.5, 5.4e6)
PROFILE = {
    "driver": "GTiff",
    "dtype": "uint8",
    "tiled": True,
    "blockxsize": 512,
    "blockysize": 512,
    "compress": "deflate",
    "crs": "EPSG:32632",
}


@dataclass(frozen=True)
class Listed:
    """A fixed list of scenes."""

    scenes: tuple[Scene, ...]

    def __call__(self) -> list[Scene]:
        """The scenes."""
        return list(self.scenes)


def seconds(act: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def write(path: Path, bands: np.ndarray, transform: Affine = CORNER) -> Path:
    """A compressed GeoTIFF of 512-pixel tiles."""
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", count=count, height=height, width=width, transform=transform, **PROFILE
    ) as raster:
        raster.write(bands)
    return path


def picture(rng: np.random.Generator) -> np.ndarray:
    """Waves of low frequency with noise, which compress about as well as aerial imagery."""
    rows, cols = np.mgrid[0:SIZE, 0:SIZE]
    waves = 90 + 60 * np.sin(rows / 91) * np.cos(cols / 73)
    return (
        np.stack([waves + rng.normal(0, 4, waves.shape) for _ in range(3)])
        .clip(1, 254)
        .astype(np.uint8)
    )


def made(folder: Path, stride: int) -> RoadTileDataModule:
    """A data module with a large validation scene and small other scenes."""
    scenes = []
    for split, name in (("train", "beside"), ("val", "large"), ("test", "small")):
        scenes.append(Scene(split, folder / f"{name}.tif", folder / f"{name}_roads.tif", split))
    return RoadTileDataModule(Listed(tuple(scenes)), stride=stride, batch_size=64, memory=16)


def tiles(folder: Path) -> None:
    """Reading all tiles of a scene, and reading them again."""
    image = picture(np.random.default_rng(0))
    mask = np.zeros((1, SIZE, SIZE), np.uint8)
    for offset in range(8):
        mask[:, offset::400, :], mask[:, :, offset::700] = 255, 255
    write(folder / "large.tif", image)
    write(folder / "large_roads.tif", mask)
    write(folder / "small.tif", image[:, :512, :512])
    write(folder / "small_roads.tif", mask[:, :512, :512])
    beside = CORNER * Affine.translation(2 * SIZE, 0)  # no overlap of the splits
    write(folder / "beside.tif", image[:, :512, 512:1024], beside)
    write(folder / "beside_roads.tif", mask[:, :512, 512:1024], beside)

    def bare() -> None:
        with rasterio.open(folder / "large.tif") as raster:
            raster.read()

    def cut(bands: np.ndarray, places: np.ndarray) -> None:
        store = SceneStore([bands], [], np.zeros(len(bands)), is_streamed=False)
        for start in range(0, len(places), 64):
            crops(store, places[start : start + 64], 96, 0)

    strides = {96: 1.25, 48: 1.6}
    reads: list[float] = []
    taken: dict[tuple[str, int], list[float]] = {}
    for _ in range(REPEATS):
        reads.append(seconds(bare))
        for stride in strides:
            grid = tile_grid((SIZE, SIZE), 96, stride, cover_edges=False)
            places = np.insert(grid, 0, 0, axis=1)
            start = time.perf_counter()
            with (
                rasterio.Env(GDAL_NUM_THREADS=os.cpu_count()),
                OpenImage(folder / "large.tif", Reading()) as image,
            ):
                bands, _ = image.read()
            cut(bands, places)
            taken.setdefault(("read", stride), []).append(time.perf_counter() - start)
            start = time.perf_counter()
            module = made(folder, stride)
            module.setup()
            taken.setdefault(("setup", stride), []).append(time.perf_counter() - start)
            count = len(module.tiles_of("val"))
            for _ in module.predict_dataloader(["val"])[0]:
                pass
            start = time.perf_counter()
            for _ in module.predict_dataloader(["val"])[0]:
                pass
            again = (time.perf_counter() - start) / count * 1e6
            taken.setdefault(("again", stride), []).append(again)
    read = statistics.median(reads)
    print(f"bare read of {SIZE} × {SIZE} × 3: {read:.2f} s")
    for stride, limit in strides.items():
        ours, setup, again = (
            statistics.median(taken[what, stride]) for what in ("read", "setup", "again")
        )
        print(
            f"stride {stride}: all tiles {ours / read:.2f} times that (limit {limit}), with mask, "
            f"labels and statistics {setup / read:.2f}; "
            f"later epochs {again:.1f} µs per tile (limit 20)"
        )


def roads(folder: Path) -> None:
    """Rasterising vector roads on a scene of 10 000 × 10 000 pixels."""
    rng = np.random.default_rng(0)
    starts = np.array([4e5, 5.4e6 - 5000]) + rng.random((20_000, 1, 2)) * 5000
    lines = shapely.linestrings(starts + np.cumsum(rng.normal(0, 20, (20_000, 6, 2)), axis=1))
    path = folder / "roads.gpkg"
    pyogrio.raw.write(
        path, shapely.to_wkb(lines), [], [], crs="EPSG:32632", geometry_type="LineString"
    )
    grid = PixelGrid(10_000, 10_000, CORNER, CRS.from_epsg(32632))
    labels = VectorLabels(path, widths=RoadWidths(6.0))
    shapes = road_shapes(labels, grid)
    ours, bare = [], []
    for _ in range(REPEATS):
        path.touch()  # invalidates the cached file
        ours.append(seconds(lambda: draw_roads(road_shapes(labels, grid), grid)))
        bare.append(seconds(lambda: rasterize(shapes, grid.shape, transform=grid.transform)))
    ratio = statistics.median(ours) / statistics.median(bare)
    print(
        f"20 000 lines on {grid.width} × {grid.height} px: {statistics.median(ours):.2f} s, "
        f"{ratio:.2f} of bare rasterize (limit 2)"
    )


PEAK = """
import resource, sys
from vbp_lightning.data import PatternScenes, RoadTileDataModule
module = RoadTileDataModule(PatternScenes(sys.argv[1]), tiles_per_epoch=6400, val_fraction=0.2,
                            test_fraction=0.2)
module.setup()
for batch in module.train_dataloader():
    pass
for batch in module.val_dataloader():
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def memory(folder: Path) -> None:
    """Peak memory on a sparse data set of 20 GiB with the default budget of 2 GiB."""
    size, scenes = 27_000, 10
    for name, count in (("images", 3), ("masks", 1)):
        (folder / name).mkdir()
        for number in range(scenes):
            place = Affine(0.5, 0, 1e5 + 2e4 * number, 0, -0.5, 5e6)
            with rasterio.open(
                folder / name / f"{number}.tif",
                "w",
                count=count,
                height=size,
                width=size,
                transform=place,
                sparse_ok=True,
                **PROFILE,
            ) as raster:
                block = np.full((count, 512, 512), 255, np.uint8)
                if name == "images":
                    block = np.random.default_rng(number).integers(0, 255, block.shape, np.uint8)
                raster.write(block, window=Window(0, 0, 512, 512))
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(folder)], capture_output=True, text=True, check=True
    )
    print(
        f"{scenes * size * size * 3 / 2**30:.1f} GiB of imagery: peak {float(done.stdout):.2f} GiB "
        f"(limit 2), {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    keep_freed_memory()  # as train.py does
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    with tempfile.TemporaryDirectory() as temporary:
        if "memory" in sys.argv[1:]:
            memory(Path(temporary))
        else:
            tiles(Path(temporary))
            roads(Path(temporary))
    print(
        f"peak of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )
