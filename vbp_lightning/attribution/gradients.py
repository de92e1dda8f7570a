"""Attributions from the gradient at the pixels, by Captum."""

from collections.abc import Callable
from typing import Literal

import torch
from captum.attr import Deconvolution as CaptumDeconvolution
from captum.attr import GuidedBackprop as CaptumGuidedBackprop
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import NeuronGuidedBackprop, NoiseTunnel
from captum.attr import Saliency as CaptumSaliency
from torch import Tensor, nn

from vbp_lightning.attribution.scores import (
    CHUNK,
    Progress,
    ScoreModel,
    Target,
    differentiable,
    highest,
    in_chunks,
    refuse_functional_relus,
)

Form = Literal["absolute", "signed"]

_WRAPPED = "network."
"""What the names of the layers of a wrapped network begin with."""


def over_channels(gradient: Tensor, form: Form) -> Tensor:
    """One value a pixel from one a channel.

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


def checked_form(form: Form) -> Form:
    """The form itself.

    Raises:
        ValueError: There is no such form.
    """
    if form not in ("absolute", "signed"):
        raise ValueError(f"form is {form!r}; choose absolute or signed")
    return form


class Saliency:
    """Image-specific class saliency (Simonyan, Vedaldi and Zisserman 2013, section 3.1).

    The gradient of the unnormalised score of a class at the pixels: which pixels need be changed
    the least to change the score the most.

    Args:
        model: Any classifier of ``(N, C, H, W)``; found as it was left.
        form: How channels become one value: see :func:`over_channels`.
        chunk: Samples at a time.
    """

    def __init__(self, model: nn.Module, form: Form = "absolute", chunk: int = CHUNK) -> None:
        self.model = model
        self.form = checked_form(form)
        self.chunk = chunk

    def attribute(
        self, inputs: Tensor, target: Target = None, *, progress: Progress | None = None
    ) -> Tensor:
        """The saliency of each sample.

        Args:
            inputs: ``(N, C, H, W)`` floating point, raw as the model takes them.
            target: See :func:`~vbp_lightning.attribution.scores.class_scores`.
            progress: Told the number of samples done, after each chunk.

        Returns:
            ``(N, 1, H, W)``, score per unit of a pixel.
        """

        def act(part: Tensor, wanted: Target) -> Tensor:
            with differentiable(self.model, part.device):
                method = CaptumSaliency(ScoreModel(self.model, wanted))
                gradient = method.attribute(part.detach().clone(), abs=False)
            return over_channels(gradient.detach(), self.form)

        return in_chunks(act, inputs, target, self.chunk, progress)


class GuidedBackprop:
    """Guided backpropagation (Springenberg et al. 2014, "Striving for simplicity", section 3.4).

    The gradient with every ReLU's backward pass cut to where both its input and the gradient that
    arrives are positive.

    Args:
        model: Any classifier whose ReLUs are modules; found as it was left.
        form: How channels become one value: see :func:`over_channels`.
        layer: Name of a module whose unit is explained instead of a class; None for the class.
        unit: Of that layer's output: channel, row and column, or the one index of a flat output.
        chunk: Samples at a time.

    Raises:
        ValueError: There is no such layer.
    """

    def __init__(
        self,
        model: nn.Module,
        form: Form = "absolute",
        layer: str | None = None,
        unit: tuple[int, ...] = (0,),
        chunk: int = CHUNK,
    ) -> None:
        self.model = model
        self.form = checked_form(form)
        self.layer = None if layer is None else module_named(model, layer)
        self.unit = tuple(unit)
        self.chunk = chunk

    def attribute(
        self, inputs: Tensor, target: Target = None, *, progress: Progress | None = None
    ) -> Tensor:
        """The guided gradient of each sample.

        Args:
            inputs: ``(N, C, H, W)`` floating point, raw as the model takes them.
            target: See :func:`~vbp_lightning.attribution.scores.class_scores`; ignored for a unit.
            progress: Told the number of samples done, after each chunk.

        Returns:
            ``(N, 1, H, W)``.

        Raises:
            UnsupportedNetworkError: A ReLU is called as a function.
        """
        return in_chunks(
            lambda part, wanted: over_channels(self.gradient(part, wanted), self.form),
            inputs,
            target,
            self.chunk,
            progress,
        )

    def gradient(self, inputs: Tensor, target: Target = None) -> Tensor:
        """The same before the channels become one: ``(N, C, H, W)``, all samples at once."""
        refuse_functional_relus(self.model, inputs, "guided backpropagation")
        with differentiable(self.model, inputs.device):
            score = ScoreModel(self.model, target)
            images = inputs.detach().clone().requires_grad_()
            gradient: Tensor
            if self.layer is None:
                gradient = CaptumGuidedBackprop(score).attribute(images)
            else:
                neuron = NeuronGuidedBackprop(score, self.layer)
                gradient = neuron.attribute(images, neuron_selector=self.unit)
        return gradient.detach()


class DeconvNet:
    """The deconvolutional network (Zeiler and Fergus 2014, section 2), as a backward pass.

    The gradient with every ReLU's backward pass replaced by a ReLU of what arrives; max poolings
    are undone at their maxima.

    Args:
        model: Any classifier whose ReLUs are modules; found as it was left.
        form: How channels become one value: see :func:`over_channels`.
        chunk: Samples at a time.
    """

    def __init__(self, model: nn.Module, form: Form = "absolute", chunk: int = CHUNK) -> None:
        self.model = model
        self.form = checked_form(form)
        self.chunk = chunk

    def attribute(
        self, inputs: Tensor, target: Target = None, *, progress: Progress | None = None
    ) -> Tensor:
        """The way back of each sample.

        Args:
            inputs: ``(N, C, H, W)`` floating point, raw as the model takes them.
            target: See :func:`~vbp_lightning.attribution.scores.class_scores`.
            progress: Told the number of samples done, after each chunk.

        Returns:
            ``(N, 1, H, W)``.

        Raises:
            UnsupportedNetworkError: A ReLU is called as a function.
        """

        def act(part: Tensor, wanted: Target) -> Tensor:
            refuse_functional_relus(self.model, part, "the deconvolutional network")
            with differentiable(self.model, part.device):
                method = CaptumDeconvolution(ScoreModel(self.model, wanted))
                gradient = method.attribute(part.detach().clone().requires_grad_())
            return over_channels(gradient.detach(), self.form)

        return in_chunks(act, inputs, target, self.chunk, progress)


class IntegratedGradients:
    """Integrated gradients (Sundararajan, Taly and Yan 2017).

    The gradient averaged along the straight way from a baseline to the image, times the difference:
    the sum over pixels and channels is the difference of the scores.

    Args:
        model: Any classifier; found as it was left.
        baseline: ``mean``, each image's own mean colour, or ``zero``.
        steps: Points on the way.
        form: How channels become one value; ``signed`` keeps the sum.
        chunk: Samples at a time.
    """

    def __init__(
        self,
        model: nn.Module,
        baseline: Literal["mean", "zero"] = "mean",
        steps: int = 32,
        form: Form = "signed",
        chunk: int = CHUNK,
    ) -> None:
        if baseline not in ("mean", "zero"):
            raise ValueError(f"baseline is {baseline!r}; choose mean or zero")
        self.model = model
        self.baseline = baseline
        self.steps = steps
        self.form = checked_form(form)
        self.chunk = chunk

    def attribute(
        self, inputs: Tensor, target: Target = None, *, progress: Progress | None = None
    ) -> Tensor:
        """What each pixel adds to the score.

        Args:
            inputs: ``(N, C, H, W)`` floating point, raw as the model takes them.
            target: See :func:`~vbp_lightning.attribution.scores.class_scores`.
            progress: Told the number of samples done, after each chunk.

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
                    baselines=baseline.detach(),
                    n_steps=self.steps,
                    internal_batch_size=self.chunk,
                )
            return over_channels(result.detach().to(part.dtype), self.form)

        return _one_target_at_a_time(self.model, act, inputs, target, self.chunk, progress)


