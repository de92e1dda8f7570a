"""The files that every task of ``explain.py`` leaves: pictures, and the arrays behind them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig, OmegaConf

from vbp_lightning.files import replacing
from vbp_lightning.plotting.display import RGB
from vbp_lightning.plotting.png import compress_page, encode_png

RAW_UNIT = "that of the imagery"


def write_picture(path: Path, picture: RGB) -> Path:
    """Writes ``(H, W, 3)`` uint8 as a PNG, in one piece or not at all; returns the path."""
    with replacing(path) as temporary:
        temporary.write_bytes(encode_png([compress_page(picture)]))
    return path


def write_arrays(
    path: Path, cfg: DictConfig, units: Mapping[str, str], **arrays: npt.ArrayLike
) -> Path:
    """Writes named arrays with the config that they come from, in one piece or not at all.

    Args:
        path: An ``.npz`` file; loads without ``allow_pickle``.
        cfg: The composed config, kept as YAML under ``config``.
        units: What the numbers of an array are counted in, kept as ``name: unit`` lines under
            ``units``; arrays that are left out hold names, counts or numbers of things.
        **arrays: Numbers or strings.

    Returns:
        The path.
    """
    kept = {name: np.asarray(values) for name, values in arrays.items()}
    with replacing(path) as temporary:
        np.savez_compressed(
            temporary,
            **kept,  # type: ignore[arg-type]  # numpy's stub takes them for its own option
            units=np.array([f"{name}: {unit}" for name, unit in units.items()], dtype=str),
            config=np.array(OmegaConf.to_yaml(cfg)),
        )
    return path
