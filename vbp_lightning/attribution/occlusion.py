"""Occlusion: the change of the score when a part of the image is covered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vbp_lightning.attribution.method import CopiesMethod
from vbp_lightning.attribution.scores import Target, class_scores, head_of
from vbp_lightning.records import Number, PositiveCount

_BLUR = 0.25
"""Standard deviation of the blur as a share of the side of the window."""


@dataclass(eq=False)
class Occlusion(CopiesMethod):
    """Occlusion sensitivity (Zeiler and Fergus 2014, section 4.2).

    A square covers one part of the image after the other. The value of a pixel is the mean, over
    all squares that cover it, of the drop of the score, of the probability or of its drop.

    Args:
        model: Any classifier; it is not changed.
        window: Side of the square in pixels.
        stride: Distance between squares in pixels; the last squares are shifted inwards so that
            every pixel is covered.
        fill: Content of the square: ``mean``, the mean colour of the image; ``blur``, the blurred
            image; or a number in raw units.
        output: ``drop`` of the score, ``probability`` of the class with the square covered, or
            ``probability_drop``.
        chunk: Covered images per chunk.

    Raises:
        ValueError: A setting is out of range.
    """

    window: PositiveCount = 16
    stride: PositiveCount = 8
    fill: Number | Literal["mean", "blur"] = "mean"
    output: Literal["drop", "probability", "probability_drop"] = "drop"

    def map_of(self, network: Callable[[Tensor], object], image: Tensor, target: Target) -> Tensor:
        """Averages the changes over the squares that cover a pixel."""
        height, width = image.shape[2:]
        side = min(self.window, height), min(self.window, width)
        places = [
            (slice(top, top + side[0]), slice(left, left + side[1]))
            for top in _starts(height, self.window, self.stride)
            for left in _starts(width, self.window, self.stride)
        ]
        cover = self._cover(image)
        read = class_scores if self.output == "drop" else _probabilities
        before = read(network(image), target)
        exact = torch.promote_types(image.dtype, torch.float32)
        totals = image.new_zeros(height, width, dtype=exact)
        counts = torch.zeros_like(totals)
        for start in range(0, len(places), self.chunk):
            part = places[start : start + self.chunk]
            covered = image.repeat(len(part), 1, 1, 1)
            for copy, where in zip(covered, part, strict=True):
                copy[:, *where] = cover[0, :, *where]
            under = read(network(covered), target)
            values = under if self.output == "probability" else before - under
            for where, value in zip(part, values, strict=True):
                totals[where] += value
                counts[where] += 1
        return (totals / counts)[None, None]

    def _cover(self, image: Tensor) -> Tensor:
        """The content of the covered pixels, ``(1, C, H, W)``."""
        if self.fill == "mean":
            return image.mean(dim=(2, 3), keepdim=True).expand_as(image)
        if self.fill == "blur":
            return _blurred(image, _BLUR * self.window)
        return torch.full_like(image, float(self.fill))


def _starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows that cover an axis; [0] if it is shorter than a window."""
    last = max(0, length - window)
    return sorted({*range(0, last + 1, stride), last})


def _probabilities(output: object, target: Target) -> Tensor:
    """P(class) of each sample."""
    head, wanted = head_of(output, target)
    if head.ndim == 1 or head.shape[1] == 1:
        return class_scores(head, wanted).sigmoid()
    return class_scores(head.softmax(dim=1), wanted)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """An image after a Gaussian blur with mirrored borders."""
    reach = min(max(1, round(3 * sigma)), min(image.shape[2:]) - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    kernel = (-(offsets**2) / (2 * sigma**2)).exp()
    kernel = (kernel / kernel.sum()).expand(image.shape[1], 1, -1)
    padded = nn.functional.pad(image, [reach] * 4, mode="reflect")
    rows = nn.functional.conv2d(padded, kernel[..., None], groups=image.shape[1])
    return nn.functional.conv2d(rows, kernel[:, :, None], groups=image.shape[1])
