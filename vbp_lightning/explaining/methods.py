"""The attribution methods that the config names, applied to tiles."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.markup import escape
from torch import Tensor, nn

from vbp_lightning.attribution import UnsupportedNetworkError
from vbp_lightning.cli import progress_bar
from vbp_lightning.errors import UserError, one_line, plain, reason
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.explaining.tile_sources import ChosenTiles
from vbp_lightning.records import argument_errors

_Value = TypeVar("_Value")


def chosen_methods(cfg: DictConfig) -> dict[str, DictConfig]:
    """The options of the chosen methods, by the name of the method.

    Args:
        cfg: The composed config of ``explain.py``.

    Raises:
        UserError: No method is chosen.
    """
    methods = cfg.get("method")  # Hydra leaves the key out for an empty list
    if not methods:
        raise UserError("method=[]: choose a method, a list of methods, or all")
    return {str(name): methods[name] for name in methods}


def method_maker(
    name: str,
    options: Mapping[str, Any],
    **changes: Any,  # noqa: ANN401
) -> Callable[[nn.Module], Any]:
    """Checks the options of a method.

    Args:
        name: The method's name in the config.
        options: Its ``_target_`` and its options.
        **changes: Options that replace these.

    Returns:
        Builds the method for a network; raises ``ValueError`` for an invalid option and
        ``UnsupportedNetworkError`` for a network that the method cannot explain.

    Raises:
        UserError: A line for each option that is unknown or of a wrong type.
    """
    if not isinstance(options, Mapping) or "_target_" not in options:
        raise UserError(f"method.{name}={options}: is no method; choose among those of method=")
    try:
        maker: partial[Any] = instantiate(options, _partial_=True, _convert_="all", **changes)
    except InstantiationException as error:
        raise UserError(f"method.{name}: {reason(error)}") from error
    if lines := argument_errors(f"method.{name}", maker.func, maker.keywords, "model"):
        raise UserError(*lines)
    return maker


def attributions(
    cfg: DictConfig, subject: Subject, chosen: ChosenTiles, target: int | None
) -> dict[str, npt.NDArray[np.float32]]:
    """The maps of all chosen methods.

    Args:
        cfg: The composed config of ``explain.py``: ``method`` and ``skip_unsupported``.
        subject: The network.
        chosen: The tiles.
        target: A class, or None.

    Returns:
        ``(N, H, W)`` by method. With ``skip_unsupported``, methods that cannot explain this network
        are left out, and a line is printed for each.

    Raises:
        UserError: A method cannot explain this network, or none of the methods can.
    """
    maps: dict[str, npt.NDArray[np.float32]] = {}
    makers = {name: method_maker(name, options) for name, options in chosen_methods(cfg).items()}
    inputs = chosen.tiles.to(subject.device)
    with progress_bar() as progress:
        task = progress.add_task("Explaining", total=len(makers) * len(inputs))
        for number, (name, maker) in enumerate(makers.items()):
            progress.update(task, description=escape(name), completed=number * len(inputs))
            try:
                result = maker(subject.model).attribute(
                    inputs, target, progress=lambda done: progress.advance(task, done)
                )
            except (UnsupportedNetworkError, ValueError) as error:
                progress.print(_left_out(cfg, name, error), markup=False)
                continue
            maps[name] = result[:, 0].float().cpu().numpy()
    return _any_of(maps)


def explaining_functions(
    cfg: DictConfig, subject: Subject, tile: Tensor, target: int | None
) -> dict[str, Callable[[Tensor], Tensor]]:
    """The chosen methods as functions, for more tiles than are explained at once.

    Args:
        cfg: The composed config of ``explain.py``: ``method`` and ``skip_unsupported``.
        subject: The network.
        tile: ``(1, C, H, W)``, with which each method is tried.
        target: A class, or None.

    Returns:
        By the name of the method in words, functions of ``(N, C, H, W)`` on the CPU that return
        ``(N, 1, H, W)``. Methods are left out as :func:`attributions` does.

    Raises:
        UserError: A method cannot explain this network, or none of the methods can.
    """

    def explain(method: Any, tiles: Tensor) -> Tensor:  # noqa: ANN401
        relevance: Tensor = method.attribute(tiles.to(subject.device), target)
        return relevance

    functions: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, options in chosen_methods(cfg).items():
        maker = method_maker(name, options)
        try:
            function = partial(explain, maker(subject.model))
            function(tile)
        except (UnsupportedNetworkError, ValueError) as error:
            print(_left_out(cfg, name, error))
            continue
        functions[name.replace("_", " ")] = function
    return _any_of(functions)


def _left_out(cfg: DictConfig, name: str, error: Exception) -> str:
    """The line that says that a method is left out.

    Raises:
        UserError: Methods must not be left out.
    """
    if not cfg.skip_unsupported:
        raise UserError(f"method.{name}: {one_line(error)}") from error
    return f"{name} is left out: {plain(one_line(error))}"


def _any_of(found: dict[str, _Value]) -> dict[str, _Value]:
    if not found:
        raise UserError("method: none of the chosen methods can explain this network")
    return found
