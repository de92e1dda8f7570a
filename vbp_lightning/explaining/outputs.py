"""The files that the tasks of ``explain.py`` write: pictures, the arrays they show, tables."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig, OmegaConf

from vbp_lightning.files import remove_leftovers, replacing
from vbp_lightning.plotting.display import RGB
from vbp_lightning.plotting.png import write_picture

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def output_folder(cfg: DictConfig) -> Iterator[None]:
    """Makes the folder ``output``, and removes it after the block if it is new and empty.

    What processes that were killed left in it is removed first.

    Args:
        cfg: The composed config of ``explain.py``.

    Raises:
        OSError: The folder cannot be made.
    """
    output = Path(cfg.output)
    is_new = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    remove_leftovers(output)
    try:
        yield
    finally:
        if is_new:
            with suppress(OSError):
                output.rmdir()


def write_results(
    cfg: DictConfig, name: str, picture: RGB, /, **arrays: npt.ArrayLike
) -> Iterator[Path]:
    """Writes ``NAME.png`` and ``NAME.npz`` to the folder ``output``.

    Args:
        cfg: The composed config of ``explain.py``.
        name: File name without suffix.
        picture: ``(H, W, 3)`` uint8.
        **arrays: See :func:`write_arrays`.

    Yields:
        Both files, as they are written.
    """
    output = Path(cfg.output)
    yield write_picture(output / f"{name}.png", picture)
    yield write_arrays(output / f"{name}.npz", cfg, **arrays)


def write_csv(path: Path, table: "pd.DataFrame") -> Path:
    """Writes a table, numbers with six digits; returns the path."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    return path


def write_arrays(path: Path, cfg: DictConfig, /, **arrays: npt.ArrayLike) -> Path:
    """Writes named arrays and the config that they were computed with, completely or not at all.

    Args:
        path: An ``.npz`` file, which loads without ``allow_pickle``.
        cfg: The composed config, saved as YAML under ``config``.
        **arrays: Numbers or strings.

    Returns:
        The path.
    """
    saved = {name: np.asarray(values) for name, values in arrays.items()}
    config = np.array(OmegaConf.to_yaml(cfg))
    with replacing(path) as temporary:
        # NumPy's type stub mistakes the arrays for an option
        np.savez_compressed(temporary, **saved, config=config)  # type: ignore[arg-type]
    return path
