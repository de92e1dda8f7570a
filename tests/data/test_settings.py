"""A data module rebuilt from a checkpoint's plain settings, and what is refused there."""

import pytest

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.pattern_scenes import PatternScenes
from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.tiles.augmentation import Augmentation


def settings(tmp_path):
    return RoadTileDataModule(
        PatternScenes(tmp_path, white_area=7),
        road_share=0.1,
        augment=Augmentation(jitter=3),
        seed=5,
    ).data_config


def test_a_stored_data_module_has_the_same_settings(tmp_path):
    config = settings(tmp_path)
    rebuilt = RoadTileDataModule.from_config(config)
    assert rebuilt.data_config == config
    assert rebuilt.source == PatternScenes(tmp_path, white_area=7)
    assert rebuilt.settings.augment == Augmentation(jitter=3)


def test_imagery_that_was_moved_is_found_by_its_new_root(tmp_path):
    rebuilt = RoadTileDataModule.from_config(settings(tmp_path), root=tmp_path / "moved")
    assert rebuilt.source.root == tmp_path / "moved"


@pytest.mark.parametrize(
    "target", ["os.system", "vbp_lightning.data.datamodule.os.system", "builtins.eval"]
)
def test_a_checkpoint_names_no_code_of_its_own(tmp_path, target):
    config = settings(tmp_path) | {"source": {"_target_": target, "command": "touch /tmp/never"}}
    with pytest.raises(DataError, match=rf"{target}.*refused, not run"):
        RoadTileDataModule.from_config(config)


def test_settings_of_another_version_are_one_line(tmp_path):
    with pytest.raises(DataError, match=r"do not fit this version \(ckpt\).*colour"):
        RoadTileDataModule.from_config(settings(tmp_path) | {"colour": 1})
