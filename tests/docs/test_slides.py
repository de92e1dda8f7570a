"""The slides show existing pictures, and the notes of each slide name its sources."""

import re
from pathlib import Path

SLIDES = Path(__file__).parents[2] / "docs" / "slides.md"


def slides() -> list[str]:
    """The slides, without the settings before them."""
    return re.split(r"^---$", SLIDES.read_text(encoding="utf-8"), flags=re.MULTILINE)[2:]


def test_pictures_and_links_exist():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", "".join(slides()))
    assert targets
    assert [target for target in targets if not (SLIDES.parent / target).is_file()] == []


def test_every_picture_is_used():
    drawn = {path.name for path in (SLIDES.parent / "slides").glob("*.*g")}
    shown = re.findall(r"\(slides/([^)]+)\)", "".join(slides()))
    assert drawn == set(shown)


def test_each_slide_has_one_heading_and_notes():
    for slide in slides():
        assert len(re.findall(r"^# ", slide, re.MULTILINE)) == 1
        assert re.search(r"<!--\n.+?\n-->", slide, re.DOTALL), slide


def test_pages_and_files_that_the_notes_name_exist():
    root = SLIDES.parents[1]
    names = set(re.findall(r"[\w/]+\.(?:md|py|yaml)\b", "".join(slides())))
    places = (root, SLIDES.parent)
    assert [name for name in names if not any((each / name).is_file() for each in places)] == []
