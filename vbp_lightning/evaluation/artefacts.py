"""Artefacts of the upsampling: grids, blocks and dark borders that do not depend on the image.

They are measured on VisualBackProp masks that are computed from given feature maps instead of
recorded ones, through the windows of a network's own layers:

- *flat* activations, all maps one: any structure of the mask is an artefact;
- *random* deepest maps (uniform in [0, 1), a fixed seed) with all other maps one: noise with the
  resolution of the deepest map, upsampled.

For ``unpool``, all positions of a max pooling window are tied on such maps. It spreads ties evenly,
so that it equals ``deconv`` there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vbp_lightning.attribution.visual_backprop import backward
from vbp_lightning.graph.network_graph import NetworkGraph, Step, graph_of

Masks = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Artefacts:
    """The artefact scores of an upsampling in a network.

    Args:
        coverage_variation: See :func:`coverage_variation`, for flat activations; 0 is best.
        border_ratio: See :func:`border_ratio`, for flat activations; 1 is best.
        comb_energy: See :func:`comb_energy`, mean over random maps; 0 is best.
        block_ratio: See :func:`block_ratio`, for random maps; 1 is best: above 1 there are blocks,
            below 1 their borders are blurred.
    """

    coverage_variation: float
    border_ratio: float
    comb_energy: float
    block_ratio: float


def artefacts(
    model: nn.Module, upsampling: str, inputs: Tensor, draws: int = 32, seed: int = 0
) -> Artefacts:
    """The artefacts of VisualBackProp masks with one upsampling through the layers of a network.

    Args:
        model: Any network that VisualBackProp can explain; left unchanged.
        upsampling: A name of ``UPSAMPLINGS``.
        inputs: ``(N, C, H, W)``; only their size matters, one sample is run.
        draws: Number of random deepest maps.
        seed: Seed of their values.

    Returns:
        The four scores.

    Raises:
        UnsupportedNetworkError: The network's feature maps cannot be followed.
    """
    graph = graph_of(model, inputs[:1])
    ones = {step: torch.ones(1, 1, *step.size, dtype=torch.float64) for step in graph.activations}
    deepest = max(graph.activations, key=lambda step: step.depth)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(draws, 1, *deepest.size, generator=generator, dtype=torch.float64)
    flat = _masks(graph, ones, upsampling)[0]
    many = {step: each.expand(draws, -1, -1, -1) for step, each in ones.items()}
    noise = _masks(graph, {**many, deepest: drawn}, upsampling)
    height, width = inputs.shape[2:]
    stride = min(graph.stride or max(1, width // deepest.size[1]), height, width)
    whole = noise[:, : height - height % stride, : width - width % stride]
    return Artefacts(
        coverage_variation(flat),
        border_ratio(flat),
        float(comb_energy(whole, stride).mean()),
        block_ratio(noise, stride),
    )


def coverage_variation(mask: Masks) -> float:
    """Standard deviation divided by mean in the middle half of each side of ``(H, W)``."""
    middle = _middle(mask)
    return float(middle.std() / middle.mean())


def border_ratio(mask: Masks) -> float:
    """The border pixel of ``(H, W)`` most unlike the mean of the middle, divided by that mean."""
    ring = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]) / _middle(mask).mean()
    return float(ring[np.abs(ring - 1).argmax()])


def comb_energy(masks: Masks, stride: int) -> npt.NDArray[np.float64]:
    """Share of the power in the frequencies of a grid with the period ``stride``.

    The mean is subtracted from each mask, and the result is multiplied by a Hann window over both
    sides (periodic, the full side), so that jumps between opposite borders do not count. The
    frequencies are those whose two components are both multiples of 1 / stride cycles per pixel,
    except zero: the harmonics of the stride of the whole network, which include those of the
    strides of its layers.

    Args:
        masks: ``(N, H, W)``, sides that are multiples of ``stride``.
        stride: Pixels.

    Returns:
        ``(N,)``, 0 for a constant mask and at most 4/9, since the window spreads the power of a
        grid over neighbouring frequencies.

    Raises:
        ValueError: A side is no multiple of the stride.
    """
    values = np.asarray(masks, dtype=np.float64)
    height, width = values.shape[1:]
    if height % stride or width % stride:
        raise ValueError(f"masks are {height}×{width} px, no multiples of the stride of {stride}")
    if stride == 1:
        return np.zeros(len(values))
    hann = [0.5 - 0.5 * np.cos(2 * np.pi * np.arange(side) / side) for side in (height, width)]
    centred = values - values.mean(axis=(1, 2), keepdims=True)
    power = np.abs(np.fft.fft2(centred * np.outer(*hann))) ** 2
    comb = power[:, :: height // stride, :: width // stride].sum(axis=(1, 2)) - power[:, 0, 0]
    total = power.sum(axis=(1, 2))
    # a constant mask leaves only rounding errors
    floor = (1e-12 * np.abs(values).max(axis=(1, 2), initial=0) * height * width) ** 2
    return np.asarray(np.divide(comb, total, out=np.zeros(len(values)), where=total > floor))


def block_ratio(masks: Masks, stride: int) -> float:
    """Mean step between neighbours across the borders of blocks, divided by that inside blocks.

    Args:
        masks: ``(N, H, W)``.
        stride: Side of the blocks in pixels; the first block begins at pixel 0.

    Returns:
        1 if there are no steps, infinity if there are only steps across borders.
    """
    values = np.asarray(masks, dtype=np.float64)
    across, inside = [], []
    for axis in (1, 2):
        steps = np.moveaxis(np.abs(np.diff(values, axis=axis)), axis, 0)
        at_border = np.arange(1, len(steps) + 1) % stride == 0
        across.append(steps[at_border].ravel())
        inside.append(steps[~at_border].ravel())
    outer, inner = np.concatenate(across), np.concatenate(inside)
    if not outer.size or not inner.size or outer.max() == inner.max() == 0:
        return 1.0
    return float(outer.mean() / inner.mean()) if inner.any() else float("inf")


def _middle(mask: Masks) -> Masks:
    height, width = mask.shape
    return mask[height // 4 : height - height // 4, width // 4 : width - width // 4]


def _masks(
    graph: NetworkGraph, averages: Mapping[Step, Tensor], upsampling: str
) -> npt.NDArray[np.float64]:
    """VisualBackProp masks of given averages in place of the recorded ones."""
    mask, _ = backward(graph.steps, averages, {}, upsampling)
    result: npt.NDArray[np.float64] = mask.raw()[:, 0].numpy()
    return result
