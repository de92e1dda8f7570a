"""What the tasks share: tiles in batches, names, settings' faults."""

from collections.abc import Iterator
from contextlib import contextmanager

from omegaconf import DictConfig
from torch import Tensor

from vbp_lightning.callbacks.mask_panels import LABEL_NAMES
from vbp_lightning.cli import shown_progress
from vbp_lightning.errors import UserError, one_line
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.explaining.tile_sources import TileSource
from vbp_lightning.models import Normalize

_BATCH = 64


def in_batches(source: TileSource, what: str) -> Iterator[Tensor]:
    """All tiles in order, some at a time, with progress shown."""
    count = len(source.places)
    for start in shown_progress(range(0, count, _BATCH), what):
        yield source.read(range(start, min(start + _BATCH, count)))


def counts_checked(cfg: DictConfig, *names: str) -> None:
    """Refuses settings that are no number of at least 1.

    Raises:
        UserError: Names the first of them.
    """
    for name in names:
        if not isinstance(cfg[name], int) or cfg[name] < 1:
            raise UserError(f"{name}={cfg[name]}: give a number of at least 1")


def scale_checked(cfg: DictConfig) -> None:
    """Refuses a ``scale`` that is neither ``each`` nor ``shared``."""
    if cfg.scale not in ("each", "shared"):
        raise UserError(f"scale={cfg.scale}: choose each or shared")


@contextmanager
def setting_errors() -> Iterator[None]:
    """Turns what the functions of this package say of a setting into one line for the user."""
    try:
        yield
    except ValueError as error:
        raise UserError(one_line(error)) from error


def label_names(source: TileSource) -> list[str]:
    """``road``, ``non-road`` or ``ignored`` of each tile; ``tile`` where labels are not known."""
    if not source.known:
        return ["tile"] * len(source.places)
    return [LABEL_NAMES[tile.label] for tile in source.known]


def layer_name(name: str) -> str:
    """What people call a layer: its name inside the network."""
    return name.removeprefix("network.")


def has_tiles(cfg: DictConfig, subject: Subject) -> bool:
    """Whether there is imagery to look at: an input, or the data of a run."""
    known = subject.classifier is not None and subject.classifier.hparams["data"] is not None
    return cfg.input is not None or known


def statistics_of(subject: Subject) -> Normalize:
    """The layer that says what the network takes for mean and standard deviation of each band."""
    found = [module for module in subject.model.modules() if isinstance(module, Normalize)]
    return found[0]
