"""The attribution methods that the config names, applied to tiles."""

import numpy as np
import numpy.typing as npt
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from vbp_lightning.attribution import UnsupportedNetworkError
from vbp_lightning.errors import UserError, reason
from vbp_lightning.runs.progress import progress_bar


def chosen_methods(cfg: DictConfig) -> list[str]:
    """The names of the methods to apply.

    Args:
        cfg: The composed config of ``explain.py``: ``method`` is a name, a list of names, or
            ``all``.

    Raises:
        UserError: A name is unknown; the line lists those that are known.
    """
    known = list(cfg.methods)
    if cfg.method == "all":
        return known
    names = [cfg.method] if isinstance(cfg.method, str) else list(cfg.method)
    unknown = [str(name) for name in names if name not in known]
    if unknown or not names:
        raise UserError(
            f"method={','.join(unknown) or '[]'}: choose among {', '.join(known)}, a list of them,"
            " or all"
        )
    return names


def attributions(
    cfg: DictConfig, model: nn.Module, tiles: Tensor, target: int | None
) -> dict[str, npt.NDArray[np.float32]]:
    """The maps of all chosen methods.

    Methods that cannot explain this network are left out where all were asked for, and said so.

    Args:
        cfg: The composed config of ``explain.py``.
        model: What is explained.
        tiles: ``(N, C, H, W)``.
        target: A class, or None.

    Returns:
        ``(N, H, W)`` by method.

    Raises:
        UserError: A method that was asked for cannot be applied.
    """
    maps: dict[str, npt.NDArray[np.float32]] = {}
    names = chosen_methods(cfg)
    with progress_bar() as progress:
        task = progress.add_task("Explaining", total=len(names) * len(tiles))
        for number, name in enumerate(names):
            progress.update(task, description=name, completed=number * len(tiles))
            try:
                method = instantiate(cfg.methods[name], model, _convert_="all")
                result = method.attribute(
                    tiles, target, progress=lambda done: progress.advance(task, done)
                )
            except (UnsupportedNetworkError, ValueError, InstantiationException) as error:
                if cfg.method != "all":
                    raise UserError(f"methods.{name}: {reason(error)}") from error
                progress.print(f"{name} is left out: {reason(error)}")
                continue
            maps[name] = result[:, 0].float().numpy()
    return maps
