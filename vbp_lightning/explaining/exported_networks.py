"""Networks with their explanation as plain operations, for programs that hold no Python."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim
from torch.fx import GraphModule

from vbp_lightning.attribution import UnsupportedNetworkError
from vbp_lightning.attribution.scaled_mask import ScaledMask
from vbp_lightning.attribution.upsampling import UPSAMPLINGS, unpool
from vbp_lightning.attribution.visual_backprop import backward
from vbp_lightning.graph.geometry import Pair, shares_of_maxima
from vbp_lightning.graph.network_graph import NetworkGraph, Step, graph_of
from vbp_lightning.graph.outputs import output_named
from vbp_lightning.graph.running import copied
from vbp_lightning.models.symmetries import (
    SYMMETRIES,
    mean_over_views,
    symmetric_view,
    undo_symmetry,
)
from vbp_lightning.scene_maps.split_network import SplitNetwork

_PLACES = 256
"""Places of a map whose part in another map is computed at once."""


class TileModel(nn.Module):
    """A classifier that returns P(road) and the VisualBackProp mask of tiles.

    Args:
        network: In eval mode, raw tiles ``(N, C, S, S)`` to logits ``(N, 1)``.
        bands: ``C``.
        side: ``S``, context included.
        upsampling: Upsampling of the mask.
        tta: Whether P(road) is the mean over the eight symmetric views; the mask is not.

    Shape:
        ``(N, C, S, S)`` float32 to ``(N,)`` and ``(N, 1, S, S)``, both in [0, 1].

    Raises:
        UnsupportedNetworkError: The network cannot be explained.
    """

    def __init__(
        self, network: nn.Module, bands: int, side: int, upsampling: str, tta: bool
    ) -> None:
        super().__init__()
        self.example = torch.zeros(2, bands, side, side)
        self.sizes = {0: Dim("batch")}
        self.explained = _Explained(graph_of(network, self.example), upsampling)
        self.tta = tta

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """P(road) and the normalised masks."""
        logits, mask = self.explained(tiles)
        probability = logits[:, 0].sigmoid()
        if self.tta:
            probability = mean_over_views(
                lambda view: self.explained.output(view)[:, 0].sigmoid(), tiles
            )
        return probability, mask.normalized()


class SceneModel(nn.Module):
    """A classifier that returns maps of P(road) and of the VisualBackProp mask of images.

    They are those of :class:`~vbp_lightning.scene_maps.seamless.SeamlessMapper` for one block.

    Args:
        split: The parts of the network.
        bands: ``C``.
        window: Side of a window in pixels.
        upsampling: Upsampling of the mask.
        context: Pixels that are added on each side, which hold the fill values.
        fill: Raw value of each band for pixels beyond the image.
        tta: Whether P(road) is the mean over the eight symmetric views of each window.

    Shape:
        ``(N, C, H, W)`` float32, H and W multiples of the stride and at least a window, to
        ``(N, 1, H / stride, W / stride)``, NaN where no full window fits, and ``(N, 1, H, W)``.

    Raises:
        UnsupportedNetworkError: The mask cannot be computed for all sizes.
    """

    fill: Tensor

    def __init__(
        self,
        split: SplitNetwork,
        bands: int,
        window: int,
        upsampling: str,
        context: int,
        fill: Sequence[float],
        tta: bool,
    ) -> None:
        super().__init__()
        side = window + split.step
        self.example = torch.zeros(2, bands, side, side + split.step)
        least = window // split.step + 1  # torch.export sets a single window apart
        rows, cols = (split.step * Dim(name, min=least) for name in ("rows", "columns"))
        self.sizes = {0: Dim("batch"), 2: rows, 3: cols}
        self.split = split
        self.head = split.head
        self.window = window
        self.context = context
        self.tta = tta
        padded = F.pad(self.example, [context] * 4)
        self.explained = _Explained(graph_of(split.trunk, padded, free_size=True), upsampling, True)
        self.register_buffer("fill", torch.tensor(list(fill)).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """P(road) around every place of the grid and the raw masks."""
        # Sizes of which torch knows that the stride divides them.
        rows, cols = (side // self.split.step * self.split.step for side in images.shape[2:])
        images = images.reshape(*images.shape[:2], rows, cols)
        margin = [self.context] * 4
        if self.context:
            inside = F.pad(torch.ones_like(images[:, :1]), margin)
            images = F.pad(images, margin) + (1 - inside) * self.fill
        features, mask = self.explained(images)
        views = [self._probabilities(features)]
        if self.tta:
            for symmetry in SYMMETRIES[1:]:
                seen = self._probabilities(self.explained.output(symmetric_view(images, symmetry)))
                views.append(undo_symmetry(seen, symmetry))
        probability = torch.stack(views).mean(dim=0)
        before = self.window // 2 // self.split.step
        after = self.window // self.split.step - 1 - before
        probability = F.pad(probability, (before, after, before, after), value=torch.nan)
        return probability, F.pad(mask.raw(), [-each for each in margin])

    def _probabilities(self, features: Tensor) -> Tensor:
        features = F.pad(features, [-self.split.cropped] * 4)
        pooled = self.split.pooled_windows(features)
        rows = pooled.movedim(1, 3).clone(memory_format=torch.contiguous_format)
        rows = rows.view(-1, *self.split.pooled)
        probability: Tensor = self.head(rows).sigmoid()
        return probability.view(pooled.shape[0], 1, *pooled.shape[2:])


class _Explained(nn.Module):
    """A network that returns its VisualBackProp mask too.

    Args:
        graph: The network for images of one size.
        upsampling: Upsampling of the mask.
        free_size: Whether images may have other sizes, which differ by multiples of the stride.

    Raises:
        UnsupportedNetworkError: The mask cannot be computed for other sizes.
    """

    def __init__(self, graph: NetworkGraph, upsampling: str, free_size: bool = False) -> None:
        super().__init__()
        self.upsampling = upsampling
        self.sides = graph.values[graph.image].shape[2:] if free_size else None
        self.steps = graph.steps
        for step in self.steps:
            if free_size and (
                step.order is not None or not all(each.window for each in step.layers)
            ):
                raise UnsupportedNetworkError(
                    f"{step.name}: the mask cannot be computed for images of other sizes"
                )
        unpools = UPSAMPLINGS[upsampling] is unpool
        self.maxima = [
            step for step in self.steps if unpools and step.layers and step.layers[-1].maximum
        ]
        code, made, outputs = copied(graph)
        activations = [made[step.node] for step in graph.activations]
        maxima = [(made[step.node].args[0], made[step.node]) for step in self.maxima]
        code.output((output_named(outputs, None), activations, maxima))
        self.operations = GraphModule(graph.module, code)
        self.steps = _replaced(self.steps, _with_adjoint)

    def output(self, images: Tensor) -> Tensor:
        """The output of the network."""
        output: Tensor = self.operations(images)[0]
        return output

    def forward(self, images: Tensor) -> tuple[Tensor, ScaledMask]:
        """The output of the network and the mask."""
        output, activations, maxima = self.operations(images)
        steps = self.steps
        if self.sides is not None:
            steps = _for_sides(steps, [*zip(self.sides, images.shape[2:], strict=True)])
        activating = [step for step in steps if step.activates]
        averages = {
            step: _average(step, values)
            for step, values in zip(activating, activations, strict=True)
        }
        shares = {}
        pooling = (step for step in steps if step.node in {each.node for each in self.maxima})
        for step, (features, pooled) in zip(pooling, maxima, strict=True):
            window = step.layers[-1].window
            assert window is not None
            largest = pooled if isinstance(pooled, Tensor) else pooled[0]
            shares[step.node] = shares_of_maxima(features, largest, window, torch.float32)
        return output, backward(steps, averages, shares, self.upsampling)[0]


def _average(step: Step, values: Tensor) -> Tensor:
    """The mean over channels of the positive part, ``(N, 1, h, w)``."""
    if not step.positive:
        values = values.clamp(min=0)
    values = values.mean(step.channels) if step.channels else values
    if step.order is not None:
        values = values.flatten(1).index_select(1, step.order)
    return values.reshape(-1, 1, *step.size)


def _replaced(steps: Sequence[Step], change: Callable[[Step], Step]) -> tuple[Step, ...]:
    """Changed copies of steps, whose sources are changed copies too."""
    made: dict[Step, Step] = {}
    for step in steps:
        sources = tuple(made[each] for each in step.sources)
        made[step] = change(replace(step, sources=sources))
    return tuple(made.values())


def _with_adjoint(step: Step) -> Step:
    """A step whose layers know their adjoints: no exported program holds autograd."""
    layers = tuple(
        each if each.apply is None else replace(each, adjoint=_adjoint(each.apply, each.below))
        for each in step.layers
    )
    return replace(step, layers=layers)


def _adjoint(apply: Callable[[Tensor], Tensor], below: Pair) -> Callable[[Tensor], Tensor]:
    """The adjoint of a linear function of ``(N, 1, *below)``, as weighted sums of few values."""
    found = []
    for part in torch.split(torch.arange(prod(below)), _PLACES):
        ones = F.one_hot(part, prod(below)).float().view(-1, 1, *below)
        values = apply(ones).flatten(1)
        used = values.abs().topk(int(values.count_nonzero(1).max())).indices
        found.append((used, values.gather(1, used)))
    most = max(used.shape[1] for used, _ in found)
    sources, weights = (
        torch.cat([F.pad(each, (0, most - each.shape[1])) for each in parts])
        for parts in zip(*found, strict=True)
    )

    def adjoint(mask: Tensor) -> Tensor:
        return (mask.flatten(1)[:, sources] * weights).sum(2).view(-1, 1, *below)

    return adjoint


def _for_sides(steps: Sequence[Step], sides: Sequence[Pair]) -> tuple[Step, ...]:
    """Steps for images of another size.

    Args:
        steps: For images of one size; their layers are windows.
        sides: That size and the other one, for each axis; they differ by multiples of the stride.
    """
    strides: dict[Step, Pair] = {}

    def resized(lengths: Pair, stride: Pair) -> Pair:
        rows, cols = (
            length + (new - old) // step
            for length, step, (old, new) in zip(lengths, stride, sides, strict=True)
        )
        return rows, cols

    def change(step: Step) -> Step:
        rows, cols = strides[step.sources[0]] if step.sources else (1, 1)
        layers = []
        for layer in step.layers:
            assert layer.window is not None
            below = resized(layer.window.below, (rows, cols))
            rows, cols = rows * layer.window.stride[0], cols * layer.window.stride[1]
            above = resized(layer.window.above, (rows, cols))
            layers.append(replace(layer, window=layer.window._replace(below=below, above=above)))
        changed = replace(step, layers=tuple(layers), size=resized(step.size, (rows, cols)))
        strides[changed] = rows, cols
        return changed

    return _replaced(steps, change)
