"""Which networks of torchvision and timm can be explained, and whether their masks are right.

    python benchmarks/networks.py                             all; writes docs/networks.md
    python benchmarks/networks.py resnet18 timm:resnest14d    some, as rows on the screen

Needs ``pip install torchvision timm``. The networks have random weights, in float64. A mask is
compared with a second computation that shares no rule with the first, the *shadow gradient*: the
network runs forward with one channel of ones beside the image. Convolutions and poolings become
sums over their windows, activations become multiplications by their averages, and what only moves
values does so with the shadow too. The mask is the gradient of the sum over the last activations.
Which axes are channels is found with random numbers that are equal for all channels of a place.
"""

import argparse
import importlib
import platform
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from vbp_lightning.attribution import UnsupportedNetworkError, VisualBackProp
from vbp_lightning.errors import one_line
from vbp_lightning.graph.network_graph import graph_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "networks.md"
SIZE = (96, 128)
"""Height and width of the images, if the network takes any: unequal, so that swapped axes show."""
TOLERANCE = 1e-12
"""Largest difference of two equal masks, as a share of the largest value."""

TORCHVISION = """
alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3
mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnet50
resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_0 vgg11 vgg11_bn wide_resnet50_2 maxvit_t swin_t
swin_v2_t vit_b_32
""".split()  # noqa: SIM905
TIMM = """
convformer_s18 convmixer_768_32 convnext_atto convnext_atto_rms convnextv2_atto cs3darknet_focus_s
cspdarknet53 cspnext_tiny cspresnet50 darknet17 densenetblur121d dla34 dla60_res2net dpn48b
eca_nfnet_l0 eca_resnet33ts ecaresnet26t efficientnet_b0_g16_evos efficientnet_b0_gn
ese_vovnet19b_dw ese_vovnet39b_evos fasternet_t0 fastvit_t8 fbnetc_100 fbnetv3_b focalnet_tiny_srf
gernet_s ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnet_tiny hgnetv2_b0
hrnet_w18_small inception_next_atto inception_resnet_v2 inception_v4 lcnet_050 lcnetv2_small
legacy_seresnet18 legacy_xception mambaout_femto mixnet_s mnasnet_small mobilenetv4_conv_small
mobileone_s0 nasnetalarge nf_resnet26 nfnet_l0 pnasnet5large poolformer_s12 rdnet_tiny regnetz_b16
repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_14w_8s resnest14d resnet18d resnetaa50
resnetblur18 resnetv2_50 resnetv2_50d_evos resnetv2_50d_frn resnetv2_50d_gn rexnet_100 selecsls42b
semnasnet_075 seresnet18 skresnet18 spnasnet_100 starnet_s1 swiftformer_xs tf_efficientnet_lite0
tf_mobilenetv3_small_minimal_100 tinynet_e tresnet_m vovnet39a xception41
bat_resnext26ts botnet26t_256 caformer_s18 coat_lite_tiny coatnet_nano_rw_224 davit_tiny
deit_tiny_patch16_224 eca_botnext26ts_256 edgenext_xx_small efficientformer_l1 efficientvit_b0
efficientvit_m0 gcresnet33ts gmixer_12_224 halonet26t lambda_resnet26t levit_128s mixer_s32_224
mobilenetv4_hybrid_medium mobilevit_xxs mobilevitv2_050 nextvit_small pit_ti_224 pvt_v2_b0
resmlp_12_224 swin_tiny_patch4_window7_224 visformer_tiny xcit_nano_12_p8_224
""".split()  # noqa: SIM905


# The second computation


class NoRuleError(Exception):
    """The second computation has no rule for an operation."""


