"""The filters of convolutions, as weights of bands and as colours."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vbp_lightning.graph.exporting import layer_name, operation_of
from vbp_lightning.graph.network_graph import graph_of
from vbp_lightning.inspection.layers import executed_modules, full_name


@dataclass(frozen=True)
class Filters:
    """The filters of one convolution.

    Args:
        layer: Its name.
        weights: ``(out, in, kh, kw)`` float32, times the scale of the batch norm ``folded``.
        offsets: ``(out,)`` added to the sums: bias and batch norm.
        folded: The name of the batch norm behind the convolution; None if there is none.
        first: Whether the convolution reads the bands of the input.
    """

    layer: str
    weights: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float32]
    folded: str | None
    first: bool


def filters_of(model: nn.Module, inputs: Tensor, layer: str | None = None) -> Filters:
    """The filters of a convolution.

    A batch norm directly behind the convolution scales every filter and may change its sign.
    Weights and offsets include it.

    Args:
        model: Any network.
        inputs: ``(N, C, H, W)`` that the network takes.
        layer: Name of a convolution or of a container that holds one; None for the first.

    Returns:
        Weights and offsets.

    Raises:
        ValueError: There is no such convolution; the message lists all convolutions.
    """
    running = executed_modules(model, inputs)
    names = list(running)
    known = [name for name in names if isinstance(running[name], nn.Conv2d)]
    if not known:
        raise ValueError("the network has no convolution")
    name = known[0]
    if layer is not None:
        try:
            full = full_name(names, layer)
        except ValueError:
            full = layer
        inside = [each for each in known if each == full or each.startswith(f"{full}.")]
        if len(inside) != 1:
            raise ValueError(f"layer is {layer!r}; choose a convolution: {', '.join(known)}")
        name = inside[0]
    conv = running[name]
    assert isinstance(conv, nn.Conv2d)
    weights = conv.weight.detach().cpu().double()
    offsets = torch.zeros(len(weights)) if conv.bias is None else conv.bias.detach().cpu()
    offsets = offsets.double()
    users = list(graph_of(model, inputs).outputs[name].users)
    behind = layer_name(users[0], "") if [*map(operation_of, users)] == ["batch_norm"] else ""
    norm = running.get(behind)
    folded = None
    if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
        assert norm.running_mean is not None
        factor = (norm.running_var.cpu().double() + norm.eps).rsqrt()
        shift = torch.zeros_like(factor)
        if norm.affine:
            factor, shift = factor * norm.weight.cpu(), norm.bias.cpu()
        weights = weights * factor.view(-1, 1, 1, 1)
        offsets = (offsets - norm.running_mean.cpu()) * factor + shift
        folded = behind
    return Filters(
        name,
        weights.detach().float().numpy(),
        offsets.detach().float().numpy(),
        folded,
        name == known[0] and conv.in_channels == inputs.shape[1],
    )


def exciting_colours(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The colours with the largest response of 1×1 filters, at a fixed distance from the mean.

    The response is ``Σ w_b x_b``. Among colours ``x`` at the same distance from the mean, in the
    units of the filter (standard deviations of a band), ``x = w / ‖w‖`` has the largest response
    and ``x = -w / ‖w‖`` the smallest.

    Args:
        weights: ``(out, bands, 1, 1)``.

    Returns:
        ``(out, bands)`` unit vectors; zero for a filter of zeros.
    """
    flat = weights[:, :, 0, 0]
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = np.divide(flat, norm, where=norm > 0, out=np.zeros_like(flat))
    return unit
