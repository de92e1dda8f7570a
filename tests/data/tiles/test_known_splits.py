"""The split of a run is kept: it is read from the run, and the scenes are compared with it."""

import logging
import os
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from affine import Affine

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import SPLITS, DataError
from vbp_lightning.data.tiles.splits import KnownSplits, Region, part_of_training

SETTINGS = {"tile_size": 16, "stride": 16, "road_share": 0.1, "augment": None}
BLOCKS = {"split_by": "block", "block_size": 32, "block_unit": "px"}
DRAWN = {"val_fraction": 0.3, "test_fraction": 0.3}


@pytest.fixture
def scenes(make_scene):
    """Six scenes without a split, each in its own place."""

    def at(number):
        place = Affine(0.5, 0, 4e5 + 1000 * number, 0, -0.5, 5e6)
        return make_scene(f"s{number}", None, seed=number, crs="EPSG:32632", transform=place)

    return [at(number) for number in range(6)]


@pytest.fixture
def module(listed):
    def build(scenes, known=None, **settings):
        made = RoadTileDataModule(listed(tuple(scenes)), **(SETTINGS | DRAWN | settings))
        made.known_splits = known
        return made

    return build


def stored(module, way, folder):
    """The splits of a set-up data module, as a run or a checkpoint holds them."""
    if way == "run":
        module.write_splits(folder / "splits.csv")
        return KnownSplits.read(folder / "splits.csv", run=True)
    torch.save([module.scene_splits, module.scene_digests], folder / "stored.pt")
    return KnownSplits.of_checkpoint(*torch.load(folder / "stored.pt", weights_only=True))


def tiles(module):
    return {split: {tile.tile for tile in module.tiles_of(split)} for split in SPLITS}


WAYS = pytest.mark.parametrize("way", ["run", "checkpoint"])
BY = pytest.mark.parametrize("by", [{}, BLOCKS, {"train_fraction": 2}], ids=["scene", "block", "2"])


@WAYS
@BY
def test_scenes_that_came_later_are_named_and_unused(
    module, scenes, make_scene, tmp_path, way, by, caplog
):
    first = module(scenes, **by)
    first.setup()
    new = [make_scene(name, None, seed=9) for name in ("a_first", "z_last")]
    new[0].image.write_bytes(b"not even readable")
    with caplog.at_level(logging.WARNING):
        again = module([new[0], *scenes[::-1], new[1]], stored(first, way, tmp_path), **by)
        again.setup()
    assert tiles(again) == tiles(first)
    assert again.scene_splits == first.scene_splits
    assert again.mean == pytest.approx(first.mean, rel=1e-12)
    assert again.scene_digests == first.scene_digests
    (line,) = caplog.messages
    assert "a_first, z_last" in line
    drawn = module([*scenes, new[1]], **by)
    drawn.setup()
    assert tiles(drawn) != tiles(first), "else this test shows nothing"


@WAYS
def test_copied_and_moved_scenes_stay_the_same(module, scenes, tmp_path, way):
    first = module(scenes)
    first.setup()
    (tmp_path / "moved").mkdir()
    moved = []
    for scene in scenes:
        image, labels = (
            Path(shutil.copy(path, tmp_path / "moved")) for path in (scene.image, scene.labels)
        )
        os.utime(image, (0, 0))
        moved.append(replace(scene, image=image, labels=labels))
    again = module(moved, stored(first, way, tmp_path))
    again.setup()
    assert tiles(again) == tiles(first)


def other_pixels(scene, write):
    write(scene.image, np.random.default_rng(77).integers(1, 255, (3, 64, 80), dtype=np.uint8))


def smaller(scene, write):
    write(scene.image, np.random.default_rng(77).integers(1, 255, (3, 48, 48), dtype=np.uint8))


def another_place(scene, write):
    import rasterio

    with rasterio.open(scene.image, "r+") as raster:
        raster.transform = Affine(0.5, 0, 9e5, 0, -0.5, 5e6)


def other_labels(scene, write):
    write(scene.labels, np.eye(64, 80, dtype=np.uint8) * 255)


CHANGES = pytest.mark.parametrize("change", [other_pixels, smaller, another_place, other_labels])


