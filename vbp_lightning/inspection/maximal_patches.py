"""The tiles and places with the strongest activations of the channels of a layer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vbp_lightning.graph.network_graph import NetworkGraph, graph_of
from vbp_lightning.graph.running import relus
from vbp_lightning.inspection.layers import channels_first, results
from vbp_lightning.inspection.receptive_field import Box, ReceptiveField, Unfollowed


@dataclass(frozen=True)
class Activations:
    """The strongest activations of some channels, each from another tile.

    Args:
        values: ``(channels, count)`` float32, descending; count is smaller if there are fewer
            tiles.
        tiles: ``(channels, count)`` number of the tile.
        rows: ``(channels, count)`` row in the feature map.
        columns: ``(channels, count)`` column in the feature map.
    """

    values: npt.NDArray[np.float32]
    tiles: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]

    def of(self, places: npt.NDArray[np.int64]) -> "Activations":
        """The activations of some of the channels, selected by their row in these arrays."""
        return Activations(
            self.values[places], self.tiles[places], self.rows[places], self.columns[places]
        )


def last_map(graph: NetworkGraph, fields: dict[str, ReceptiveField | Unfollowed]) -> str:
    """The last ReLU whose output is a map, or the last such layer if there is no such ReLU.

    Args:
        graph: The network for images of one size.
        fields: The receptive fields of its modules' outputs.

    Raises:
        ValueError: There is no map whose receptive field is known.
    """
    maps = [
        name
        for name, field in fields.items()
        if isinstance(field, ReceptiveField) and field.count.prod() > 1
    ]
    if not maps:
        raise ValueError("the network has no feature maps")
    known = relus(graph)
    last = graph.outputs[([name for name in maps if graph.outputs[name] in known] or maps)[-1]]
    return next(name for name in maps if graph.outputs[name] is last)


def strongest_activations(
    model: nn.Module,
    layer: str,
    batches: Iterable[Tensor],
    count: int,
    channels: Sequence[int] | None = None,
) -> Activations:
    """The strongest activations of the channels of a layer over many tiles.

    As in Zeiler and Fergus 2014, figure 2. Only the strongest position of each tile counts, so that
    one tile does not fill the list.

    Args:
        model: Any network; left unchanged.
        layer: Name of a module with ``(N, c, h, w)`` or ``(N, f)`` output, with ``" (2)"`` for the
            second use of it.
        batches: Tiles in order, ``(N, C, H, W)``; one batch at a time is in memory.
        count: Number of tiles for each channel.
        channels: Numbers of channels; None for all.

    Returns:
        One row for each channel, strongest first.

    Raises:
        ValueError: The layer does not run, or has no such channel.
    """
    best: tuple[Tensor, Tensor, Tensor] | None = None
    width, start = 1, 0
    for batch in batches:
        graph = graph_of(model, batch)
        node = graph.output_of(layer)
        maps = channels_first(graph, node, results(graph, batch, [node])[0])
        if maps.ndim == 2:
            maps = maps[..., None, None]
        if channels is not None:
            _check_channels(channels, maps.shape[1], layer)
            maps = maps[:, list(channels)]
        width = maps.shape[-1]
        values, places = maps.flatten(2).max(dim=2)
        numbers = torch.arange(start, start + len(batch))[:, None].expand_as(values)
        start += len(batch)
        found = (values.cpu(), numbers, places.cpu())
        if best is not None:
            found = tuple(torch.cat(pair) for pair in zip(best, found, strict=True))  # type: ignore[assignment]
        order = found[0].argsort(dim=0, descending=True, stable=True)[:count]
        best = (found[0].gather(0, order), found[1].gather(0, order), found[2].gather(0, order))
    if best is None:
        raise ValueError("there are no tiles")
    strengths, owners, cells = (part.T.contiguous().numpy() for part in best)
    return Activations(strengths.astype(np.float32), owners, cells // width, cells % width)


def _check_channels(channels: Sequence[int], known: int, layer: str) -> None:
    unknown = [channel for channel in channels if not 0 <= channel < known]
    if unknown:
        raise ValueError(f"channels has {unknown}; {layer} has channels 0 to {known - 1}")


def crop(tile: npt.NDArray[np.float32], box: Box) -> npt.NDArray[np.float32]:
    """The pixels of a receptive field; NaN in the padding.

    Args:
        tile: ``(C, H, W)``.
        box: The receptive field; it may reach beyond the tile.

    Returns:
        ``(C, box height, box width)`` float32.
    """
    inside = box.clipped(*tile.shape[-2:])
    patch = np.full(
        (len(tile), box.bottom - box.top, box.right - box.left), np.nan, dtype=np.float32
    )
    patch[
        :,
        inside.top - box.top : inside.bottom - box.top,
        inside.left - box.left : inside.right - box.left,
    ] = tile[:, inside.top : inside.bottom, inside.left : inside.right]
    return patch
