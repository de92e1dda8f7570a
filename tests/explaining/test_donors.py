from types import SimpleNamespace

import pytest
import torch

from vbp_lightning.data.tiles.tile import Label, Tile
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.donors import Donors

SIDE = 8


def source(places, colours, labels=None):
    """Tiles of one colour each."""
    tiles = torch.tensor(colours, dtype=torch.float32)[:, None, None, None]
    return SimpleNamespace(
        places=[Tile(*place) for place in places],
        known=[SimpleNamespace(label=label) for label in labels or []],
        read=lambda numbers: tiles[list(numbers)].expand(-1, 3, SIDE, SIDE),
    )


def subject():
    return SimpleNamespace(
        reader=SimpleNamespace(side=SIDE),
        classifier=SimpleNamespace(threshold=0.5),
        probabilities=lambda tiles, target: (tiles[:, 0, 0, 0] / 10, []),
    )


def test_the_nearest_of_the_scene_come_first_then_those_of_its_colour():
    places = [("a", 0, 0), ("a", 0, 30), ("a", 0, 10), ("a", 4, 4), ("b", 0, 0), ("b", 0, 8)]
    labels = [Label.ROAD, *[Label.NON_ROAD] * 5]
    tiles = source(places, [5, 0, 0, 0, 9, 6], labels)
    # the fourth overlaps the first; of the other scene, the sixth has the more similar colour
    assert Donors(tiles, subject(), (), 4).of_all([0]) == ([0], [[2, 1, 5, 4]])
    assert Donors(tiles, subject(), (), 2).of_all([0]) == ([0], [[2, 1]])
    assert Donors(tiles, subject(), {1, 4, 5}, 3).of_all([0]) == ([0], [[2, 2, 2]])
    labels[2] = Label.IGNORED
    assert Donors(source(places, [5, 0, 0, 0, 9, 6], labels), subject(), (), 1).of_all([0]) == (
        [0],
        [[1]],
    )


def test_where_labels_are_not_known_the_network_says_which_tiles_are_without_road():
    places = [("a", 0, 8 * number) for number in range(4)]
    tiles = source(places, [9, 7, 2, 4])  # P(road) is a tenth of it
    assert Donors(tiles, subject(), {0}, 2).of_all([0]) == ([0], [[2, 3]])


def test_no_tile_without_road_is_one_line():
    places = [("a", 0, 0), ("a", 0, 4)]
    with pytest.raises(UserError, match="no tile without road is left"):
        Donors(source(places, [1, 1], [Label.ROAD, Label.ROAD]), subject(), (), 1)
    near = Donors(source(places, [1, 1], [Label.ROAD, Label.NON_ROAD]), subject(), (), 1)
    with pytest.raises(UserError, match="all tiles without road overlap those"):
        near.of_all([0])


def test_a_tile_without_replacing_tiles_is_left_out(capsys):
    places = [("a", 0, 0), ("a", 0, 4), ("a", 0, 12)]
    labels = [Label.ROAD, Label.NON_ROAD, Label.ROAD]
    donors = Donors(source(places, [1, 1, 1], labels), subject(), (), 1)
    assert donors.of_all([0, 2]) == ([2], [[1]])
    assert capsys.readouterr().out == ("1 of 2 tiles are left out: all without road overlap them\n")
