"""Text that is safe to print."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from vbp_lightning.errors import plain


@given(st.text(st.characters(codec=None)))
def test_plain_text_has_no_control_characters_and_can_be_encoded(text):
    shown = plain(text)
    assert not any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in shown)
    shown.encode("utf-8")
    kept = [each for each in text if unicodedata.category(each)[0] in "LNPSM"]
    assert [each for each in kept if each in shown] == kept


def test_ordinary_names_are_unchanged():
    for name in (
        "scene_1",
        "Zürich 2024 [a].tif",
        "日本/路",
        "$x$",
        "a\N{NO-BREAK SPACE}b",
        r"c:\d",
    ):
        assert plain(name) == name
    assert plain("a\x1b[2J\n\tb\x9b\u202e\udcff") == r"a\x1b[2J\n\tb\x9b\u202e\udcff"