@WAYS
@BY
@CHANGES
def test_a_changed_scene_is_refused_by_name(module, scenes, write, tmp_path, way, by, change):
    first = module(scenes, **by)
    first.setup()
    known = stored(first, way, tmp_path)
    name = next(iter(first.scene_digests))
    change(scenes[int(name[1:])], write)
    with pytest.raises(DataError) as caught:
        module(scenes, known, **by).setup()
    (line,) = caught.value.lines
    assert line.startswith(f"{scenes[int(name[1:])].image}: has changed")
    assert f"scene {name}" in line
    assert "data.split_file" in line
    assert "data.root" in line


@WAYS
@BY
def test_scenes_that_are_gone_are_refused_by_name(module, scenes, tmp_path, way, by):
    first = module(scenes, **by)
    first.setup()
    known = stored(first, way, tmp_path)
    used = list(first.scene_digests)
    left = [scene for scene in scenes if scene.name not in used[:2]]
    with pytest.raises(DataError) as caught:
        module(left, known, **by).setup()
    for name, line in zip(used, caught.value.lines, strict=False):
        assert f"its scene {name} is gone" in line
        assert "data.split_file" in line
        assert "data.root" in line
    assert len(caught.value.lines) == 2


@WAYS
@BY
def test_a_finished_run_is_of_the_scenes_that_it_was_trained_on(
    module, scenes, make_scene, write, tmp_path, way, by, caplog
):
    first = module(scenes, **by)
    first.setup()
    known = replace(stored(first, way, tmp_path), way_out="start anew")
    for whole in (True, False):
        module(scenes[::-1], known, **by).compare_scenes(whole)

    new = make_scene("new", None, seed=9)
    with caplog.at_level(logging.WARNING):
        module([*scenes, new], known, **by).compare_scenes(False)
    assert "came after the run: new" in caplog.text
    with pytest.raises(DataError) as refused:
        module([*scenes, new], known, **by).compare_scenes(True)
    assert str(refused.value).startswith(f"{new.image}: came after the run: scene new ")
    assert str(refused.value).endswith(": start anew")

    gone, *changed = list(first.scene_digests)[:3]
    for name in changed:
        write(scenes[int(name[1:])].labels, np.zeros((1, 64, 64), np.uint8))
    left = [scene for scene in scenes if scene.name != gone]
    for whole in (True, False):
        with pytest.raises(DataError) as refused:
            module(left, known, **by).compare_scenes(whole)
        first_line, *lines = refused.value.lines
        assert f"its scene {gone} is gone" in first_line
        assert {line.split(": ")[0] for line in lines} == {
            str(scenes[int(name[1:])].image) for name in changed
        }


def test_a_finished_run_is_of_the_splits_that_the_data_set_gives(module, scenes, tmp_path):
    given = [replace(scene, split=SPLITS[n % 3]) for n, scene in enumerate(scenes)]
    first = module(given)
    first.setup()
    known = stored(first, "run", tmp_path)
    module(given, known).compare_scenes(True)
    moved = [replace(given[0], split="val"), *given[1:]]
    with pytest.raises(DataError, match="is in the split val, not in train any more: scene s0"):
        module(moved, known).compare_scenes(True)
    module(moved, known).compare_scenes(False)
    (tmp_path / "own.csv").write_text("scene,split\n")
    module(moved, known, split_file=tmp_path / "own.csv").compare_scenes(True)


def test_of_many_scenes_that_are_gone_ten_are_named():
    names = [f"s{number}" for number in range(25)]
    known = KnownSplits.of_checkpoint(dict.fromkeys(names, "train"), {})
    lines = known.missing([])
    assert len(lines) == 11
    assert lines[-1] == "and 15 more scenes are gone"
    (line,) = KnownSplits.of_checkpoint({"a": "train"}, {}).later(names)
    assert "s9 and 15 more" in line


@WAYS
def test_older_runs_without_digests_compare_nothing(module, scenes, write, tmp_path, way):
    first = module(scenes)
    first.setup()
    if way == "run":
        first.write_splits(tmp_path / "splits.csv")
        rows = (tmp_path / "splits.csv").read_text().splitlines()
        (tmp_path / "splits.csv").write_text("\n".join(r.rpartition(",")[0] for r in rows))
        known = KnownSplits.read(tmp_path / "splits.csv", run=True)
    else:
        known = KnownSplits.of_checkpoint(first.scene_splits, {})
    other_labels(scenes[0], write)
    again = module(scenes, known)
    again.setup()
    assert again.scene_splits == first.scene_splits


