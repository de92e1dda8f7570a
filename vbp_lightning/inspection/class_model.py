"""Images that maximise the score of a class, and images that fool a network."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn

from vbp_lightning.attribution.scores import Target, class_scores
from vbp_lightning.graph.exporting import shared_copy
from vbp_lightning.graph.running import random_state_kept


class Standardised(nn.Module):
    """A network that takes standardised images.

    Args:
        model: Takes raw tiles ``(N, C, H, W)``.
        mean: Mean of each band, in the units of the raw tiles.
        std: Standard deviation of each band, in the same units, positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", mean.detach().float().view(1, -1, 1, 1))
        self.register_buffer("std", std.detach().float().view(1, -1, 1, 1))

    def raw(self, images: Tensor) -> Tensor:
        """Converts standardised images ``(N, C, H, W)`` to raw tiles."""
        return images * self.std + self.mean

    def standardised(self, tiles: Tensor) -> Tensor:
        """Converts raw tiles ``(N, C, H, W)`` to standard deviations from the mean."""
        return (tiles - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """The output of the network for standardised images ``(N, C, H, W)``."""
        output: Tensor = self.model(self.raw(images))
        return output


class ScoreModel(nn.Module):
    """A model that returns the score of a class instead of all outputs.

    Args:
        model: Any classifier.
        target: See :func:`~vbp_lightning.attribution.scores.class_scores`.
    """

    def __init__(self, model: nn.Module, target: Target) -> None:
        super().__init__()
        self.model = model
        self.target = target

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N,)``."""
        # The model may change the copy, for instance by standardising in place.
        return class_scores(self.model(inputs.clone()), self.target)


@dataclass(frozen=True)
class Ascent:
    """An image that was changed by gradient ascent.

    Args:
        image: ``(C, H, W)`` the last image.
        scores: ``(steps + 1,)`` the score before each step and at the end.
        penalties: ``(steps + 1,)`` λ‖I‖² before each step and at the end.
        snapshots: Images by the number of steps done, the first and the last included.
    """

    image: Tensor
    scores: npt.NDArray[np.float64]
    penalties: npt.NDArray[np.float64]
    snapshots: dict[int, Tensor]


@contextmanager
def _differentiable(score: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """A copy in eval mode with the same weights, with gradients; restores the random state."""
    with torch.inference_mode(mode=False), torch.enable_grad(), random_state_kept(device):
        yield shared_copy(score)


def ascend(
    score: nn.Module,
    start: Tensor,
    steps: Iterable[int],
    count: int,
    penalty: float = 1e-4,
    step: float = 0.1,
    jitter: int = 0,
    blur: float = 0.0,
    blur_every: int = 4,
    snapshots: int = 6,
    seed: int = 0,
) -> Ascent:
    """Gradient ascent on an unnormalised score minus λ‖I‖².

    Simonyan, Vedaldi and Zisserman 2013, section 2: ``argmax_I S(I) − λ‖I‖²``, from the zero image.
    Jitter and blur follow Yosinski et al. 2015 and Mordvintsev et al. 2015. The gradient is scaled
    to a root mean square of ``step``, which falls linearly to zero, so that the step size does not
    depend on the size of the score.

    Args:
        score: ``(1, C, H, W)`` images to ``(1,)`` scores; left unchanged.
        start: ``(C, H, W)`` the first image, in the units of ‖I‖.
        steps: ``range(count)``, optionally with a progress bar.
        count: Number of steps.
        penalty: λ.
        step: Root mean square of the first step, in the units of the image.
        jitter: Largest random shift before each step, in pixels; the image is rolled.
        blur: Standard deviation in pixels of the first Gaussian blur of the image; it falls to zero
            with the step. 0 for no blur.
        blur_every: Steps from one blur to the next.
        snapshots: Number of intermediate images, evenly spaced in steps.
        seed: Seed of the jitter.

    Returns:
        The images; scores are computed without jitter, before the blur of their step.

    Raises:
        ValueError: The score has no gradient at the first image.
    """
    generator = np.random.default_rng(seed)
    kept_at = set(np.linspace(0, count, snapshots).round().astype(int).tolist())
    image = start.detach().clone()[None]
    scores, penalties, kept = [], [], {}

    def note(done: int, value: Tensor) -> None:
        scores.append(float(value))
        penalties.append(penalty * float(image.cpu().double().square().sum()))
        if done in kept_at:
            kept[done] = image[0].clone()

    with _differentiable(score, start.device) as score:
        for done in steps:
            shift = generator.integers(-jitter, jitter + 1, 2).tolist() if jitter else [0, 0]
            images = image.clone().requires_grad_()
            value = score(images.roll(shift, (2, 3)) if jitter else images)
            (gradient,) = torch.autograd.grad(value.sum(), images)
            if done == 0 and not gradient.any():
                raise ValueError(
                    "the score has no gradient at the first image: a unit behind a ReLU may be "
                    "inactive there; start from noise (start=noise), or choose the layer before "
                    "the ReLU (layer)"
                )
            with torch.no_grad():
                note(done, score(image) if jitter else value)
                gradient = gradient - 2 * penalty * image
                scale = step * (1 - done / count) / gradient.square().mean().sqrt().clamp_min(1e-30)
                image = image + scale * gradient
                if blur > 0 and done % blur_every == blur_every - 1 and done + blur_every < count:
                    # falls with the step: otherwise it would undo the last, small steps
                    width = blur * (1 - done / count)
                    smooth = ndimage.gaussian_filter(image[0].cpu().numpy(), (0, width, width))
                    image = torch.from_numpy(smooth).to(image)[None]
        with torch.no_grad():
            note(count, score(image))
    return Ascent(image[0], np.array(scores), np.array(penalties), kept)


class LogOdds(nn.Module):
    """A classifier that returns the logarithm of P / (1 − P) of a class.

    P is the sigmoid of a single logit or the softmax of several scores.

    Args:
        model: Any classifier.
        target: See :func:`~vbp_lightning.attribution.scores.class_scores`; None means road, or the
            class with the highest score of each sample.
    """

    def __init__(self, model: nn.Module, target: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.target = target

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N,)``."""
        target = self.target
        output: Tensor = self.model(images)
        score = class_scores(output, target)
        if output.ndim == 1 or output.shape[1] == 1:
            return score
        wanted = output.argmax(dim=1) if target is None else torch.full_like(score, target).long()
        others = output.scatter(1, wanted[:, None], float("-inf")).logsumexp(dim=1)
        return score - others


