"""Small scenes on disk, made by the tests themselves."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import Scene, Split


def write_raster(path: Path, pixels: np.ndarray, **profile: object) -> Path:
    """Writes (C, H, W) or (H, W) pixels as a GeoTIFF."""
    bands = pixels[None] if pixels.ndim == 2 else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path,
            "w",
            driver=profile.pop("driver", "GTiff"),
            count=bands.shape[0],
            height=bands.shape[1],
            width=bands.shape[2],
            dtype=bands.dtype,
            **profile,
        ) as raster:
            raster.write(bands)
    return path


@pytest.fixture
def write() -> Callable[..., Path]:
    return write_raster


@dataclass(frozen=True)
class ListedScenes:
    """A layout whose scenes are given."""

    scenes: tuple[Scene, ...]

    def __call__(self) -> list[Scene]:
        return list(self.scenes)


def road_mask(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A wide road in the left part of a scene, a thin one in its middle, none on the right."""
    mask = np.zeros((height, width), np.uint8)
    left = int(rng.integers(2, 8))
    mask[:, left : left + 5] = 255
    mask[height // 2, : width // 2] = 255
    return mask


@pytest.fixture
def listed() -> type[ListedScenes]:
    return ListedScenes


@pytest.fixture
def make_scene(tmp_path: Path) -> Callable[..., Scene]:
    """Writes a scene of random bands and its mask."""

    def make(
        name: str,
        split: Split | None = "train",
        *,
        seed: int = 0,
        height: int = 64,
        width: int = 80,
        bands: int = 3,
        image: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        **profile: object,
    ) -> Scene:
        rng = np.random.default_rng((seed, *name.encode()))
        if image is None:
            image = rng.integers(1, 255, (bands, height, width), dtype=np.uint8)
        if mask is None:
            mask = road_mask(rng, *image.shape[1:])
        place = {key: profile[key] for key in ("crs", "transform") if key in profile}
        return Scene(
            name,
            write_raster(tmp_path / f"{name}.tif", image, **profile),
            write_raster(tmp_path / f"{name}_roads.tif", mask, **place),
            split,
        )

    return make


@pytest.fixture
def make_datamodule(make_scene: Callable[..., Scene]) -> Callable[..., RoadTileDataModule]:
    """A data module on two scenes of each split, 64 × 80 px, with tiles of 16 px."""

    def make(**settings: object) -> RoadTileDataModule:
        scenes = tuple(
            make_scene(
                f"{split}{number}",
                split,
                crs="EPSG:32632",
                transform=Affine(0.5, 0, 4e5 + 1000 * place + 100 * number, 0, -0.5, 5e6),
            )
            for place, split in enumerate(("train", "val", "test"))
            for number in range(2)
        )
        defaults: dict[str, object] = {"tile_size": 16, "batch_size": 8, "road_share": 0.1}
        return RoadTileDataModule(ListedScenes(scenes), **(defaults | settings))  # type: ignore[arg-type]

    return make


@pytest.fixture
def datamodule(make_datamodule: Callable[..., RoadTileDataModule]) -> RoadTileDataModule:
    made = make_datamodule()
    made.setup()
    return made


@pytest.fixture
def attach() -> Callable[..., None]:
    """Attaches a stand-in for a trainer: its epoch, its rank and its number of processes."""

    def attached(
        datamodule: RoadTileDataModule, rank: int = 0, world_size: int = 1, epoch: int = 0
    ) -> None:
        datamodule.trainer = SimpleNamespace(  # type: ignore[assignment]
            global_rank=rank,
            accelerator=None,
            world_size=world_size,
            is_global_zero=rank == 0,
            current_epoch=epoch,
            overfit_batches=0.0,
        )

    return attached
