"""Attributions from the gradient with respect to the pixels."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import NoiseTunnel
from captum.attr import Saliency as CaptumSaliency
from pydantic import Field
from torch import Tensor, nn

from vbp_lightning.attribution.scores import (
    CHUNK,
    Progress,
    ScoreModel,
    Target,
    class_scores,
    differentiable,
    highest,
    in_chunks,
)
from vbp_lightning.graph.exporting import UnsupportedNetworkError
from vbp_lightning.graph.network_graph import Graphs, NetworkGraph
from vbp_lightning.graph.running import Rule, evaluated, is_relu
from vbp_lightning.records import Count, PositiveCount, Seed, Size, checked

Form = Literal["absolute", "signed"]

_WRAPPED = "network."
"""Prefix of the layer names of a wrapped network."""


def over_channels(gradient: Tensor, form: Form) -> Tensor:
    """Reduces the channels of a gradient to one value per pixel.

    Args:
        gradient: ``(N, C, H, W)``.
        form: ``absolute``, the largest absolute value (Simonyan et al. 2013, section 3.1), or
            ``signed``, the sum.

    Returns:
        ``(N, 1, H, W)``.
    """
    if form == "absolute":
        return gradient.abs().amax(dim=1, keepdim=True)
    return gradient.sum(dim=1, keepdim=True)


def pixel_gradient(
    graph: NetworkGraph,
    inputs: Tensor,
    target: Target,
    rule: Rule | None = None,
    at: tuple[str, tuple[int, ...]] | None = None,
) -> Tensor:
    """The gradient of a score with respect to the pixels, ``(N, C, H, W)``.

    Args:
        graph: The graph for images of this size.
        inputs: ``(N, C, H, W)``.
        target: See :func:`~vbp_lightning.attribution.scores.class_scores`.
        rule: Replaces every ReLU.
        at: Name of a module and indices in its output of a unit that is explained instead.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        images = inputs.detach().clone().requires_grad_()
        wanted = [] if at is None else [graph.output_of(at[0])]
        output, values = evaluated(graph, images, wanted, rule)
        units = [] if at is None else [values[0].movedim(0, -1)[at[1]]]
        score = units[0] if units else class_scores(output, target)
        (gradient,) = torch.autograd.grad(score.sum(), images)
    return gradient


class _Positive(torch.autograd.Function):
    """The identity, whose gradient keeps its positive part."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ANN401
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        return gradient.clamp(min=0)


def _guided(_: Tensor, after: Tensor) -> Tensor:
    positive: Tensor = _Positive.apply(after)  # type: ignore[no-untyped-call]
    return positive


def _deconvolved(before: Tensor, after: Tensor) -> Tensor:
    passed: Tensor = _Positive.apply(before + (after - before).detach())  # type: ignore[no-untyped-call]
    return passed


def _check_relus(graph: NetworkGraph, method: str) -> None:
    if not any(is_relu(node) for node in graph.module.graph.nodes):
        raise UnsupportedNetworkError(
            f"{method} cannot explain this network: it has no ReLU that its rule could act on"
        )


class Saliency:
    """Image-specific class saliency (Simonyan, Vedaldi and Zisserman 2013, section 3.1).

    The gradient of the unnormalised score of a class with respect to the pixels: the change of the
    score per unit of change of each pixel.

    Args:
        model: Any classifier of ``(N, C, H, W)``; its state is restored.
        form: How channels are reduced to one value, see :func:`over_channels`.
        chunk: Samples per chunk.
    """

    @checked
    def __init__(
        self, model: nn.Module, form: Form = "absolute", chunk: PositiveCount = CHUNK
    ) -> None:
        self._graphs = Graphs(model)
        self.form = form
        self.chunk = chunk

    def attribute(
        self, inputs: Tensor, target: Target = None, *, progress: Progress | None = None
    ) -> Tensor:
        """The saliency map of each sample.

        Args:
            inputs: ``(N, C, H, W)`` floating point, raw as the model takes them.
            target: See :func:`~vbp_lightning.attribution.scores.class_scores`.
            progress: Called with the number of samples done after each chunk.

        Returns:
            ``(N, 1, H, W)``, score per unit of a pixel.
        """

        def act(part: Tensor, wanted: Target) -> Tensor:
            return over_channels(pixel_gradient(self._graphs.of(part), part, wanted), self.form)

        return in_chunks(act, inputs, target, self.chunk, progress)


class GuidedBackprop:
    """Guided backpropagation (Springenberg et al. 2014, "Striving for simplicity", section 3.4).

    The gradient with the backward pass of every ReLU set to zero where its input or the incoming
    gradient is not positive.

    Args:
        model: Any classifier with ReLUs; it is not changed.
        form: How channels are reduced to one value, see :func:`over_channels`.
        layer: Name of a module whose unit is explained instead of a class; None for the class.
        unit: Channel, row and column in the output of that layer, or one index of a flat output.
        chunk: Samples per chunk.

    Raises:
        ValueError: The model has no such layer.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        form: Form = "absolute",
        layer: str | None = None,
        unit: Annotated[tuple[Count, ...], Field(min_length=1)] = (0,),
        chunk: PositiveCount = CHUNK,
    ) -> None:
        self._graphs = Graphs(model)
        self.form = form
        self.layer = None if layer is None else layer_named(model, layer)
        self.unit = tuple(unit)
        self.chunk = chunk

    def attribute(
        self, inputs: Tensor, target: Target = None, *, progress: Progress | None = None
    ) -> Tensor:
        """The guided gradient of each sample.

        Args:
            inputs: ``(N, C, H, W)`` floating point, raw as the model takes them.
            target: See :func:`~vbp_lightning.attribution.scores.class_scores`; ignored for a unit.
            progress: Called with the number of samples done after each chunk.

        Returns:
            ``(N, 1, H, W)``.

        Raises:
            UnsupportedNetworkError: The network has no ReLU, or cannot be exported.
        """
        return in_chunks(
            lambda part, wanted: over_channels(self.gradient(part, wanted), self.form),
            inputs,
            target,
            self.chunk,
            progress,
        )

    def gradient(self, inputs: Tensor, target: Target = None) -> Tensor:
        """The guided gradient of each channel, ``(N, C, H, W)``, of all samples at once."""
        graph = self._graphs.of(inputs)
        _check_relus(graph, "guided backpropagation")
        at = None if self.layer is None else (self.layer, self.unit)
        return pixel_gradient(graph, inputs, target, _guided, at)


