"""The attribution methods that the config names, applied to tiles."""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import numpy.typing as npt
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from vbp_lightning.attribution import UnsupportedNetworkError
from vbp_lightning.cli import progress_bar
from vbp_lightning.data.kinds import kind_faults
from vbp_lightning.errors import UserError, one_line, reason


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


def method_maker(name: str, options: Mapping[str, Any]) -> Callable[[nn.Module], Any]:
    """What makes a method for a network, once its options are known to be of their kinds.

    Args:
        name: The method's name in the config.
        options: Its ``_target_`` and its options.

    Returns:
        Takes the network and returns the method; raises ``ValueError`` where an option makes no
        sense and ``UnsupportedNetworkError`` where the network cannot be explained by it.

    Raises:
        UserError: Options are unknown or of another kind than the method takes, a line each.
    """
    try:
        maker: partial[Any] = instantiate(options, _partial_=True, _convert_="all")
    except InstantiationException as error:
        raise UserError(f"methods.{name}: {reason(error)}") from error
    known = dict(list(signature(maker.func, eval_str=True).parameters.items())[1:])
    lines = [
        f"methods.{name}.{option}: is no option of it; choose among {', '.join(known)}"
        for option in maker.keywords
        if option not in known
    ]
    hints = {
        option: parameter.annotation
        for option, parameter in known.items()
        if parameter.annotation is not parameter.empty
    }
    lines += kind_faults(f"methods.{name}", maker.keywords, hints, finite=False)
    if lines:
        raise UserError(*lines)
    return maker


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
    makers = {name: method_maker(name, cfg.methods[name]) for name in chosen_methods(cfg)}
    with progress_bar() as progress:
        task = progress.add_task("Explaining", total=len(makers) * len(tiles))
        for number, (name, maker) in enumerate(makers.items()):
            progress.update(task, description=name, completed=number * len(tiles))
            try:
                result = maker(model).attribute(
                    tiles, target, progress=lambda done: progress.advance(task, done)
                )
            except (UnsupportedNetworkError, ValueError) as error:
                if cfg.method != "all":
                    raise UserError(f"methods.{name}: {one_line(error)}") from error
                progress.print(f"{name} is left out: {one_line(error)}")
                continue
            maps[name] = result[:, 0].float().numpy()
    return maps
