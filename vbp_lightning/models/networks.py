"""The two road CNNs, strided and max-pool, as plain modules."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Architecture = Literal["strided", "maxpool"]
Head = Literal["hidden", "gap"]

BLOCK_CHANNELS = (8, 32, 32, 64)
HIDDEN_FEATURES = 512
TILE_SIZE = 96

TOTAL_STRIDE = 8
"""Pixels between neighbouring features of the last block."""


class Normalize(nn.Module):
    """Standardises each band with statistics that are saved in the state dict.

    Args:
        mean: One mean per band, in the units of the raw tiles.
        std: One standard deviation per band, same units, all positive.
        low: Lower clipping limit of each band, applied first; None for no clipping.
        high: Upper clipping limit of each band; None for no clipping.

    Shape:
        ``(N, C, H, W)`` raw values to ``(N, C, H, W)`` float, about zero mean and unit variance.
    """

    mean: Tensor
    std: Tensor
    low: Tensor | None
    high: Tensor | None

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std), ("low", low), ("high", high)):
            buffer = None
            if values is not None:
                buffer = torch.tensor(list(values), dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, buffer)

    def forward(self, tiles: Tensor) -> Tensor:
        """Clips and standardises each band."""
        if self.low is not None and self.high is not None:
            tiles = tiles.clamp(self.low, self.high)
        return (tiles - self.mean) / self.std


def conv_block(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    """Conv2d, BatchNorm2d, ReLU; padding keeps the size up to the stride.

    The convolution has no bias: the batch norm behind it supplies one.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class RoadNetwork(nn.Sequential):
    """Road / non-road classifier of 96×96 tiles.

    Four blocks of Conv2d, BatchNorm2d, ReLU with 8, 32, 32 and 64 channels, the last three halving
    the resolution: by the stride of their convolution (``strided``) or by a max pool of 2 behind it
    (``maxpool``). Then a global max pool and a hidden layer of 512 (``head="hidden"``), or global
    average pooling and one linear layer (``head="gap"``), which class activation maps need.

    With ``context`` the network takes each tile with a margin of the pixels around it and crops the
    features of the margin before the global pooling. The features of the tile itself are then
    computed from real pixels instead of the zero padding of the convolutions. The receptive field
    of a feature of the last block reaches at most 7 px beyond its own 8×8 px in both architectures,
    so a margin of 8 px gives the same features as a pass over the whole scene.

    Args:
        architecture: ``strided`` or ``maxpool``.
        head: ``hidden`` or ``gap``.
        mean: Mean of each band over the training split; its length is the number of bands.
        std: Standard deviation of each band over the training split.
        low: Values that each band is clipped to from below, in raw units; None for no clipping.
        high: Values that each band is clipped to from above.
        context: Margin in pixels on each side of a tile, a multiple of 8; 0 for none.

    Shape:
        Raw tiles ``(N, C, 96 + 2·context, 96 + 2·context)``, float, in the imagery's own units, to
        logits ``(N, 1)``; P(road) is their sigmoid.

    Raises:
        ValueError: ``mean`` and ``std`` differ in length, a name is unknown, or ``context`` is no
            multiple of 8.
    """

    def __init__(
        self,
        architecture: Architecture,
        head: Head,
        mean: Sequence[float],
        std: Sequence[float],
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        context: int = 0,
    ) -> None:
        if architecture not in ("strided", "maxpool"):
            raise ValueError(f"architecture is {architecture!r}; choose strided or maxpool")
        if head not in ("hidden", "gap"):
            raise ValueError(f"head is {head!r}; choose hidden or gap")
        if len(mean) != len(std) or not mean:
            raise ValueError(f"mean has {len(mean)} bands and std {len(std)}; give one per band")
        if context < 0 or context % TOTAL_STRIDE:
            raise ValueError(f"context is {context}; give a multiple of {TOTAL_STRIDE} px, or 0")
        super().__init__()
        self.architecture = architecture
        self.context = context
        self.normalize = Normalize(mean, std, low, high)
        channels = len(mean)
        for index, out_channels in enumerate(BLOCK_CHANNELS):
            halves = index > 0
            stride = 2 if halves and architecture == "strided" else 1
            self.add_module(
                f"block{index}", conv_block(channels, out_channels, 3 if halves else 1, stride)
            )
            if halves and architecture == "maxpool":
                self.add_module(f"pool{index}", nn.MaxPool2d(2, 2))
            channels = out_channels
        if context:
            self.crop = nn.ZeroPad2d(-(context // TOTAL_STRIDE))
        if head == "hidden":
            self.global_pool: nn.Module = nn.AdaptiveMaxPool2d(1)
            self.flatten = nn.Flatten()
            self.hidden = nn.Sequential(
                nn.Linear(channels, HIDDEN_FEATURES, bias=False),
                nn.BatchNorm1d(HIDDEN_FEATURES),
                nn.ReLU(inplace=True),
            )
            self.prob = nn.Linear(HIDDEN_FEATURES, 1)
        else:
            self.global_pool = nn.AdaptiveAvgPool2d(1)
            self.flatten = nn.Flatten()
            self.prob = nn.Linear(channels, 1)