class DeconvNet:
    """The deconvolutional network (Zeiler and Fergus 2014, section 2), as a backward pass.

    The gradient with the backward pass of every ReLU replaced by a ReLU of the incoming gradient;
    max poolings pass it to the positions of their maxima.

    Args:
        model: Any classifier with ReLUs; it is not changed.
        form: How channels are reduced to one value, see :func:`over_channels`.
        chunk: Samples per chunk.
    """

    @checked
    def __init__(
        self, model: nn.Module, form: Form = "absolute", chunk: PositiveCount = CHUNK
    ) -> None:
        self._graphs = Graphs(model)
        self.form = form
        self.chunk = chunk

    def attribute(
        self, inputs: Tensor, target: Target = None, *, progress: Progress | None = None
    ) -> Tensor:
        """The deconvolved signal of each sample.

        Args:
            inputs: ``(N, C, H, W)`` floating point, raw as the model takes them.
            target: See :func:`~vbp_lightning.attribution.scores.class_scores`.
            progress: Called with the number of samples done after each chunk.

        Returns:
            ``(N, 1, H, W)``.

        Raises:
            UnsupportedNetworkError: The network has no ReLU, or cannot be exported.
        """

        def act(part: Tensor, wanted: Target) -> Tensor:
            graph = self._graphs.of(part)
            _check_relus(graph, "the deconvolutional network")
            return over_channels(pixel_gradient(graph, part, wanted, _deconvolved), self.form)

        return in_chunks(act, inputs, target, self.chunk, progress)