@dataclass(frozen=True)
class Value:
    """What the second computation knows of a result that depends on the image.

    Args:
        shadow: The sum over all paths to each element; None if places were mixed.
        probe: Random numbers, another one for each place and equal for all channels of a place.
        lasts: The activations from which it was reached without passing another one.
        factor: Whether it can be the factor of a gate.
        origins: Operations of whose results it is a function, value by value.
    """

    shadow: Any = None
    probe: Any = None
    lasts: frozenset[Node] = frozenset()
    factor: bool = False
    origins: frozenset[Node] = frozenset()

    def moved(self, function: Callable[[Tensor], Any]) -> "Value":
        """The value after a step that moves elements."""
        return replace(
            self, shadow=function(self.shadow), probe=function(self.probe), origins=frozenset()
        )

    def channels(self) -> set[int]:
        """The axes along which all elements are equal."""
        found = set()
        for axis, size in enumerate(self.probe.shape):
            if size == 1 or bool((self.probe.amax(axis) == self.probe.amin(axis)).all()):
                found.add(axis)
        return found

    def one_channel(self) -> "Value":
        """The value with size 1 of all axes of channels."""
        value = self
        for axis in self.channels():
            value = value.moved(lambda each, axis=axis: each.narrow(axis, 0, 1))
        return value


ACTIVATIONS = {
    "relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish",
    "hardswish", "softplus", "hardtanh", "threshold", "sigmoid", "hardsigmoid", "tanh",
}  # fmt: skip
GATES = {"sigmoid", "hardsigmoid", "tanh"}
NORMS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"}
REDUCTIONS = {"mean", "sum", "amax", "amin", "max", "var", "std", "linalg_vector_norm", "norm"}
ARITHMETIC = {"add", "sub", "mul", "div"}
PRODUCTS = {"matmul", "bmm", "scaled_dot_product_attention", "einsum"}
VIEWS = {"view", "reshape", "flatten", "unflatten", "_unsafe_view"}
MOVES = {
    "permute", "transpose", "squeeze", "unsqueeze", "expand", "expand_as", "repeat", "slice",
    "select", "chunk", "split", "split_with_sizes", "unbind", "clone", "contiguous", "roll", "flip",
    "pixel_shuffle", "channel_shuffle", "upsample_nearest2d", "upsample_bilinear2d", "to",
}  # fmt: skip


def convolution(
    shadow: Tensor, result: Tensor, weight: Tensor, _: Any = None, *geometry: Any
) -> Tensor:
    """The sum over the windows of a convolution: stride, padding and dilation as given."""
    return F.conv2d(shadow, shadow.new_ones(1, 1, *weight.shape[2:]), None, *geometry[:3])


def transposed(
    shadow: Tensor, result: Tensor, weight: Tensor, _: Any = None, *geometry: Any
) -> Tensor:
    """The sum over the windows of a transposed convolution."""
    stride, padding, extra, _, dilation = (*geometry, *(1, 0, 0, 1, 1)[len(geometry) :])
    ones = shadow.new_ones(1, 1, *weight.shape[2:])
    return F.conv_transpose2d(shadow, ones, None, stride, padding, extra, 1, dilation)


