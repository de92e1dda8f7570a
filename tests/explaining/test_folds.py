"""Folds of scenes: each is judged by a classifier that saw none of its pixels."""

import numpy as np
import pytest
import torch

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.synthetic.generator import SyntheticScenes
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.folds import fold_data, fold_splits, probabilities_of, trained


def units(splits):
    """The split of each scene or part."""
    return {
        (name, number): parts if isinstance(parts, str) else parts[number][4]
        for name, parts in splits.items()
        for number in range(1 if isinstance(parts, str) else len(parts))
    }


SPLITS = {
    **{f"s{n}": "train" for n in range(5)},
    "v": "val",
    "t": "test",
    "u": "none",
    "blocks": [[0, 0, 50, 50, "train"], [0, 50, 50, 50, "test"], [50, 0, 50, 50, "val"]],
}


@pytest.mark.parametrize("folds", [2, 5, 8, 20])
def test_each_part_of_training_and_validation_is_held_out_once(folds):
    found = fold_splits(SPLITS, folds)
    assert len(found) == min(folds, 8)
    own = {unit for unit, split in units(SPLITS).items() if split in ("train", "val")}
    held = [unit for splits in found for unit, split in units(splits).items() if split == "val"]
    assert sorted(held) == sorted(own)
    sizes = [sum(split == "val" for split in units(splits).values()) for splits in found]
    assert max(sizes) - min(sizes) <= 1
    for splits in found:
        assert {unit for unit, split in units(splits).items() if split == "none"} == {
            unit for unit in units(SPLITS) if unit not in own
        }
        assert [part[:4] for part in splits["blocks"]] == [part[:4] for part in SPLITS["blocks"]]


def test_one_scene_cannot_be_judged():
    with pytest.raises(UserError, match="have one scene together"):
        fold_splits({"a": "train", "b": "test"}, 5)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """Three procedural scenes cut into blocks."""
    source = SyntheticScenes(str(tmp_path_factory.mktemp("scenes")), seed=3, scenes=3, size=192)
    made = RoadTileDataModule(
        {"_target_": "vbp_lightning.data.SyntheticScenes", "seed": 3, "scenes": 3, "size": 192},
        root=source.root,
        tile_size=32,
        stride=16,
        batch_size=8,
        tiles_per_epoch=32,
        split_by="block",
        block_size=96,
        block_unit="px",
        augment={"jitter": 8},
    )
    made.setup()
    return made


def test_no_pixel_of_a_fold_is_trained_on(blocks):
    for splits in fold_splits(blocks.scene_splits, 4):
        data = fold_data(blocks, splits)
        held, drawn = data.tiles_of("val"), data.tiles_of("train")
        assert len(held)
        assert len(drawn)
        assert not len(data.tiles_of("test"))
        for item in drawn:
            row, col = item.tile.row, item.tile.col
            for other in held:
                apart = max(abs(row - other.tile.row), abs(col - other.tile.col))
                # tiles are shifted by up to 8 px
                assert item.tile.scene != other.tile.scene or apart >= 32 + 8


def test_trainings_are_the_same_each_time_and_judge_the_tiles_in_order(blocks):
    splits = fold_splits(blocks.scene_splits, 2)[0]
    ticks, found = [], []
    for _ in range(2):
        data = fold_data(blocks, splits)
        settings = {"architecture": "strided", "head": "gap", "tta": False, "imagery": None}
        state = torch.rand(3), torch.random.get_rng_state()
        model = trained(data, settings, 2, 7, torch.device("cpu"), lambda: ticks.append(1))
        assert torch.equal(torch.random.get_rng_state(), state[1])
        found.append(probabilities_of(model, data, "val"))
    assert len(ticks) == 4
    assert np.array_equal(*found)
    tiles = data.tiles_of("val")
    assert found[0].shape == (len(tiles),)
    raw = data.read_tiles([tiles[5]])
    views = [torch.rot90(each, turns, (2, 3)) for each in (raw, raw.flip(3)) for turns in range(4)]
    with torch.no_grad():
        mean = torch.cat([model(view).sigmoid() for view in views]).mean()
    assert float(mean) == pytest.approx(found[0][5], abs=1e-6)
    assert model.hparams["head"] == "gap"
