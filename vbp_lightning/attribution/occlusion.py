"""Occlusion: the change of the score when a part of the image is covered."""

from typing import Literal

import torch
from torch import Tensor, nn

from vbp_lightning.attribution.scores import CHUNK, Progress, Target, class_scores, in_chunks
from vbp_lightning.attribution.undisturbed import undisturbed
from vbp_lightning.records import Number, PositiveCount, checked

_BLUR = 0.25
"""Standard deviation of the blur as a share of the side of the window."""


class Occlusion:
    """Occlusion sensitivity (Zeiler and Fergus 2014, section 4.2).

    A square covers one part of the image after the other. The value of a pixel is the mean, over
    all squares that cover it, of the drop of the score, of the probability or of its drop.

    Args:
        model: Any classifier; its state is restored.
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

    @checked
    def __init__(
        self,
        model: nn.Module,
        window: PositiveCount = 16,
        stride: PositiveCount = 8,
        fill: Number | Literal["mean", "blur"] = "mean",
        output: Literal["drop", "probability", "probability_drop"] = "drop",
        chunk: PositiveCount = CHUNK,
    ) -> None:
        self.model = model
        self.window = window
        self.stride = stride
        self.fill = fill
        self.output = output
        self.chunk = chunk

    def attribute(
        self, inputs: Tensor, target: Target = None, *, progress: Progress | None = None
    ) -> Tensor:
        """The saliency map of each sample.

        Args:
            inputs: ``(N, C, H, W)`` floating point, raw as the model takes them.
            target: See :func:`~vbp_lightning.attribution.scores.class_scores`; None for several
                classes is the class predicted for the uncovered image.
            progress: Called with the number of samples done after each chunk.

        Returns:
            ``(N, 1, H, W)``, a drop of the score in its units, a probability in [0, 1] or its drop
            in [-1, 1].
        """
        return in_chunks(self._one, inputs, target, 1, progress)

    def _one(self, image: Tensor, target: Target) -> Tensor:
        """The saliency map ``(1, 1, H, W)`` of one image."""
        height, width = image.shape[2:]
        places = [
            (top, left)
            for top in _starts(height, self.window, self.stride)
            for left in _starts(width, self.window, self.stride)
        ]
        cover = self._cover(image)
        side = min(self.window, height), min(self.window, width)
        totals = image.new_zeros(height, width)
        counts = image.new_zeros(height, width)
        with undisturbed(self.model, image.device):
            plain = self.model(image.clone())  # the model may change its input
            if target is None and plain.ndim == 2 and plain.shape[1] > 1:
                target = int(plain.argmax())
            elif isinstance(target, Tensor) and target.ndim == 1:
                target = int(target[0])
            read = class_scores if self.output == "drop" else _probabilities
            before = read(plain, target)
            for start in range(0, len(places), self.chunk):
                part = places[start : start + self.chunk]
                covered = image.repeat(len(part), 1, 1, 1)
                for copy, (top, left) in zip(covered, part, strict=True):
                    where = (..., slice(top, top + side[0]), slice(left, left + side[1]))
                    copy[where] = cover[0][where]
                under = read(self.model(covered), target)
                values = under if self.output == "probability" else before - under
                for (top, left), value in zip(part, values, strict=True):
                    totals[top : top + side[0], left : left + side[1]] += value
                    counts[top : top + side[0], left : left + side[1]] += 1
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


def _probabilities(output: Tensor, target: Target) -> Tensor:
    """P(class) of each sample."""
    scores = output[:, None] if output.ndim == 1 else output
    if scores.shape[1] == 1:
        return class_scores(scores, target).sigmoid()
    return class_scores(scores.softmax(dim=1), target)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """An image after a Gaussian blur with mirrored borders."""
    reach = min(max(1, round(3 * sigma)), min(image.shape[2:]) - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    kernel = (-(offsets**2) / (2 * sigma**2)).exp()
    kernel = (kernel / kernel.sum()).expand(image.shape[1], 1, -1)
    padded = nn.functional.pad(image, [reach] * 4, mode="reflect")
    rows = nn.functional.conv2d(padded, kernel[..., None], groups=image.shape[1])
    return nn.functional.conv2d(rows, kernel[:, :, None], groups=image.shape[1])