class IntegratedGradients:
    """Integrated gradients (Sundararajan, Taly and Yan 2017).

    The gradient averaged along the straight line from a baseline to the image, times their
    difference. The sum over pixels and channels is the difference of the two scores.

    Args:
        model: Any classifier; its state is restored.
        baseline: ``mean``, each image's own mean colour, or ``zero``.
        steps: Number of points on the line.
        form: How channels are reduced to one value; ``signed`` keeps the sum.
        chunk: Samples per chunk.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        baseline: Literal["mean", "zero"] = "mean",
        steps: PositiveCount = 32,
        form: Form = "signed",
        chunk: PositiveCount = CHUNK,
    ) -> None:
        self.model = model
        self.baseline = baseline
        self.steps = steps
        self.form = form
        self.chunk = chunk

    def attribute(
        self, inputs: Tensor, target: Target = None, *, progress: Progress | None = None
    ) -> Tensor:
        """The contribution of each pixel to the score.

        Args:
            inputs: ``(N, C, H, W)`` floating point, raw as the model takes them.
            target: See :func:`~vbp_lightning.attribution.scores.class_scores`.
            progress: Called with the number of samples done after each chunk.

        Returns:
            ``(N, 1, H, W)``, in units of the score.
        """

        def act(part: Tensor, wanted: Target) -> Tensor:
            baseline = part.mean(dim=(2, 3), keepdim=True).expand_as(part)
            if self.baseline == "zero":
                baseline = torch.zeros_like(part)
            with differentiable(self.model, part.device):
                method = CaptumIntegratedGradients(ScoreModel(self.model, wanted))
                result = method.attribute(
                    part.detach().clone(),
                    baselines=baseline.detach().clone(),
                    n_steps=self.steps,
                    internal_batch_size=self.chunk,
                )
            return over_channels(result.detach().to(part.dtype), self.form)

        return _one_target_at_a_time(self.model, act, inputs, target, self.chunk, progress)


class SmoothGrad:
    """SmoothGrad (Smilkov et al. 2017): saliency averaged over noisy copies of the image.

    Args:
        model: Any classifier; its state and the random state are restored.
        samples: Number of noisy copies of each image.
        noise: Standard deviation of the noise as a share of the range of each image's values.
        form: How channels are reduced to one value, see :func:`over_channels`.
        seed: Seed of the noise.
        chunk: Noisy copies per chunk.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        samples: PositiveCount = 16,
        noise: Size = 0.1,
        form: Form = "absolute",
        seed: Seed = 0,
        chunk: PositiveCount = 64,
    ) -> None:
        self.model = model
        self.samples = samples
        self.noise = noise
        self.form = form
        self.seed = seed
        self.chunk = chunk

    def attribute(
        self, inputs: Tensor, target: Target = None, *, progress: Progress | None = None
    ) -> Tensor:
        """The averaged gradient of each sample, independent of the rest of the batch.

        Args:
            inputs: ``(N, C, H, W)`` floating point, raw as the model takes them.
            target: See :func:`~vbp_lightning.attribution.scores.class_scores`.
            progress: Called with the number of samples done after each chunk.

        Returns:
            ``(N, 1, H, W)``, score per unit of a pixel.
        """

        def act(part: Tensor, wanted: Target) -> Tensor:
            spread = self.noise * float(part.max() - part.min())
            if spread == 0:
                spread = 1e-12  # Captum requires noise; a constant image gets negligible noise
            with differentiable(self.model, part.device):
                torch.manual_seed(self.seed)
                method = NoiseTunnel(CaptumSaliency(ScoreModel(self.model, wanted)))
                gradient = method.attribute(
                    part.detach().clone(),
                    nt_type="smoothgrad",
                    nt_samples=self.samples,
                    nt_samples_batch_size=min(self.samples, self.chunk),
                    stdevs=spread,
                    abs=False,
                )
            return over_channels(gradient.detach(), self.form)

        # The noise depends on the range of the image, so images are processed one by one.
        return _one_target_at_a_time(self.model, act, inputs, target, 1, progress)


def layer_named(model: nn.Module, name: str) -> str:
    """The full name of a module of a model.

    Args:
        model: Any module.
        name: Its name in ``named_modules``; the prefix ``network.`` of a wrapped network, as in a
            RoadClassifier, may be omitted.

    Raises:
        ValueError: The model has no such module; the message lists the names without ``network.``.
    """
    found: list[str] = [each for each, _ in model.named_modules() if each]
    short = {each.removeprefix(_WRAPPED): each for each in found}
    if name not in found and name not in short:
        known = ", ".join(each for each in short if f"{each}." != _WRAPPED)
        raise ValueError(f"layer is {name!r}; the network has {known}")
    return name if name in found else short[name]


def _one_target_at_a_time(
    model: nn.Module,
    act: Callable[[Tensor, Target], Tensor],
    inputs: Tensor,
    target: Target,
    size: int,
    progress: Progress | None,
) -> Tensor:
    """Like ``in_chunks``, but sample by sample if the samples have different classes.

    Captum repeats samples internally, so per-sample classes would no longer match. The class with
    the highest score is determined once, on the image itself, since it could differ between steps.
    """

    def act_each(part: Tensor, wanted: Target) -> Tensor:
        if wanted is None:
            wanted = highest(model, part)
        if isinstance(wanted, Tensor) and wanted.ndim == 1:
            one = [act(part[[place]], int(each)) for place, each in enumerate(wanted)]
            return torch.cat(one)
        return act(part, wanted)

    return in_chunks(act_each, inputs, target, size, progress)
