"""The callback that logs VisualBackProp masks of the same validation tiles every epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from pydantic import Field, StrictInt
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.callbacks.event_checksum import use_fast_event_checksums
from vbp_lightning.callbacks.pictures import log_picture
from vbp_lightning.callbacks.tile_data import tile_data
from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.tiles.selection import (
    TileGroup,
    choose_by_share,
    choose_example_predictions,
)
from vbp_lightning.data.tiles.tile import Label, LabelledTile
from vbp_lightning.files import replacing
from vbp_lightning.models.custom_network import road_logits
from vbp_lightning.plotting.chain_figure import ChainStep, chain_figure
from vbp_lightning.plotting.display import RGB, to_rgb
from vbp_lightning.plotting.mask_panel import TILES_PER_PAGE, TileCaption, mask_panel, truth_heading
from vbp_lightning.plotting.png import compress_page, encode_png
from vbp_lightning.records import checked
from vbp_lightning.settings import UpsamplingNames

PANELS_FOLDER = "panels"
LABEL_NAMES = {Label.ROAD: "road", Label.NON_ROAD: "non-road", Label.IGNORED: "ignored"}


@dataclass(frozen=True)
class _ShownTiles:
    """The tiles of a sheet with their context, read and stretched for display once."""

    groups: list[TileGroup]
    records: dict[int, LabelledTile]
    raw: Tensor
    rgb: RGB
    context: int

    @classmethod
    def read(cls, datamodule: RoadTileDataModule, groups: list[TileGroup]) -> "_ShownTiles":
        tiles = datamodule.tiles_of("val")
        records = {i: tiles[i] for i in sorted({i for group in groups for i in group.indices})}
        raw = datamodule.read_tiles(list(records.values()))
        return cls(groups, records, raw, to_rgb(raw.numpy()), datamodule.context)


class MaskPanels(pl.Callback):
    """Logs VisualBackProp masks of the same validation tiles every epoch, of examples at the end.

    Every page holds up to four tiles, each as tile, VisualBackProp mask and mask laid over the
    tile, with true label, road share and P(road); wrong predictions are marked. With context, the
    mask is computed over the whole input and shown for the tile alone. The pages are logged to
    every logger that takes pictures as ``panel/validation/…`` with the epoch as the step, and
    stacked in ``panels/epoch_003.png`` in the trainer's ``default_root_dir``.

    Any module serves that takes raw tiles and returns ``(N, 1)`` logits or ``(N, 2)`` scores of
    non-road and road, if ``trainer.fit`` gets a
    :class:`~vbp_lightning.data.datamodule.RoadTileDataModule`. Its attribute ``threshold``, if it
    has one, is the P(road) from which a tile is called road, else 0.5.

    Training is the same to the last bit with and without this callback: no random number is drawn,
    and every module keeps its mode. Nothing is logged in the sanity check, and only the process of
    global rank zero computes and writes.

    Args:
        upsampling: Upsampling of VisualBackProp, or several: shown side by side.
        tiles: Number of validation tiles, at least 4, divided evenly among the groups.

    Raises:
        ValueError: ``tiles`` is below 4, or there is no such upsampling, or one twice.
    """

    @checked
    def __init__(
        self,
        upsampling: UpsamplingNames = "deconv_normalized",
        tiles: Annotated[StrictInt, Field(ge=4)] = 16,
    ) -> None:
        self.upsampling = (upsampling,) if isinstance(upsampling, str) else tuple(upsampling)
        self.tiles = tiles
        self._shown: _ShownTiles | None = None
        use_fast_event_checksums()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Makes the trainer's folder, and discards the tiles of an earlier fit."""
        Path(trainer.default_root_dir).mkdir(parents=True, exist_ok=True)
        self._shown = None
        if stage == "fit":
            tile_data(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the epoch's panels; the epoch's decision threshold is known by now.

        Raises:
            OSError: The PNG cannot be written.
        """
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not fitting or not trainer.is_global_zero:
            return
        if self._shown is None:
            datamodule = tile_data(trainer)
            groups = choose_by_share(datamodule.tiles_of("val"), self.tiles)
            self._shown = _ShownTiles.read(datamodule, groups)
        epoch = trainer.current_epoch
        pages = self._pages(pl_module, self._shown, f"epoch {epoch}: ")
        _publish(trainer, "validation", f"epoch_{epoch:03d}", pages, epoch)

    def log_example_predictions(
        self,
        trainer: pl.Trainer,
        model: pl.LightningModule,
        datamodule: RoadTileDataModule,
        probabilities: Tensor,
    ) -> None:
        """Logs confident true positives and false negatives, false positives and borderline tiles.

        To be called after the fit with the weights that the run ends with. Logs
        ``panel/examples/…`` and ``panel/chain`` with the last epoch as the step, and writes
        ``panels/example_predictions.png`` and ``panels/chain.png``. The chain is that of the most
        confident true positive, or of the first tile if there is none. Does nothing in processes
        other than global rank zero.

        Args:
            trainer: The trainer of the fit: gives loggers, folder and epoch.
            model: With the weights and the threshold that ``probabilities`` come from.
            datamodule: Set up; its validation tiles are shown.
            probabilities: ``(N,)`` P(road) of ``datamodule.tiles_of("val")``, in that order.

        Raises:
            OSError: A PNG cannot be written.
            ValueError: The numbers of probabilities and tiles differ.
        """
        if not trainer.is_global_zero:
            return
        tiles = datamodule.tiles_of("val")
        if probabilities.shape != (len(tiles),):
            raise ValueError(
                f"probabilities has the shape {tuple(probabilities.shape)}; "
                f"give one for each of the {len(tiles)} validation tiles"
            )
        groups = choose_example_predictions(
            tiles, probabilities.double().cpu().numpy(), _threshold_of(model), self.tiles
        )
        shown = _ShownTiles.read(datamodule, groups)
        pages = self._pages(model, shown, "after the fit: ", probabilities)
        # after a fit, current_epoch is the number of epochs
        epoch = max(0, trainer.current_epoch - 1)
        _publish(trainer, "examples", "example_predictions", pages, epoch)
        chains = {each: self._chain(model, shown, each) for each in self.upsampling}
        if len(chains) == 1:
            _publish(trainer, "", "chain", {"chain": chains[self.upsampling[0]]}, epoch)
        else:
            _publish(trainer, "chain", "chain", chains, epoch)

    def _pages(
        self,
        model: pl.LightningModule,
        shown: _ShownTiles,
        occasion: str,
        known: Tensor | None = None,
    ) -> dict[str, RGB]:
        """The pages of a sheet by the last part of their tag; ``known``: P(road) of all tiles."""
        raw, (first, *others) = shown.raw.to(model.device), self.upsampling
        outputs, masks = VisualBackProp(model, first).attribute_with_logits(raw)
        by_name = {first: masks}
        by_name |= {other: VisualBackProp(model, other).attribute(raw) for other in others}
        if known is None:
            probabilities = _road_probabilities(outputs).tolist()
        else:
            probabilities = known[list(shown.records)].tolist()
        threshold = _threshold_of(model)
        own = slice(shown.context, masks.shape[-1] - shown.context)
        tiles = shown.rgb[:, own, own]
        planes = {
            name: each.squeeze(1).float().cpu().numpy()[:, own, own]
            for name, each in by_name.items()
        }
        captions = [
            tile_caption(tile, probability, threshold)
            for tile, probability in zip(shown.records.values(), probabilities, strict=True)
        ]
        place = {index: number for number, index in enumerate(shown.records)}
        pages = {}
        for group in shown.groups:
            for number, indices in enumerate(_chunks(group.indices)):
                places = [place[index] for index in indices]
                name = group.name if number == 0 else f"{group.name}_{number + 1}"
                pages[name] = mask_panel(
                    tiles[places],
                    {name: each[places] for name, each in planes.items()},
                    [captions[one] for one in places],
                    occasion + group.title,
                    f"road if P ≥ {threshold:.3f}",
                    [_note(*self.upsampling)],
                )
        return pages

    def _chain(self, model: pl.LightningModule, shown: _ShownTiles, upsampling: str) -> RGB:
        """The chain figure of the first tile of the first group that has one."""
        first = next(group.indices[0] for group in shown.groups if group.indices)
        place = list(shown.records).index(first)
        raw = shown.raw[place : place + 1].to(model.device)
        chain = VisualBackProp(model, upsampling).chain(raw)
        steps = [
            ChainStep(_short_name(name), _plane(averaged), _plane(mask))
            for name, averaged, mask in zip(chain.names, chain.maps, chain.masks, strict=True)
        ]
        return chain_figure(
            shown.rgb[place],
            steps[::-1],
            _plane(chain.mask),
            "after the fit: how one mask is computed",
            [_note(upsampling)],
        )


def _note(*upsamplings: str) -> str:
    shown = f" ({upsamplings[0]})" if len(upsamplings) == 1 else ""
    return f"VisualBackProp{shown}: where features fire, not for which class"


def tile_caption(tile: LabelledTile, probability: float, threshold: float) -> TileCaption:
    """The caption of a labelled tile; ignored tiles have no class and are never marked as wrong.

    Args:
        tile: Gives label and road share.
        probability: Estimated P(road).
        threshold: P(road) from which a tile is called road.
    """
    wrong = tile.label != Label.IGNORED and (probability >= threshold) != (tile.label == Label.ROAD)
    return TileCaption(truth_heading(LABEL_NAMES[tile.label], tile.share), probability, wrong)


def _threshold_of(model: pl.LightningModule) -> float:
    """P(road) from which a module calls a tile road: its attribute ``threshold``, or 0.5."""
    threshold: Any = getattr(model, "threshold", 0.5)
    return float(threshold)


def _road_probabilities(outputs: Tensor) -> Tensor:
    """P(road) ``(N,)``, float64, of logits ``(N, 1)`` or scores of non-road and road ``(N, 2)``.

    Raises:
        ValueError: The outputs have another shape.
    """
    if outputs.shape[1:] not in ((1,), (2,)):
        raise ValueError(
            f"MaskPanels: the module returns {tuple(outputs.shape)} for {len(outputs)} tiles; give"
            " one of (N, 1) logits, or (N, 2) scores of non-road and road"
        )
    return road_logits(outputs.cpu().double()).sigmoid()[:, 0]


def _short_name(activation: str) -> str:
    """The name of an activation in its network, without its index in a block of a road network."""
    name = activation.removeprefix("network.").removeprefix("backbone.")
    block, _, index = name.rpartition(".")
    return block if block and index.isdigit() else name


def _chunks(indices: Sequence[int]) -> list[Sequence[int]]:
    """The tiles of each page of a group; a group without tiles gets an empty page."""
    starts = range(0, max(len(indices), 1), TILES_PER_PAGE)
    return [indices[start : start + TILES_PER_PAGE] for start in starts]


def _plane(values: Tensor) -> npt.NDArray[np.float32]:
    """The only plane of ``(1, 1, h, w)``."""
    plane: npt.NDArray[np.float32] = values[0, 0].float().cpu().numpy()
    return plane


def _publish(trainer: pl.Trainer, tag: str, name: str, pages: dict[str, RGB], epoch: int) -> None:
    """Writes the pages, stacked, as a PNG in the run's folder and each to the loggers.

    Args:
        trainer: Gives folder and loggers.
        tag: Under ``panel/``; empty for none.
        name: Of the file, without suffix.
        pages: By the last part of the tag, all of one width.
        epoch: The step.

    Raises:
        OSError: The file cannot be written; an older one is left as it was.
    """
    compressed = {key: compress_page(pixels) for key, pixels in pages.items()}
    path = Path(trainer.default_root_dir) / PANELS_FOLDER / f"{name}.png"
    with replacing(path, subfolder=True) as temporary:
        temporary.write_bytes(encode_png(list(compressed.values())))
    for key, page in compressed.items():
        full_tag, png = "/".join(part for part in ("panel", tag, key) if part), encode_png([page])
        for logger in trainer.loggers:
            log_picture(logger, full_tag, png, epoch)
