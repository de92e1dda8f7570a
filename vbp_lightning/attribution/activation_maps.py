"""Class activation maps: weighted sums of the feature maps of a layer."""

import torch
from torch import Tensor, nn
from torch.fx import Node

from vbp_lightning.attribution.gradients import Form, GuidedBackprop, layer_named, over_channels
from vbp_lightning.attribution.scores import (
    Progress,
    Target,
    class_scores,
    in_chunks,
)
from vbp_lightning.attribution.undisturbed import undisturbed
from vbp_lightning.graph.exporting import UnsupportedNetworkError
from vbp_lightning.graph.network_graph import Graphs, NetworkGraph
from vbp_lightning.graph.running import evaluated
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
        self._graphs = Graphs(model)
        self.layer = None if layer is None else layer_named(model, layer)
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

        def act(part: Tensor, wanted: Target) -> Tensor:
            graph = self._graphs.of(part)
            node = last_map(graph) if self.layer is None else graph.output_of(self.layer)
            with torch.inference_mode(mode=False), torch.enable_grad():
                output, (maps,) = evaluated(graph, part.detach().clone(), [node])
                score = class_scores(output, wanted).sum()
                (gradient,) = torch.autograd.grad(score, maps)
            small = (gradient.mean((2, 3), keepdim=True) * maps.detach()).sum(1, keepdim=True)
            return _to_image(small.relu() if self.relu else small, part)

        return in_chunks(act, inputs, target, self.chunk, progress)


class GuidedGradCam:
    """Guided Grad-CAM (Selvaraju et al. 2017, section 3.2): Grad-CAM times guided backpropagation.

    Args:
        model: Any classifier with ReLUs; it is not changed.
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
            UnsupportedNetworkError: The network has no ReLU, or cannot be exported.
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


def last_map(graph: NetworkGraph) -> Node:
    """The last operation whose result is ``(N, C, H, W)`` with more than one pixel.

    Raises:
        UnsupportedNetworkError: There is none.
    """
    for node, value in reversed(graph.values.items()):
        is_map = isinstance(value, Tensor) and value.ndim == 4 and value[0, 0].numel() > 1
        if is_map and value.is_floating_point() and node.op == "call_function":
            return node
    raise UnsupportedNetworkError("the network has no layer that gives feature maps")


def _to_image(small: Tensor, images: Tensor) -> Tensor:
    return nn.functional.interpolate(
        small, size=images.shape[2:], mode="bilinear", align_corners=False
    )
