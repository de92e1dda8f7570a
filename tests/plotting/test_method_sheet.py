"""The sheet of tiles by methods."""

import numpy as np
import pytest

from tests.helpers.pictures import enlarged, positions
from vbp_lightning.plotting.display import maps_to_rgb, overlay, scaled
from vbp_lightning.plotting.mask_panel import TileCaption
from vbp_lightning.plotting.method_sheet import method_sheet

CAPTIONS = [TileCaption("true: road", 0.9, False), TileCaption("true: non-road", 0.8, True)]
TILES = np.random.default_rng(1).integers(0, 250, (2, 16, 16, 3), dtype=np.uint8)


def maps(low=0.0):
    return np.random.default_rng(0).uniform(low, 1, (2, 16, 16)).astype(np.float32)


def places(sheet, pictures):
    return [positions(sheet, enlarged(picture, 8)) for picture in pictures]


# title 39, one note 22, heading 34; then 128, captions 17 and 8
def test_one_method_is_shown_alone_and_on_the_tile():
    sheet = method_sheet(TILES, {"saliency": maps()}, CAPTIONS, "title")
    tops = (95, 95 + 128 + 17 + 8 + 34)
    unit = scaled(maps(), "each")
    columns = [TILES, maps_to_rgb(maps(), "each"), overlay(TILES, unit)]
    for column, pictures in enumerate(columns):
        assert places(sheet, pictures) == [[(16 + 136 * column, top)] for top in tops]


def test_several_methods_are_shown_beside_the_tile():
    values = {f"m{number}": maps(-number) for number in range(7)}
    sheet = method_sheet(TILES, values, CAPTIONS, "title", "shared")
    assert sheet.shape[1] == 16 + 8 * 136 - 8 + 16
    for column, each in enumerate(values.values(), 1):
        found = places(sheet, maps_to_rgb(each, "shared"))
        assert [[x for x, _ in place] for place in found] == [[16 + 136 * column]] * 2


def test_texts_name_tiles_methods_and_scale(written):
    method_sheet(TILES, {"grad_cam": maps(), "lrp": maps(-1)}, CAPTIONS, "title", "shared")
    assert written == [
        "title",
        "All maps of a method together, minimum to maximum; colour: value^0.5 in inferno.",
        "Signed, same curve: lrp; orange: for the class, purple: against it.",
        *("true: road, P(road) 0.900", "tile", "grad cam", "lrp"),
        *("true: non-road, P(road) 0.800, WRONG", "tile", "grad cam", "lrp"),
    ]


def test_a_sheet_of_some_rows_keeps_the_scale_of_all_tiles():
    values = maps() * np.array([1, 4], np.float32)[:, None, None]
    sheet = method_sheet(TILES, {"lrp": values}, CAPTIONS, "title", "shared", slice(0, 1))
    first, second = maps_to_rgb(values, "shared")
    assert len(positions(sheet, enlarged(first, 8))) == 1
    assert not positions(sheet, enlarged(second, 8))


def test_a_single_signed_method_is_not_laid_over_the_tile(written):
    method_sheet(TILES, {"lrp": maps(-1)}, CAPTIONS, "title")
    assert "on tile" not in written


def test_maps_and_captions_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="do not match"):
        method_sheet(TILES, {"saliency": maps()[:1]}, CAPTIONS, "title")
    with pytest.raises(ValueError, match="choose each or shared"):
        method_sheet(TILES, {"saliency": maps()}, CAPTIONS, "title", "both")