@dataclass(frozen=True)
class Fooling:
    """An image that was changed until the network gives a class a requested probability.

    Args:
        start: ``(C, H, W)`` the first image.
        image: ``(C, H, W)`` the nearest image found that reaches the probability; the last image
            if none does.
        probabilities: ``(steps + 1,)`` P of the class before each step and at the end.
        distances: ``(steps + 1,)`` Euclidean distance from the start before each step and at the
            end.
        snapshots: Images by the number of steps done.
        reached: Whether ``image`` has the requested probability.
    """

    start: Tensor
    image: Tensor
    probabilities: npt.NDArray[np.float64]
    distances: npt.NDArray[np.float64]
    snapshots: dict[int, Tensor]
    reached: bool

    @property
    def change(self) -> float:
        """Root mean square of the change, in the units of the image."""
        return float((self.image - self.start).cpu().double().square().mean().sqrt())


def fool(
    odds: nn.Module,
    start: Tensor,
    steps: Iterable[int],
    probability: float = 0.99,
    snapshots: int = 6,
    largest_step: float = 0.05,
) -> Fooling:
    """Changes an image slightly, so that the network gives a class a requested probability.

    The log odds are approximated as linear around the present image; the images with the requested
    probability then form a plane. Below the probability, a step goes to the nearest point of the
    plane (DeepFool, Moosavi-Dezfooli et al. 2016). Otherwise it goes half-way to the point of the
    plane that is nearest to the start (as in FAB, Croce and Hein 2020). The result is the nearest
    image that reached the probability: a small change, but not proven to be the smallest.

    Args:
        odds: ``(1, C, H, W)`` to ``(1,)`` log odds of the class: :class:`LogOdds`.
        start: ``(C, H, W)``, in the units of the distance.
        steps: ``range(count)``, optionally with a progress bar.
        probability: The requested probability, in (0, 1).
        snapshots: Number of intermediate images, evenly spaced in steps.
        largest_step: Largest root mean square of a step: the approximation only holds nearby.

    Returns:
        The changed image and its path.

    Raises:
        ValueError: ``probability`` is not between 0 and 1.
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability is {probability}; give one between 0 and 1")
    # slightly more, so that rounding errors do not miss it
    wanted = float(np.log(probability / (1 - probability))) + 1e-3
    origin = start.detach().clone()[None]
    image, best, nearest = origin.clone(), None, float("inf")
    probabilities, distances, path = [], [], []
    with _differentiable(odds, start.device) as odds:

        def note() -> float:
            nonlocal best, nearest
            with torch.no_grad():
                value = float(odds(image))
            distance = float((image - origin).cpu().double().norm())
            probabilities.append(1 / (1 + float(np.exp(-value))))
            distances.append(distance)
            path.append(image[0].clone())
            if probabilities[-1] >= probability and distance < nearest:
                best, nearest = image.clone(), distance
            return value

        value = note()
        for _ in steps:
            if best is not None and nearest == 0:
                break
            images = image.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(odds(images).sum(), images)
            square = float(gradient.cpu().double().square().sum())
            if square == 0:
                break
            with torch.no_grad():
                move = gradient * ((wanted - value) / square)
                if probabilities[-1] >= probability:
                    offset = image - origin
                    along = float((gradient * offset).cpu().double().sum())
                    goal = origin + gradient * ((wanted - value + along) / square)
                    move = 0.5 * (goal - image)
                size = float(move.square().mean().sqrt())
                image = image + move * min(1.0, largest_step / max(size, 1e-30))
            value = note()
    numbers = sorted(set(np.linspace(0, len(path) - 1, snapshots).round().astype(int).tolist()))
    return Fooling(
        origin[0],
        image[0] if best is None else best[0],
        np.array(probabilities),
        np.array(distances),
        {number: path[number] for number in numbers},
        best is not None,
    )
