"""Rows of captioned pictures."""

import numpy as np
import pytest

from tests.helpers.pictures import enlarged, positions
from vbp_lightning.plotting.picture_grid import GridRow, below_each_other, picture_grid


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 250, (height, width, 3), dtype=np.uint8)


# title 8 + 27 + 4, heading 8 + 22 + 4, note 18 + 4, caption line 17, pictures 8 below
def test_pictures_are_where_the_layout_puts_them():
    pictures = [noise(16, 16, seed) for seed in range(5)]
    wide = noise(8, 32)
    page = picture_grid(
        [GridRow("five", pictures, ["a\nb"] * 5), GridRow("one", [wide], side=64)],
        "title",
        ["a note"],
        columns=4,
        side=128,
    )
    first = 39 + 22 + 34
    second = first + 128 + 2 * 17 + 8
    last = second + 128 + 2 * 17 + 8 + 34
    assert page.shape == (last + 16 + 8, 16 + 560 + 16, 3)
    for place, picture in enumerate(pictures[:4]):
        assert positions(page, enlarged(picture, 8)) == [(16 + 136 * place, first)]
    assert positions(page, enlarged(pictures[4], 8)) == [(16, second)]
    assert positions(page, enlarged(wide, 2)) == [(16, last)]


def test_texts_are_written_and_long_ones_wrapped(written):
    rows = [GridRow("row", [noise(4, 4)], ["a caption of this length\nsecond"]), GridRow("no", [])]
    picture_grid(rows, "title " * 20 + "end", ["note"])
    assert " ".join(written[:3]) == "title " * 20 + "end"
    assert written[3:] == ["note", "row", "a caption of this", "length", "second", "no", "none"]


def test_larger_text_makes_a_higher_page():
    rows = [GridRow("row", [noise(4, 4)], ["caption"])]
    # title 27, heading 22 and caption 17 become 47, 42 and 36
    grown = picture_grid(rows, "t", text_size=28).shape[0] - picture_grid(rows, "t").shape[0]
    assert grown == 20 + 20 + 19


def test_captions_for_some_pictures_only_are_refused():
    with pytest.raises(ValueError, match="row: 1 captions do not match"):
        picture_grid([GridRow("row", [noise(4, 4)] * 2, ["one"])], "title")


def test_pictures_below_each_other_are_filled_with_white():
    upper, lower = noise(3, 5), noise(2, 9)
    stacked = below_each_other([upper, lower])
    assert stacked.shape == (5, 9, 3)
    np.testing.assert_array_equal(stacked[:3, :5], upper)
    np.testing.assert_array_equal(stacked[3:], lower)
    assert (stacked[:3, 5:] == 255).all()
