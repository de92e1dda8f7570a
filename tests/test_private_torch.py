"""The package watches no forward pass: no private attributes of PyTorch, hooks or modes."""

import ast
import re
from pathlib import Path

import pytest

import vbp_lightning

WATCHERS = {"TorchDispatchMode", "TorchFunctionMode", "__torch_function__", "__torch_dispatch__"}
PRIVATE = {
    "_buffers", "_parameters", "_modules", "_forward_hooks", "_forward_pre_hooks",
    "_backward_hooks", "_call_impl", "_execution_engine", "_schema", "_input_nodes", "_C",
}  # fmt: skip


def found(source):
    """The names in a module that watch a forward pass or are private to PyTorch."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            whole = ast.unparse(node)
            of_torch = re.match(r"torch\.([a-zA-Z]\w*\.)*_", whole) is not None
            hook = node.attr.startswith("register_") and node.attr.endswith("hook")
            if of_torch or hook or node.attr in PRIVATE | WATCHERS:
                names.append(whole)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            paths = [f"{module}.{alias.name}".strip(".") for alias in node.names]
            names += [
                path
                for path in paths
                if (
                    path.split(".")[0] == "torch"
                    and (any(part.startswith("_") for part in path.split(".")) or "hook" in path)
                )
                or path.split(".")[-1] in WATCHERS
            ]
        elif isinstance(node, ast.FunctionDef) and node.name in WATCHERS:
            names.append(node.name)
    return names


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from torch.utils._python_dispatch import TorchDispatchMode", 1),
        ("from torch.utils.hooks import RemovableHandle", 1),
        ("from torch.overrides import TorchFunctionMode", 1),
        ("module.register_forward_hook(f), output.register_hook(f)", 2),
        ("nn.Module.register_full_backward_pre_hook(m, f)", 1),
        ("model._modules, torch._C", 2),
        ("from torch import _C", 1),
        ("self._model.modules(), torch.fx.Node, 'torch._utils', register_hook", 0),
    ],
)
def test_the_search_finds_what_it_looks_for(source, names):
    assert len(found(source)) == names


def test_the_package_has_none():
    folder = Path(vbp_lightning.__file__).parent
    paths = sorted(folder.rglob("*.py"))
    assert len(paths) > 100
    faults = {
        str(path.relative_to(folder)): names
        for path in paths
        if (names := found(path.read_text(encoding="utf-8")))
    }
    assert not faults
