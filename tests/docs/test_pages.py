"""README, pages and metadata agree with the files and the code that they describe."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vbp_lightning

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_exist(page):
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", prose)
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_in_commands_exist(page):
    scripts = set(re.findall(r"python ([\w/]+\.py)\b", page.read_text(encoding="utf-8")))
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


def test_every_benchmark_is_listed_in_the_contributing_guide():
    guide = text_of("CONTRIBUTING.md")
    names = [path.name for path in ROOT.glob("benchmarks/*.py")]
    assert names
    assert [name for name in names if f"benchmarks/{name}" not in guide] == []


@pytest.mark.parametrize(
    "group", ["data", "debug", "experiment", "model", "task", "trainer", "upsampling"]
)
def test_the_readme_names_every_choice_of(group):
    names = [path.stem for path in (ROOT / "conf" / group).glob("*.yaml")]
    assert names
    assert [name for name in names if f"`{name}`" not in text_of("README.md")] == []


def test_the_versions_agree():
    assert f"\nversion: {vbp_lightning.__version__}\n" in text_of("CITATION.cff")
    newest = re.search(r"^## \[([\d.]+)\]", text_of("CHANGELOG.md"), re.M)
    assert newest is not None
    assert newest[1] == vbp_lightning.__version__


def test_the_architecture_page_states_the_import_rules():
    contracts = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    stated = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    blocks = re.findall(r"^```\n(.*?)^```$", text_of("docs/architecture.md"), re.M | re.S)
    assert len(stated) == 2
    for layers in stated:
        assert "\n".join(layers) + "\n" in blocks


def test_the_command_that_counts_code_lines(tmp_path):
    command = re.search(r"^python3 - <<'END'\n(.*?)^END$", text_of("CONTRIBUTING.md"), re.M | re.S)
    assert command is not None
    (tmp_path / "vbp_lightning" / "room").mkdir(parents=True)
    module = (
        '"""Two\n\nlines."""\n\n# why\nX = (\n    1,\n)  # what\n\n\ndef f():\n    """Doc."""\n'
    )
    (tmp_path / "vbp_lightning" / "room" / "module.py").write_text(module + "    return X\n")
    (tmp_path / "train.py").write_text("import sys\n\n\nasync def g():\n    return '''a\nb'''\n")
    done = subprocess.run(
        [sys.executable, "-"],
        input=command[1],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    counted = [line.split() for line in done.stdout.splitlines()]
    assert counted == [["4", "train.py"], ["5", "vbp_lightning/room"], ["9", "total"]]
