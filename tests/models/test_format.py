"""Checkpoints of version 0.1 are converted, those of later versions refused."""

import pytest
import torch

from tests.helpers.checkpoints import saved
from vbp_lightning import RoadClassifier, RoadTileDataModule
from vbp_lightning.errors import UserError
from vbp_lightning.models import read_checkpoint
from vbp_lightning.models.format import FORMAT, converted

DATA_0_1 = {
    "_target_": "vbp_lightning.data.RoadTileDataModule",
    "bands": None,
    "nodata": None,
    "resolution": None,
    "stretch": None,
    "tile_size": 96,
    "context": 0,
    "stride": 96,
    "train_stride": 48,
    "cover_edges": False,
    "road_share": 0.05,
    "max_invalid": 0.25,
    "mask_threshold": 127,
    "val_fraction": 0.15,
    "test_fraction": 0.15,
    "split_by": "scene",
    "block_size": 500,
    "block_unit": "m",
    "block_margin": None,
    "split_file": None,
    "split_seed": 0,
    "tiles_per_epoch": 64,
    "batch_size": 16,
    "memory": 2,
    "num_workers": 0,
    "augment": {
        "_target_": "vbp_lightning.data.Augmentation",
        "flips": True,
        "quarter_turns": False,
        "brightness": 0.5,
        "contrast": 0.4,
        "jitter": 24,
    },
    "seed": 0,
    "root": "/data",
    "source": {
        "_target_": "vbp_lightning.data.SyntheticScenes",
        "seed": 0,
        "scenes": 6,
        "size": 192,
        "mark": 0,
        "workers": 2,
        "_partial_": True,
    },
}
"""The data settings in a checkpoint of version 0.1."""

SETTINGS_0_1 = {
    "architecture": "strided",
    "head": "hidden",
    "mean": [100.0, 103.0, 72.0],
    "std": [38.0, 31.0, 29.0],
    "low": None,
    "high": None,
    "context": 0,
    "learning_rate": 0.005,
    "weight_decay": 0.05,
    "data": DATA_0_1,
    "splits": {"scene_000": "train", "scene_001": "test"},
}


@pytest.fixture
def checkpoint_0_1(tmp_path):
    torch.manual_seed(0)
    path = saved(tmp_path / "old.ckpt", RoadClassifier(**SETTINGS_0_1))
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"] = SETTINGS_0_1
    torch.save(content, path)
    return path


def test_a_checkpoint_of_version_0_1_opens_with_the_present_names(checkpoint_0_1):
    model = RoadClassifier.load_from_checkpoint(checkpoint_0_1)
    augment = model.hparams["data"]["augment"]
    assert augment == {
        "flips": True,
        "rotations": False,
        "brightness": 0.5,
        "contrast": 0.4,
        "jitter": 24,
    }
    assert model.hparams["data"]["source"] == {
        "_target_": "vbp_lightning.data.SyntheticScenes",
        "seed": 0,
        "scenes": 6,
        "size": 192,
        "mark": 0,
        "workers": 2,
    }
    changed = ("augment", "source", "_recursive_", "_convert_")
    assert {k: v for k, v in model.hparams["data"].items() if k not in changed} == {
        k: v for k, v in DATA_0_1.items() if k not in changed
    }
    assert model.hparams["format"] == FORMAT
    torch.manual_seed(0)
    fresh = RoadClassifier(**SETTINGS_0_1)
    for name, value in fresh.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    fresh.on_load_checkpoint(torch.load(checkpoint_0_1, weights_only=True))


def test_conversion_leaves_what_it_is_given_and_the_present_format(checkpoint_0_1):
    before = torch.load(checkpoint_0_1, weights_only=True)["hyper_parameters"]
    once = converted(SETTINGS_0_1, "here")
    assert before == SETTINGS_0_1
    assert once["format"] == FORMAT
    assert converted(once, "here") == once
    assert converted({"data": None}, "here") == {"data": None, "format": FORMAT}
    assert converted({"data": {"augment": None}}, "here")["data"] == {"augment": None}


def test_the_only_logger_of_earlier_runs_gets_its_name():
    logger = {"_target_": "vbp_lightning.training.logger.RunLogger", "save_dir": "run"}
    for found in (1, 2, FORMAT):
        new = converted({"format": found, "data": None, "logger": logger}, "here")
        assert new["logger"] == {"tensorboard": logger}
        assert converted(new, "here") == new
    assert converted({"format": 2, "data": None, "logger": None}, "here")["logger"] is None


WIDTHS_0_1 = {"_target_": "vbp_lightning.data.RoadWidths", "default": 8.0, "attribute": None}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            {"_target_": "vbp_lightning.data.FolderScenes", "images": "a/{name}.*", "masks": "b"},
            {"images": "a/{name}.*", "masks": "b"},
        ),
        (
            {
                "_target_": "vbp_lightning.data.VectorScenes",
                "labels": "roads.shp",
                "layer": "lines",
                "widths": WIDTHS_0_1,
            },
            {
                "labels": "roads.shp",
                "layer": "lines",
                "widths": {"default": 8.0, "attribute": None},
            },
        ),
        (
            {
                "_target_": "vbp_lightning.data.SpaceNetScenes",
                "imagery": "PAN",
                "labels": None,
                "unlabelled": "no_road",
                "widths": WIDTHS_0_1,
            },
            {
                "images": "{area}/PAN/*_{chip}.tif*",
                "labels": [
                    "{area}/geojson_roads_speed/*_{chip}.geojson",
                    "{area}/geojson_roads/*_{chip}.geojson",
                ],
                "unlabelled": "no_road",
                "widths": {"default": 8.0, "attribute": None},
            },
        ),
    ],
)
def test_the_layouts_of_version_0_1_become_patterns(before, after, tmp_path):
    data = {**DATA_0_1, "source": before | {"_partial_": True}}
    now = converted({"data": data}, "here")["data"]
    assert now["source"] == {"_target_": "vbp_lightning.data.PatternScenes", **after}
    if after.get("masks") != "b":
        assert RoadTileDataModule.from_config(now, root=tmp_path).source.root == tmp_path


def test_a_later_format_is_refused_by_its_number(tmp_path):
    model = RoadClassifier(**SETTINGS_0_1)
    model.hparams["format"] = 4
    path = saved(tmp_path / "later.ckpt", model)
    for load in (RoadClassifier.load_from_checkpoint, read_checkpoint):
        with pytest.raises(UserError, match=r"later\.ckpt \(ckpt\): has format 4.*later version"):
            load(path)
    with pytest.raises(UserError, match="has format 4") as caught:
        model.on_load_checkpoint(torch.load(path, weights_only=True))
    assert len(caught.value.lines) == 1