def max_pool(
    shadow: Tensor,
    result: Tensor,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The sum over the windows of a max pooling."""
    if not {1, (1, 1)} >= {dilation if isinstance(dilation, int) else tuple(dilation)}:
        raise NoRuleError("a dilated pooling")
    return avg_pool(shadow, result, kernel, stride, padding, ceil_mode)


def avg_pool(
    shadow: Tensor,
    result: Tensor,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    *_: Any,
) -> Tensor:
    """The sum over the windows of an average pooling."""
    stride = stride or kernel
    return F.avg_pool2d(shadow, kernel, stride, padding, ceil_mode, divisor_override=1)


def adaptive_pool(shadow: Tensor, result: Tensor, *_: Any) -> Tensor | None:
    """The sum over the windows of an adaptive pooling, as a product with two matrices."""
    if max(result.shape[2:]) == 1:
        return None
    for axis in (2, 3):
        whole, count = shadow.shape[axis], result.shape[axis]
        place = torch.arange(whole)
        number = torch.arange(count)[:, None]
        inside = (place >= number * whole // count) & (place < -(-(number + 1) * whole // count))
        shadow = torch.tensordot(shadow, inside.to(shadow), ([axis], [1])).movedim(-1, axis)
    return shadow


WINDOWS: dict[str, Callable[..., Tensor | None]] = {
    "conv2d": convolution,
    "conv_transpose2d": transposed,
    "max_pool2d": max_pool,
    "avg_pool2d": avg_pool,
    "adaptive_avg_pool2d": adaptive_pool,
    "adaptive_max_pool2d": adaptive_pool,
}


def operation_of(node: Node) -> str:
    """The name of an operation."""
    name = str(node.target).removeprefix("aten.").split(".")[0]
    return "getitem" if "getitem" in name else name


def summed(value: Value, axis: int) -> Tensor:
    """The sum of the different channels along an axis, which is kept with size 1."""
    if axis in value.channels():
        return value.shadow.narrow(axis, 0, 1)
    # Blocks of places have become channels, each of them as often as the others.
    different = torch.unique(value.probe.movedim(axis, 0).flatten(1), dim=0)
    return value.shadow.mean(axis, keepdim=True) * len(different)


def lasts_of(values: Iterable[Value]) -> frozenset[Node]:
    """The last activations below any of some values."""
    return frozenset().union(*(each.lasts for each in values))


class Shadow(Interpreter):
    """Runs a network and its shadow.

    Args:
        module: The exported operations.
        images: ``(N, C, H, W)`` in float64.
    """

    def __init__(self, module: GraphModule, images: Tensor) -> None:
        super().__init__(module)
        self.images = images
        self.random = torch.Generator().manual_seed(1)
        self.root = torch.ones_like(images[:, :1]).requires_grad_()
        self.values: dict[Node, Value] = {}
        self.sums: dict[Node, Tensor] = {}
        self.lasts: frozenset[Node] = frozenset()

    def mask(self) -> Tensor:
        """The raw mask, ``(N, 1, H, W)``.

        Raises:
            NoRuleError: An operation has no rule, or what was mixed over all places comes back.
        """
        self.run(self.images)
        if not self.lasts:
            raise NoRuleError("there is no activation")
        total = torch.stack([self.sums[node] for node in self.lasts]).sum()
        return torch.autograd.grad(total, self.root)[0]

    def run_node(self, n: Node) -> Any:
        """The result of an operation, whose shadow is kept."""
        if n.op == "call_module":  # a guard of the export
            return None
        with torch.no_grad():
            result = super().run_node(n)
        read = [each for each in n.all_input_nodes if each in self.values]
        if operation_of(n).endswith("_as"):  # the other operand gives a shape or type
            read = [each for each in n.args[:1] if each in self.values]
        found = None
        if n.op == "placeholder":
            found = self._at_new_places(Value(), self.root, result)
        elif n.op == "output":
            self.lasts = lasts_of(self.values[each] for each in read)
        elif read and isinstance(result, Tensor | list | tuple):
            found = self._found(n, read, result)
        if found is not None:
            self.values[n] = found
        return result

    def _at_new_places(self, value: Value, shadow: Tensor, result: Tensor) -> Value:
        probe = torch.rand(shadow.shape, generator=self.random, dtype=shadow.dtype)
        value = replace(value, shadow=shadow, probe=probe, factor=False)
        return value.moved(lambda each: each.expand(result.shape))

    def _found(self, node: Node, read: list[Node], result: Any) -> Value | None:
        values = [self.values[each] for each in read]
        name = operation_of(node)
        ended = Value(lasts=lasts_of(values), factor=True)
        if name.startswith("new_") or name.endswith("_like"):
            return None
        if all(each.shadow is None for each in values):
            if name in WINDOWS and isinstance(result, Tensor) and max(result.shape[2:]) > 1:
                raise NoRuleError(f"{node}: what was mixed over all places is read as a map")
            return ended
        if name in ("cat", "stack"):
            return self._joined(name, node, result)
        if name in ARITHMETIC and len(node.args) > 1 and all(each in read for each in node.args):
            return self._of_two(name, node, result)
        if name in PRODUCTS and (len(read) > 1 or name != "matmul" or node.args[0] not in read):
            return ended
        if len(read) > 1:
            raise NoRuleError(f"{node}: several operands")
        return self._of_one(name, node, read[0], result) or ended

    def _of_one(self, name: str, node: Node, read: Node, result: Any) -> Value | None:
        """An operation on one value; None if it mixes places."""
        value = self.values[read]
        origins = value.origins | {read}
        cut = name in ("clamp", "clamp_min") and node.args[1] == 0
        if name in ACTIVATIONS or name == "maximum" or cut:
            found = self._activated(node, value, result)
            return replace(found, factor=name in GATES, origins=origins)
        if name in ARITHMETIC or name == "addcmul":
            found = value.moved(lambda each: each.expand(result.shape))
            return replace(found, origins=origins)
        if name in NORMS:
            return replace(value, factor=False, origins=frozenset())
        if name in ("softmax", "log_softmax"):
            return replace(value, factor=True, origins=frozenset())
        if name in ("linear", "matmul"):
            if value.probe.dim() - 1 not in value.channels():
                return None
            found = value.moved(lambda each: each[..., :1].expand(result.shape))
            return replace(found, factor=False)
        if name in REDUCTIONS:
            return self._reduced(name, node, value, result)
        if name == "getitem":
            part = value.moved(lambda each: each[node.args[1]])
            return None if part.shadow is None else part
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        if name in VIEWS:
            return value.moved(lambda each: each.reshape(result.shape))
        if name == "pad" and args[2:3] in ((), ("constant",)):
            return self._padded(value, args[1], result)
        if name in MOVES or name == "pad":
            return value.moved(lambda each: node.target(each, *args[1:], **kwargs))
        if name in WINDOWS:
            first = result if isinstance(result, Tensor) else result[0]
            shadow = WINDOWS[name](summed(value, 1), first, *args[1:])
            if shadow is None:
                return None
            found = self._at_new_places(value, shadow, first)
            return found if first is result else found.moved(lambda each: [each, None])
        if torch.Tag.pointwise in node.target.tags:  # a part of a normalisation or of a gate
            return replace(value, factor=True, origins=origins)
        raise NoRuleError(f"{node}: no rule")

    def _activated(self, node: Node, value: Value, result: Tensor) -> Value:
        """An activation: the shadow times the average of the positive part over channels."""
        average = result.clamp(min=0).mean(sorted(value.channels()), keepdim=True)
        value = value.one_channel()
        value = replace(value, shadow=value.shadow * average, lasts=frozenset({node}))
        self.sums[node] = value.shadow.sum()
        return value.moved(lambda each: each.expand(result.shape))

    def _padded(self, value: Value, given: list[int], result: Tensor) -> Value:
        """Zeros around places; channels of zeros are channels like others."""
        pads, channels = [*given], value.channels()
        for number in range(len(pads) // 2):
            if result.dim() - 1 - number in channels:
                pads[2 * number : 2 * number + 2] = 0, 0
        one = value.one_channel()
        return one.moved(lambda each: F.pad(each, pads).expand(result.shape))

    def _joined(self, name: str, node: Node, result: Tensor) -> Value:
        """A concatenation: every channel of the result is reached from all parts."""
        parts = [self.values[each] for each in node.args[0] if each in self.values]
        if any(each.shadow is None for each in parts):
            raise NoRuleError(f"{node}: joins a map and something else")
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if name == "stack":
            parts = [part.moved(lambda each: each.unsqueeze(axis)) for part in parts]
        axis %= result.dim()
        if any(axis not in each.channels() for each in parts):
            raise NoRuleError(f"{node}: joins maps along places")
        parts = [part.moved(lambda each: each.narrow(axis, 0, 1)) for part in parts]
        return self._sum(parts, result)

    def _sum(self, parts: list[Value], result: Tensor) -> Value:
        shadow, probe = parts[0].shadow, parts[0].probe
        for each in parts[1:]:
            shadow, probe = shadow + each.shadow, probe + each.probe
        every = all(each.factor for each in parts)
        found = Value(shadow, probe, lasts_of(parts), every)
        return found.moved(lambda each: each.expand(result.shape))

    def _of_two(self, name: str, node: Node, result: Tensor) -> Value:
        """Sum, difference, product or quotient of two values that depend on the image."""
        pair = [self.values[each] for each in node.args[:2]]
        maps = [each for each in pair if each.shadow is not None]
        if name in ("mul", "div") and len(maps) == 2:
            for (value, of), own in zip((pair, pair[::-1]), node.args[:2], strict=True):
                if own in of.origins and (name == "mul" or value is pair[0]):  # x · f(x), x / f(x)
                    return replace(
                        self._activated(node, value, result), origins=value.origins | {own}
                    )
        if len(maps) < 2 and (name == "add" or (name != "mul" and maps[0] is not pair[0])):
            raise NoRuleError(f"{node}: {name} of a map and what was mixed over all places")
        if name == "div":
            maps = pair[:1]
        elif name == "mul" and len(maps) == 2 and pair[0].factor != pair[1].factor:
            maps = [each for each in pair if not each.factor]
        return self._sum(maps, result)

    def _reduced(self, name: str, node: Node, value: Value, result: Any) -> Value | None:
        """A reduction over channels; None if it reduces places."""
        place = 2 if "norm" in name else 1
        dims = node.args[place] if len(node.args) > place else node.kwargs.get("dim")
        dims = [dims] if isinstance(dims, int) else dims
        if not dims or not {axis % value.probe.dim() for axis in dims} <= value.channels():
            return None
        first = result if isinstance(result, Tensor) else result[0]
        keepdim = first.dim() == value.probe.dim()
        factor = value.factor or name in ("var", "std") or "norm" in name

        def reduced(each: Tensor) -> Any:
            mean = each.mean(dims, keepdim=keepdim) if dims else each
            return mean if first is result else [mean, None]

        return replace(value.moved(reduced), factor=factor)


# The table


@dataclass(frozen=True)
class Row:
    """What became of one network.

    Args:
        network: Its name, with ``timm:`` in front of those of timm.
        size: Height and width of the images.
        seconds: Processor time of the export; None if it failed.
        operations: Number of operations.
        types: Number of different operations.
        activations: Number of activations that lead to the head.
        result: A key of ``RESULTS``.
        text: The difference, or the reason.
    """

    network: str
    size: tuple[int, int]
    seconds: float | None = None
    operations: int | None = None
    types: int | None = None
    activations: int | None = None
    result: str = ""
    text: str = ""

    def __str__(self) -> str:
        seconds = None if self.seconds is None else f"{self.seconds:.1f}"
        numbers = (seconds, self.operations, self.types, self.activations)
        cells = [f"`{self.network}`", f"{self.size[0]} × {self.size[1]}"]
        cells += ["" if each is None else str(each) for each in numbers]
        return f"| {' | '.join(cells)} | {self.result}: {self.text.replace('|', '/')} |"


def made(name: str) -> nn.Module:
    """A network with random weights in float64."""
    torch.manual_seed(0)
    if name.startswith("timm:"):
        model = importlib.import_module("timm").create_model(name.removeprefix("timm:"))
    else:
        models = importlib.import_module("torchvision").models
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        model = models.get_model(name, **options)
    return model.eval().double()


def calibrate(model: nn.Module, images: Tensor) -> None:
    """Takes the statistics of batch norms from some images, which keeps values in range."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    model.eval()


def images_for(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Two images of the first size that a network takes, and its output."""
    for size in (SIZE, (224, 224), (256, 256)):
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64)
        try:
            with torch.no_grad():
                return images, model(images)
        except Exception as error:
            last = error
    raise last


def row_of(name: str) -> Row:
    """Exports and explains one network."""
    model = made(name)
    images, output = images_for(model)
    row = Row(name, (images.shape[2], images.shape[3]))
    start = time.process_time()
    try:
        graph = graph_of(model, images)
    except UnsupportedNetworkError as error:
        return replace(row, result="refused", text=str(error))
    seconds = time.process_time() - start
    operations = [each.target for each in graph.module.graph.nodes if each.op == "call_function"]
    row = replace(row, seconds=seconds, operations=len(operations), types=len({*operations}))
    expected, reason = None, ""
    try:
        expected = Shadow(graph.module, images).mask()
        if not 1e-290 < expected.max() < 1e290:
            calibrate(model, images)
            with torch.no_grad():
                output = model(images)
            expected = Shadow(graph.module, images).mask()
    except NoRuleError as error:
        reason = one_line(error).split(" While executing")[0]
    try:
        found, mask = VisualBackProp(model, "deconv").attribute_with_logits(images, normalize=False)
    except UnsupportedNetworkError as error:
        result = "refused" if expected is None else "refused by this project alone"
        return replace(row, result=result, text=str(error))
    row = replace(row, activations=len(graph.activations))
    change = float((found - output).abs().max() / output.abs().max())
    if not change < TOLERANCE:
        return replace(row, result="other output", text=f"{change:.0e}")
    if expected is None:
        return replace(row, result="not compared", text=reason)
    difference = float((mask - expected).abs().max() / expected.max())
    equal = difference < TOLERANCE  # False for NaN
    return replace(row, result="equal" if equal else "different", text=f"{difference:.0e}")


RESULTS = {
    "equal": "the mask equals that of the second computation",
    "different": "the mask differs from that of the second computation",
    "not compared": "there is a mask, but the second computation has no rule for an operation",
    "other output": "the exported network gives another output",
    "refused": "refused in one line that names the layer; there is no second computation either",
    "refused by this project alone": "refused, but the second computation gives a mask",
    "error": "any other exception",
}

PAGE_TEXT = """# Which networks can be explained?

{count} networks of torchvision and timm with random weights, in float64:

| result | meaning | networks |
| --- | --- | --- |
{summary}

The second computation shares no rule with the first. The network runs forward once more with one
channel of ones beside the image: convolutions and poolings become sums over their windows,
activations become multiplications by their averages, and the gradient with respect to that channel
is the mask. *Equal* means that the raw masks (`deconv`) differ by less than {tolerance:.0e} of the
largest value.

Networks that mix all places and add the result to the feature maps, as attention and mixers do, are
refused: every pixel would be connected to every other. A factor that is computed from all places,
as in squeeze-and-excitation, is a gate, which the mask does not follow, if it is the same for all
places or the output of a sigmoid or the like; the second computation takes every factor for a gate.

Export is the processor time before the first mask of a network; later masks of images of that size
do without it. Operations are those of one forward pass, types are the different ones among them,
and activations those that lead to the head. Batch norms that let values grow out of the range of
float64 get the statistics of the images. Made by

```
pip install torchvision timm
python benchmarks/networks.py
```

with {versions}, one thread, {machine}.

| network | images | export, s | operations | types | activations | result |
| --- | --- | --- | --- | --- | --- | --- |
{rows}
"""


def page_of(rows: list[Row]) -> str:
    """The page of the documentation."""
    counts = Counter(row.result for row in rows)
    summary = [f"| {key} | {text} | {counts[key]} |" for key, text in RESULTS.items()]
    modules = map(importlib.import_module, ("torch", "torchvision", "timm"))
    versions = ", ".join(f"{each.__name__} {each.__version__}" for each in modules)
    return PAGE_TEXT.format(
        count=len(rows),
        summary="\n".join(summary),
        tolerance=TOLERANCE,
        versions=versions,
        machine=platform.machine(),
        rows="\n".join(map(str, rows)),
    )


def main() -> None:
    """Prints a row for each network; writes the page if none is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("networks", nargs="*", help="names, those of timm as timm:NAME")
    parser.add_argument("--page", type=Path, default=PAGE, help="where all networks are listed")
    arguments = parser.parse_args()
    try:
        importlib.import_module("torchvision")
        importlib.import_module("timm")
    except ImportError as error:
        sys.exit(f"{error}: pip install torchvision timm")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    for name in arguments.networks or [*TORCHVISION, *(f"timm:{each}" for each in TIMM)]:
        try:
            row = row_of(name)
        except Exception as error:
            text = f"{type(error).__name__} {one_line(error)[:200]}"
            row = Row(name, SIZE, result="error", text=text)
        print(row, flush=True)
        rows.append(row)
    if not arguments.networks:
        arguments.page.write_text(page_of(rows), "utf-8")


if __name__ == "__main__":
    main()
