"""The code in ``docs/visualbackprop.md`` prints what the page shows; its links exist."""

import doctest
import re
from pathlib import Path

from vbp_lightning.attribution import UPSAMPLINGS

PAGE = Path(__file__).parents[2] / "docs" / "visualbackprop.md"


def test_code_prints_what_the_page_shows():
    """The Python blocks in order, as one session."""
    text = PAGE.read_text(encoding="utf-8")
    runner = doctest.DocTestRunner(verbose=False)
    session: dict[str, object] = {}
    report: list[str] = []
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, block.start(1))
        parser = doctest.DocTestParser()
        examples = parser.get_doctest(block[1], session, PAGE.name, str(PAGE), line)
        runner.run(examples, out=report.append, clear_globs=False)
        session.update(examples.globs)  # a DocTest works on a copy
    assert runner.tries == text.count("\n>>> ") > 40
    assert not runner.failures, "".join(report)


def test_relative_links_exist():
    prose = re.sub(r"^```.*?^```$", "", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", prose)
    assert targets
    assert [target for target in targets if not (PAGE.parent / target).is_file()] == []


def test_every_upsampling_is_described():
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in UPSAMPLINGS if f"`{name}`" not in text] == []