def test_a_runs_list_as_split_file_accepts_changed_scenes(module, scenes, write, tmp_path):
    first = module(scenes)
    first.setup()
    first.write_splits(tmp_path / "splits.csv")
    other_pixels(scenes[0], write)
    again = module(scenes, split_file=tmp_path / "splits.csv")
    again.setup()
    assert tiles(again) == tiles(first)
    assert again.scene_digests["s0"] != first.scene_digests["s0"]


def test_the_split_none_leaves_scenes_alone(module, scenes, make_scene, tmp_path):
    scenes[5].image.write_bytes(b"not even readable")
    path = tmp_path / "mine.csv"
    path.write_text("scene,split\ns0,train\ns1,val\ns2,test\ns3,none\ns4,train\ns5,none\n")
    made = module(scenes, split_file=path)
    made.setup()
    reference = module([scenes[number] for number in (0, 1, 2, 4)], split_file=path)
    reference.setup()
    assert tiles(made) == tiles(reference)
    assert made.mean == reference.mean
    assert made.scene_digests.keys() == {"s0", "s1", "s2", "s4"}
    known = stored(made, "run", tmp_path)
    again = module(scenes[:5], known)
    again.setup()
    assert tiles(again) == tiles(made)
    assert known.later([scene.name for scene in scenes]) == []


def test_the_split_none_of_a_part_of_a_scene(module, scenes, tmp_path):
    path = tmp_path / "mine.csv"
    rows = ["s0,0,0,64,32,train", "s0,0,32,64,48,none"]
    rows += ["s1,0,0,64,80,val", "s2,0,0,64,80,test", *(f"s{n},0,0,64,80,none" for n in (3, 4, 5))]
    path.write_text("\n".join(["scene,row,col,height,width,split", *rows]))
    made = module(scenes, split_file=path, train_stride=16)
    made.setup()
    train = [(tile.tile.scene, tile.tile.row, tile.tile.col) for tile in made.tiles_of("train")]
    assert train == [("s0", row, col) for row in (0, 16, 32, 48) for col in (0, 16)]


def training(module):
    return {name for name, split in module.scene_splits.items() if split == "train"}


@pytest.mark.parametrize("seed", range(3))
def test_parts_of_the_training_split_are_nested(module, scenes, seed):
    settings = {"val_fraction": 0.1, "test_fraction": 0.1, "split_seed": seed}
    every = module(scenes, **settings)
    every.setup()
    held = {split: tiles(every)[split] for split in ("val", "test")}
    parts = []
    for part in (1, 2, 0.75, 4, 1.0):
        made = module(scenes, train_fraction=part, **settings)
        made.setup()
        assert {split: tiles(made)[split] for split in ("val", "test")} == held
        assert training(made) == {tile.scene for tile in tiles(made)["train"]}
        assert made.scene_splits.keys() == every.scene_splits.keys()
        parts.append(training(made))
    assert [len(part) for part in parts] == [1, 2, 3, 4, 4]
    assert all(small <= large for small, large in pairwise(parts))
    assert parts[-1] == training(every)


def test_seeds_draw_other_parts_and_blocks_are_parts_too():
    regions = {f"s{number}": [Region(0, 0, 9, 9, "train")] for number in range(20)}
    drawn = [part_of_training(regions, 0.25, seed) for seed in (0, 1)]
    assert drawn[0] != drawn[1]
    blocks = {"a": [Region(0, col, 9, 9, "train") for col in range(0, 90, 9)]}
    blocks["b"] = [Region(0, 0, 9, 9, "val")]
    for part in (4, 0.4):
        drawn = part_of_training(blocks, part, 0)
        assert [region.split for region in drawn["a"]].count("train") == 4
        assert [region.split for region in drawn["a"]].count("none") == 6
        assert drawn["b"] == blocks["b"]
    backwards = {name: own[::-1] for name, own in reversed(blocks.items())}
    kept = {r for r in part_of_training(backwards, 4, 0)["a"] if r.split == "train"}
    assert kept == {r for r in drawn["a"] if r.split == "train"}


def test_more_scenes_than_there_are(module, scenes):
    with pytest.raises(DataError, match=r"data\.train_fraction=7: .* only 2 scenes"):
        module(scenes, train_fraction=7).setup()


@pytest.mark.parametrize("part", [0, 0.0, -1, 1.5, True, "half"])
def test_a_part_that_is_none(module, scenes, part):
    shown = str(part).lower()
    with pytest.raises(DataError, match=rf"data\.train_fraction={shown}: must be"):
        module(scenes, train_fraction=part)
