"""The gallery that a run leaves: every validation tile with its masks and its label."""

from collections.abc import Callable, Iterator
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from torch import Tensor

from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.files import file_digest
from vbp_lightning.gallery.collecting import GallerySource, gallery
from vbp_lightning.gallery.page import MOST_TILES
from vbp_lightning.models import RoadClassifier


def write_run_gallery(
    cfg: DictConfig,
    run_dir: Path,
    model: RoadClassifier,
    datamodule: RoadTileDataModule,
    probabilities: Tensor,
) -> Iterator[Path]:
    """Writes ``gallery.html`` of the validation split, if the settings ask for it.

    Args:
        cfg: The composed config of ``train.py``.
        run_dir: The run's folder.
        model: With the weights that the run ends with.
        datamodule: Set up.
        probabilities: ``(N,)`` P(road) of the validation tiles by the model.

    Yields:
        Each file when it is finished.

    Raises:
        OSError: A file cannot be written.
    """
    tiles = datamodule.tiles_of("val")
    wanted = cfg.get("gallery")  # older runs lack it
    if wanted is None:
        is_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        wanted = not is_sweep and len(tiles) <= MOST_TILES
    if not wanted:
        return

    def masks(upsampling: str) -> Callable[[Tensor], Tensor]:
        method = VisualBackProp(model, upsampling)
        return lambda tiles: method.attribute(tiles.to(model.device))

    names = [cfg.upsampling.name] if isinstance(cfg.upsampling.name, str) else cfg.upsampling.name
    best = run_dir / "checkpoints" / "best.ckpt"
    yield from gallery(
        run_dir,
        "gallery",
        f"{run_dir.name}, split val",
        GallerySource.of_data(datamodule, tiles),
        probabilities.double().cpu().numpy(),
        {f"VisualBackProp, {name}": masks(name) for name in names},
        threshold=float(model.threshold),
        checkpoint=file_digest(best) if best.is_file() else "",
    )
