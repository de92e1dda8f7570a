"""Class activation maps: weighted sums of the feature maps of a layer."""

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from vbp_lightning.attribution.gradients import Form, GuidedBackprop, module_named, over_channels
from vbp_lightning.attribution.recording import UnsupportedNetworkError
from vbp_lightning.attribution.scores import (
    Progress,
    ScoreModel,
    Target,
    class_scores,
    differentiable,
    in_chunks,
)
from vbp_lightning.attribution.undisturbed import undisturbed
from vbp_lightning.records import PositiveCount, checked


class GradCam:
    r"""Grad-CAM (Selvaraju et al. 2017, equations 1 and 2).

    .. math:: \mathrm{ReLU}\Big(\sum_k \alpha_k A^k\Big), \quad
              \alpha_k = \frac1Z \sum_{ij} \frac{\partial y}{\partial A^k_{ij}},

    resized to the image by bilinear interpolation with the corners of both aligned.

    Args:
        model: Any classifier; its state is restored.
        layer: Name of the module whose output is :math:`A`; None for the last module whose maps
            have more than one pixel.
        relu: Whether negative sums are set to zero.
        chunk: Samples per chunk.

    Raises:
        ValueError: The model has no such layer.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        relu: bool = True,
        chunk: PositiveCount = 64,
    ) -> None:
        self.model = model
        self.layer = None if layer is None else module_named(model, layer)
        self.relu = relu
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
            ``(N, 1, H, W)``.
        """
        layer = self.layer if self.layer is not None else last_map(self.model, inputs)

        def act(part: Tensor, wanted: Target) -> Tensor:
            with differentiable(self.model, part.device):
                method = LayerGradCam(ScoreModel(self.model, wanted), layer)
                small = method.attribute(
                    part.detach().clone().requires_grad_(), relu_attributions=self.relu
                )
            return _to_image(small.detach(), part)

        return in_chunks(act, inputs, target, self.chunk, progress)


class GuidedGradCam:
    """Guided Grad-CAM (Selvaraju et al. 2017, section 3.2): Grad-CAM times guided backpropagation.

    Args:
        model: Any classifier whose ReLUs are modules; its state is restored.
        layer: Layer of Grad-CAM; None for the last module whose maps have more than one pixel.
        form: How the channels of the guided gradient are reduced to one value.
        chunk: Samples per chunk.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        form: Form = "absolute",
        chunk: PositiveCount = 64,
    ) -> None:
        self._cam = GradCam(model, layer, chunk=chunk)
        self._guided = GuidedBackprop(model, form, chunk=chunk)
        self.form: Form = form
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
            ``(N, 1, H, W)``.

        Raises:
            UnsupportedNetworkError: A ReLU is called as a function.
        """

        def act(part: Tensor, wanted: Target) -> Tensor:
            cam = self._cam.attribute(part, wanted)
            return over_channels(self._guided.gradient(part, wanted) * cam, self.form)

        return in_chunks(act, inputs, target, self.chunk, progress)


class Cam:
    """Class activation maps (Zhou et al. 2016): the last feature maps weighted by the linear head.

    Args:
        model: A classifier that ends in global average pooling and one linear layer.
        chunk: Samples per chunk.
    """

    @checked
    def __init__(self, model: nn.Module, chunk: PositiveCount = 64) -> None:
        self.model = model
        self.chunk = chunk

    def attribute(
        self, inputs: Tensor, target: Target = None, *, progress: Progress | None = None
    ) -> Tensor:
        """The map of each sample; its mean over positions is the score without the bias.

        Args:
            inputs: ``(N, C, H, W)`` floating point, raw as the model takes them.
            target: See :func:`~vbp_lightning.attribution.scores.class_scores`.
            progress: Called with the number of samples done after each chunk.

        Returns:
            ``(N, 1, H, W)``.

        Raises:
            UnsupportedNetworkError: The network has another head.
        """

        def act(part: Tensor, wanted: Target) -> Tensor:
            maps, weights, output = self._record(part)
            positions = maps.flatten(2).transpose(1, 2)  # (n, positions, channels)
            scores = positions @ weights.T  # (n, positions, classes)
            chosen = wanted
            if wanted is None and output.shape[1] > 1:
                chosen = output.argmax(dim=1)
            count = positions.shape[1]
            spread = chosen
            if isinstance(chosen, Tensor) and chosen.ndim == 1:
                spread = chosen.repeat_interleave(count)
            per_position = class_scores(scores.flatten(0, 1), spread)
            return _to_image(per_position.view(len(part), 1, *maps.shape[2:]), part)

        return in_chunks(act, inputs, target, self.chunk, progress)

    def _record(self, part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The maps before the pooling, the weights of the linear layer, and its output."""
        seen: list[tuple[nn.Module, Tensor, Tensor]] = []
        heads = (nn.AdaptiveAvgPool2d, nn.Linear)
        with undisturbed(self.model, part.device) as modules:
            hooks = [
                each.register_forward_hook(lambda m, i, o: seen.append((m, i[0], o)))
                for each in modules
                if isinstance(each, heads)
            ]
            try:
                output = self.model(part.clone())
            finally:
                for hook in hooks:
                    hook.remove()
        pools = [each for each in seen if isinstance(each[0], nn.AdaptiveAvgPool2d)]
        linear = [each for each in seen if isinstance(each[0], nn.Linear)]
        fits = (
            len(pools) == len(linear) == 1
            and pools[0][2].shape[2:] == (1, 1)
            and torch.equal(linear[0][1], pools[0][2].flatten(1))
            and torch.equal(linear[0][2].reshape(output.shape), output)
        )
        if not fits:
            raise UnsupportedNetworkError(
                "class activation maps need a network that ends in global average pooling and one "
                "linear layer (model.head=gap); grad_cam works for others"
            )
        weight = linear[0][0].weight
        assert isinstance(weight, Tensor)
        return pools[0][1], weight.detach(), linear[0][2]


def last_map(model: nn.Module, inputs: Tensor) -> nn.Module:
    """The last module without children whose output has more than one pixel.

    Args:
        model: Any module.
        inputs: ``(N, C, H, W)``; one sample is run.

    Returns:
        The module.

    Raises:
        UnsupportedNetworkError: No module gives such an output.
    """
    found: list[nn.Module] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
            found.append(module)

    with undisturbed(model, inputs.device) as modules:
        leaves = [each for each in modules if not any(True for _ in each.children())]
        hooks = [each.register_forward_hook(note) for each in leaves]
        try:
            model(inputs[:1].clone())
        finally:
            for hook in hooks:
                hook.remove()
    if not found:
        raise UnsupportedNetworkError("the network has no layer that gives feature maps")
    return found[-1]


def _to_image(small: Tensor, images: Tensor) -> Tensor:
    return nn.functional.interpolate(
        small, size=images.shape[2:], mode="bilinear", align_corners=False
    )