class SmoothGrad:
    """SmoothGrad (Smilkov et al. 2017): saliency averaged over noisy copies of the image.

    Args:
        model: Any classifier; found as it was left, and so is the random state.
        samples: Noisy copies of each image.
        noise: Standard deviation of the noise, as a part of each image's range of values.
        form: How channels become one value: see :func:`over_channels`.
        seed: Of the noise.
        chunk: Noisy copies at a time.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: int = 16,
        noise: float = 0.1,
        form: Form = "absolute",
        seed: int = 0,
        chunk: int = 64,
    ) -> None:
        self.model = model
        self.samples = samples
        self.noise = noise
        self.form = checked_form(form)
        self.seed = seed
        self.chunk = chunk

    def attribute(
        self, inputs: Tensor, target: Target = None, *, progress: Progress | None = None
    ) -> Tensor:
        """The averaged gradient of each sample; the same noise for each, whatever its mates.

        Args:
            inputs: ``(N, C, H, W)`` floating point, raw as the model takes them.
            target: See :func:`~vbp_lightning.attribution.scores.class_scores`.
            progress: Told the number of samples done, after each chunk.

        Returns:
            ``(N, 1, H, W)``, score per unit of a pixel.
        """

        def act(part: Tensor, wanted: Target) -> Tensor:
            spread = self.noise * float(part.max() - part.min())
            if spread == 0:
                spread = 1e-12  # Captum wants noise; a flat image gets none to speak of
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

        # The noise depends on the image's own range: one image at a time.
        return _one_target_at_a_time(self.model, act, inputs, target, 1, progress)


def module_named(model: nn.Module, name: str) -> nn.Module:
    """A module of a model by its name.

    Args:
        model: Any module.
        name: As ``named_modules`` gives it; where the model wraps a child called ``network``, as a
            RoadClassifier does, also as that child gives it.

    Raises:
        ValueError: There is none; the message lists those that there are, without ``network.``.
    """
    found = {each: module for each, module in model.named_modules() if each}
    short = {each.removeprefix(_WRAPPED): module for each, module in found.items()}
    module: nn.Module | None = found.get(name, short.get(name))
    if module is None:
        known = ", ".join(each for each in short if f"{each}." != _WRAPPED)
        raise ValueError(f"layer is {name!r}; the network has {known}")
    return module


def _one_target_at_a_time(
    model: nn.Module,
    act: Callable[[Tensor, Target], Tensor],
    inputs: Tensor,
    target: Target,
    size: int,
    progress: Progress | None,
) -> Tensor:
    """As ``in_chunks``; where each sample has its own class, sample by sample.

    Captum multiplies samples inside, and the model would no longer know whose class is whose. Nor
    may the class with the highest score be another one at every step of the way.
    """

    def act_each(part: Tensor, wanted: Target) -> Tensor:
        if wanted is None:
            wanted = highest(model, part)
        if isinstance(wanted, Tensor) and wanted.ndim == 1:
            one = [act(part[[place]], int(each)) for place, each in enumerate(wanted)]
            return torch.cat(one)
        return act(part, wanted)

    return in_chunks(act_each, inputs, target, size, progress)
