import matplotlib
import numpy as np
import pytest

from tests.helpers.pictures import positions
from vbp_lightning.plotting.canvas import VERMILION
from vbp_lightning.plotting.display import colour_table, overlay, saliency_to_rgb
from vbp_lightning.plotting.mask_panel import TileCaption, mask_panel, truth_heading

RIGHT = TileCaption(truth_heading("road", 0.2), 0.9, wrong=False)
WRONG = TileCaption(truth_heading("road", 0.2), 0.1, wrong=True)


def grey_tiles(count, size=96):
    return np.full((count, size, size, 3), 100, dtype=np.uint8)


def panel(captions, **options):
    tiles = grey_tiles(len(captions))
    return mask_panel(tiles, np.zeros(tiles.shape[:3]), captions, "title", **options)


@pytest.mark.parametrize(("count", "rows"), [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (7, 4)])
def test_two_tiles_a_row(count, rows):
    # title 36, rows of 170, legend 27
    assert panel([RIGHT] * count).shape == (36 + 170 * rows + 27, 700, 3)


def test_tensorboard_shows_a_page_of_four_at_exactly_one_half():
    # 350 pixels wide in the Images tab, 215 high in the Time Series tab
    assert panel([RIGHT] * 4, notes=["a note"]).shape == (2 * 215, 2 * 350, 3)


def test_pictures_begin_on_even_pixels():
    rng = np.random.default_rng(3)
    tiles = rng.integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    masks = rng.random((4, 96, 96))
    page = mask_panel(tiles, masks, [RIGHT] * 4, "title")
    for tile, mask in zip(tiles, masks, strict=True):
        for picture in (tile, saliency_to_rgb(mask), overlay(tile, mask)):
            assert positions(page[::2, ::2], picture[::2, ::2])


def test_tile_mask_and_overlay_are_all_there_untouched():
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    masks = rng.random((3, 96, 96))
    page = mask_panel(tiles, masks, [RIGHT, WRONG, RIGHT], "title")
    for tile, mask in zip(tiles, masks, strict=True):
        for picture in (tile, saliency_to_rgb(mask), overlay(tile, mask)):
            assert positions(page, picture)


def vermilion_by_cell(page):
    """Whether the colour of wrong tiles occurs in each of the four quarters of a page of four."""
    found = (page == VERMILION).all(axis=-1)
    # title 36, two rows of 170, foot
    return [
        found[36 + 170 * row : 206 + 170 * row, 352 * col : 352 * col + 348].any()
        for row in range(2)
        for col in range(2)
    ]


@pytest.mark.parametrize("wrong", range(16))
def test_only_wrong_tiles_are_marked(wrong):
    bits = [bool(wrong >> place & 1) for place in range(4)]
    page = panel([WRONG if bit else RIGHT for bit in bits])
    assert vermilion_by_cell(page) == bits
    if not wrong:
        assert not (page == VERMILION).all(axis=-1).any()


def test_a_wrong_tile_has_a_closed_frame_and_a_word():
    page = panel([WRONG])
    frame = (page == VERMILION).all(axis=-1)
    rows, columns = np.flatnonzero(frame.any(1)), np.flatnonzero(frame.any(0))
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    for edge in (
        frame[top, left : right + 1],
        frame[bottom, left : right + 1],
        frame[top : bottom + 1, left],
        frame[top : bottom + 1, right],
    ):
        assert edge.all()
    # the word is white on the frame's colour, so that it is readable without colours
    inside = frame[top + 4 : bottom - 3, left + 4 : right - 3]
    assert 500 < inside.sum() < 5000


def test_a_caption_changes_only_its_part_of_the_panel():
    first = panel([RIGHT, RIGHT])
    for caption in (
        TileCaption(truth_heading("non-road", 0.2), 0.9, wrong=False),
        TileCaption(truth_heading("road", 0.3), 0.9, wrong=False),
        TileCaption(truth_heading("road", 0.2), 0.8, wrong=False),
    ):
        changed = (first != panel([RIGHT, caption])).any(axis=-1)
        assert changed[:, 352:].any()
        assert not changed[:, :352].any()


@pytest.mark.parametrize(
    ("probability", "shown"),
    [(0, "<0.001"), (0.0004, "<0.001"), (0.4214, "0.421"), (0.9994, "0.999"), (1, ">0.999")],
)
def test_an_estimate_is_never_certain(probability, shown):
    assert TileCaption("", probability, wrong=False, outcome="class 7").estimate == (
        f"P(class 7) {shown}"
    )


def test_small_and_large_numbers_are_not_rounded_to_0_or_1(written):
    panel(
        [
            TileCaption(truth_heading("road", 0.00004), 0.99999, wrong=False),
            TileCaption(truth_heading("non-road", 0), 0.0001, wrong=False),
        ],
        notes=["epoch 3"],
    )
    joined = "\n".join(written)
    for part in (">0.999", "<0.001", "<0.01 % road", "0 % road", "mask^0.5", "epoch 3", "title"):
        assert part in joined


def test_an_empty_panel_states_that_there_is_no_tile(written):
    panel([])
    assert "no such tile" in written


def test_an_empty_mask_has_the_darkest_colour():
    page = panel([RIGHT])
    assert positions(page, np.broadcast_to(colour_table()[0], (96, 96, 3)))


@pytest.mark.parametrize(("size", "width"), [(48, 700), (32, 700), (192, 1400), (20, 728)])
def test_tiles_of_other_sizes_are_enlarged_to_readable_ones(size, width):
    tiles = grey_tiles(2, size)
    page = mask_panel(tiles, np.zeros((2, size, size)), [RIGHT, WRONG], "title")
    assert page.shape[1] == width


def test_the_same_panel_twice():
    np.testing.assert_array_equal(panel([RIGHT, WRONG]), panel([RIGHT, WRONG]))


def test_numbers_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="match"):
        mask_panel(grey_tiles(2), np.zeros((2, 96, 96)), [RIGHT], "title")
    with pytest.raises(ValueError, match="match"):
        mask_panel(grey_tiles(2), np.zeros((2, 48, 48)), [RIGHT, RIGHT], "title")


def test_no_figure_is_registered_with_pyplot():
    backend = matplotlib.get_backend(auto_select=False)
    panel([RIGHT])
    assert matplotlib.get_backend(auto_select=False) == backend


def test_a_long_title_leaves_the_decision_readable():
    tiles, masks = grey_tiles(1), np.zeros((1, 96, 96))
    short = mask_panel(tiles, masks, [RIGHT], "", "road if P ≥ 0.421")
    long = mask_panel(tiles, masks, [RIGHT], "a title " * 12, "road if P ≥ 0.421")
    np.testing.assert_array_equal(short[:36, 460:], long[:36, 460:])
    assert (long[:36, 452:460] == 255).all()
