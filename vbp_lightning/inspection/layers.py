"""The layers of a network by name, their outputs, and the score of one of their units."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vbp_lightning.attribution.undisturbed import undisturbed

Visit = Callable[[str, nn.Module, Tensor], None]
"""Called with the name of a layer, the module and its output. The second use of a module has
``" (2)"`` appended to its name, and so on."""


@contextmanager
def visiting(model: nn.Module, visit: Visit) -> Iterator[None]:
    """Calls ``visit`` with the output of every module that runs inside the context.

    Args:
        model: All modules inside it are hooked; the hooks are removed afterwards.
        visit: Called with each output before a later operation can overwrite it.
    """
    uses: Counter[str] = Counter()
    handles: list[RemovableHandle] = []

    def hook_of(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, _: object, output: object) -> None:
            if isinstance(output, Tensor):
                uses[name] += 1
                count = uses[name]
                visit(name if count == 1 else f"{name} ({count})", module, output)

        return hook

    try:
        for name, module in model.named_modules():
            if name:
                handles.append(module.register_forward_hook(hook_of(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is a layer and not a container of layers."""
    return next(module.children(), None) is None


def layer_outputs(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """The output of every layer in one forward pass in eval mode.

    Args:
        model: Any network; left unchanged.
        inputs: ``(N, C, H, W)`` floating point, raw as the model takes them.

    Returns:
        Copies of the outputs by layer name in order of execution, usually ``(N, c, h, w)`` or
        ``(N, f)``. Containers such as ``nn.Sequential`` are left out.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, output: Tensor) -> None:
        if is_leaf(module):
            outputs[name] = output.detach().clone()  # a later ReLU may work in place

    with undisturbed(model, inputs.device), visiting(model, keep):
        model(inputs)
    return outputs


def executed_modules(model: nn.Module, inputs: Tensor) -> dict[str, nn.Module]:
    """The modules that run, containers included, by name in the order in which they finish."""
    found: dict[str, nn.Module] = {}

    def keep(name: str, module: nn.Module, _: Tensor) -> None:
        if not name.endswith(")"):
            found[name] = module

    with undisturbed(model, inputs.device), visiting(model, keep):
        model(inputs[:1])
    return found


def resolve_layer(model: nn.Module, name: str, inputs: Tensor) -> str:
    """The full name of a layer from its name or the end of it: ``block2`` of ``network.block2``.

    Args:
        model: Any network.
        name: The full name or the end of it, from a dot on.
        inputs: ``(N, C, H, W)``; layers that do not run for these are not known.

    Returns:
        The full name.

    Raises:
        ValueError: No layer or several have this name; the message lists all layers.
    """
    return full_name(list(executed_modules(model, inputs)), name)


def full_name(known: Sequence[str], name: str) -> str:
    """The only known name that equals a name or ends with it; see :func:`resolve_layer`.

    Raises:
        ValueError: There is none, or there are several.
    """
    if name in known:
        return name
    found = [each for each in known if each.endswith(f".{name}")]
    if len(found) == 1:
        return found[0]
    raise ValueError(f"layer is {name!r}; choose one of {', '.join(known)}")


def layer_output(model: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    """The output of one layer, or of the first use of it; gradients flow if they are enabled.

    Args:
        model: Any network, run in its present mode.
        layer: Name of one of its modules, as in ``model.named_modules()``.
        inputs: ``(N, C, H, W)``.

    Returns:
        A copy of the output, usually ``(N, c, h, w)`` or ``(N, f)``.

    Raises:
        ValueError: The layer does not run.
    """
    outputs: list[Tensor] = []

    def keep(name: str, _: nn.Module, output: Tensor) -> None:
        if name == layer:
            outputs.append(output.clone())

    with visiting(model, keep):
        model(inputs)
    if not outputs:
        raise ValueError(f"layer is {layer!r}; it does not run")
    return outputs[0]


class UnitScore(nn.Module):
    """A network that returns the activation of one unit instead of its output.

    Args:
        model: Any network.
        layer: Name of one of its modules, as in ``model.named_modules()``.
        channel: Channel of a feature map, or unit of a flat output.
        position: Row and column in the feature map, or None for its centre. Ignored for a
            flat output.

    Shape:
        ``(N, C, H, W)`` to ``(N,)``.
    """

    def __init__(
        self, model: nn.Module, layer: str, channel: int, position: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.layer = layer
        self.channel = channel
        self.position = position

    def forward(self, inputs: Tensor) -> Tensor:
        """Runs the whole network and returns the unit's activation.

        Raises:
            ValueError: The layer does not run, or has no such channel or position.
        """
        features = layer_output(self.model, self.layer, inputs)
        if not 0 <= self.channel < features.shape[1]:
            raise ValueError(
                f"unit is {self.channel}; {self.layer} has units 0 to {features.shape[1] - 1}"
            )
        if features.ndim == 2:
            return features[:, self.channel]
        height, width = features.shape[-2:]
        row, column = self.position or (height // 2, width // 2)
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(
                f"position is {row}, {column}; the maps of {self.layer} are {height} × {width}"
            )
        return features[:, self.channel, row, column]


def last_linear(model: nn.Module, inputs: Tensor) -> str:
    """The name of the last linear layer that runs, which computes scores from features.

    Raises:
        ValueError: The network has none.
    """
    linear = [
        name
        for name, module in executed_modules(model, inputs).items()
        if isinstance(module, nn.Linear)
    ]
    if not linear:
        raise ValueError("the network has no linear layer whose input could serve as features")
    return linear[-1]


def features_and_outputs(model: nn.Module, layer: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The input of a layer and the output of the network, in eval mode.

    Args:
        model: Any network; left unchanged.
        layer: Name of a module, such as that of :func:`last_linear`.
        inputs: ``(N, C, H, W)``.

    Returns:
        ``(N, F)`` and ``(N, K)`` float32 on the CPU.
    """
    kept: list[Tensor] = []

    def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        kept.append(arguments[0].detach().flatten(1).float().cpu().clone())

    handle = model.get_submodule(layer).register_forward_pre_hook(hook)
    try:
        with undisturbed(model, inputs.device):
            output = model(inputs)
    finally:
        handle.remove()
    return kept[-1], output.detach().float().cpu().reshape(len(inputs), -1)
