from itertools import pairwise

import numpy as np
import pytest

from vbp_lightning.plotting.canvas import Canvas, font, wrapped

TEXT = "a sentence of several words, some of them extraordinarily long, and road if P ≥\xa00.421"


def length(text, size=13, bold=False):
    return font(size, bold).getlength(text)


@pytest.mark.parametrize("room", [60, 100, 250])
def test_lines_are_as_long_as_they_fit(room):
    lines = wrapped(TEXT, 13, False, room)
    assert " ".join(lines) == TEXT
    for line, following in pairwise(lines):
        assert length(line) <= room or " " not in line
        assert length(f"{line} {following.split(' ')[0]}") > room
    assert "≥\xa00.421" in lines[-1]


def test_a_text_that_fits_stays_one_line():
    assert wrapped(TEXT, 13, True, 1000) == [TEXT]
    assert wrapped("", 13, True, 1000) == [""]


def test_a_long_line_is_set_smaller_instead_of_running_off_the_page():
    page = Canvas(200, 40)
    page.text(5, 5, "a headline that is much too long", 30)
    assert (page.pixels()[:, -1] == 255).all()
    assert length("a headline that is much too long", 30) > 195


def test_control_characters_are_drawn_as_escapes():
    pages = [Canvas(300, 40), Canvas(300, 40)]
    pages[0].text(5, 5, "a\nb\x1b[31m", 14)
    pages[1].text(5, 5, r"a\nb\x1b[31m", 14)
    np.testing.assert_array_equal(pages[0].pixels(), pages[1].pixels())


def test_a_picture_is_pasted_and_enlarged():
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    page = Canvas(20, 10)
    page.picture(3, 1, picture, (8, 4))
    expected = np.full((10, 20, 3), 255, np.uint8)
    expected[1:5, 3:11] = picture.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(page.pixels(), expected)
