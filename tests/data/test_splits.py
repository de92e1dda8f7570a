"""Splits by scene."""

import logging
from pathlib import Path

import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from vbp_lightning.data import RoadTileDataModule, Scene
from vbp_lightning.data.splits import draw_splits


def scenes_of(names, split=None):
    return [Scene(name, Path(f"{name}.tif"), Path(f"{name}_roads.tif"), split) for name in names]


names = st.lists(st.text("abc", min_size=1, max_size=4), min_size=3, max_size=30, unique=True)


@given(names, st.integers(0, 5), st.randoms(use_true_random=False))
def test_every_scene_has_one_split_whatever_the_order(names, seed, random):
    splits = draw_splits(scenes_of(names), 0.2, 0.1, seed)
    assert list(splits) == names
    shuffled = random.sample(names, len(names))
    assert draw_splits(scenes_of(shuffled), 0.2, 0.1, seed) == splits
    counts = [list(splits.values()).count(split) for split in ("train", "val", "test")]
    expected = [max(1, round(0.2 * len(names))), max(1, round(0.1 * len(names)))]
    assert counts == [len(names) - sum(expected), *expected]


def test_seeds_differ_and_zero_fractions_draw_nothing():
    many = scenes_of([f"s{i}" for i in range(40)])
    assert draw_splits(many, 0.3, 0.3, 0) != draw_splits(many, 0.3, 0.3, 1)
    assert set(draw_splits(many, 0.3, 0, 0).values()) == {"train", "val"}
    assert set(draw_splits(many, 0, 0, 0).values()) == {"train"}


def test_a_scene_keeps_its_own_split():
    mixed = scenes_of(["a", "b"], "test") + scenes_of(["c", "d", "e"])
    splits = draw_splits(mixed, 0.34, 0, 0)
    assert (splits["a"], splits["b"]) == ("test", "test")
    assert sorted(splits[name] for name in "cde") == ["train", "train", "val"]


def test_one_scene_is_left_to_train():
    assert draw_splits(scenes_of("a"), 0.4, 0.4, 0) == {"a": "train"}
    assert sorted(draw_splits(scenes_of("ab"), 0.4, 0.4, 0).values()) == ["test", "train"]


@pytest.fixture
def warned(listed, make_scene, caplog):
    """What is said of scenes of 80 × 64 px of 0.5 m, at given places and in given CRSs."""

    def say(**places):
        scenes = []
        for name, (split, x, y, crs) in places.items():
            transform = Affine(0.5, 0, x, 0, -0.5, y)
            scenes.append(make_scene(name, split, crs=crs, transform=transform))
        with caplog.at_level(logging.WARNING):
            RoadTileDataModule(listed(tuple(scenes)), tile_size=16).setup()
        return caplog.messages

    return say


def test_splits_that_show_the_same_ground_are_told(warned):
    (message,) = warned(
        a=("train", 0, 0, "EPSG:32632"),
        b=("train", 1, -1, "EPSG:32632"),  # overlaps a, in the same split
        c=("val", 39, -31, "EPSG:32632"),  # overlaps b and, by a metre each way, a
        d=("test", 500, 0, "EPSG:32632"),
    )
    assert "a (train) and c (val), and 1 more pairs" in message


def test_neighbours_and_other_reference_systems_are_not(warned):
    messages = warned(
        a=("train", 0, 0, "EPSG:32632"),
        b=("val", 40, 0, "EPSG:32632"),  # begins where a ends
        c=("test", 0, 0, "EPSG:32633"),
        d=("test", 0, -31.6, "EPSG:32632"),  # shares less than a pixel with a
    )
    assert messages == []


def test_scenes_without_reference_are_not_compared(listed, make_scene, caplog):
    scenes = tuple(make_scene(split, split) for split in ("train", "val", "test"))
    RoadTileDataModule(listed(scenes), tile_size=16).setup()
    assert caplog.messages == []
