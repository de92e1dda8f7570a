"""The outputs of modules, recorded by hooks: a reference for what is read from exported graphs."""

from collections import Counter

from torch import Tensor


def hooked_outputs(net, pixels, leaves=False):
    """Copies of the outputs of all modules, or of those without children, in order of execution.

    The second use of a module has ``" (2)"`` appended to its name. Gradients flow.
    """
    kept, uses, handles = {}, Counter(), []

    def hook_of(name):
        def hook(module, _, output):
            if isinstance(output, Tensor):
                uses[name] += 1
                kept[name if uses[name] == 1 else f"{name} ({uses[name]})"] = output.clone()

        return hook

    for name, module in net.named_modules():
        if name and not (leaves and list(module.children())):
            handles.append(module.register_forward_hook(hook_of(name)))
    net(pixels)
    for handle in handles:
        handle.remove()
    return kept
