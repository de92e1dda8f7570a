"""Examples in the docstrings of the package print what they show."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest
import torch

PACKAGE = Path(__file__).parents[2] / "vbp_lightning"


def modules_with_examples() -> list[str]:
    """Returns the names of all modules with a line that starts an example."""
    return [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in sorted(PACKAGE.rglob("*.py"))
        if ">>> " in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_of(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples may write files
    torch.manual_seed(0)
    module = import_module(name)
    found = doctest.DocTestFinder(exclude_empty=True).find(module)
    runner = doctest.DocTestRunner(verbose=False)
    report: list[str] = []
    for example in found:
        runner.run(example, out=report.append)
    assert runner.tries > 0
    assert not runner.failures, "".join(report)
