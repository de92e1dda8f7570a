"""Every error of a data set: one line that names the file and the key and says what to do."""

import numpy as np
import pytest
from affine import Affine

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.pattern_scenes import PatternScenes
from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.errors import UserError


@pytest.fixture
def errors(listed):
    """The errors of scenes that are refused."""

    def lines_of(*scenes, **settings):
        settings = {"tile_size": 16, "road_share": 0.1} | settings
        datamodule = RoadTileDataModule(listed(scenes), **settings)
        with pytest.raises(DataError) as caught:
            datamodule.setup()
        assert datamodule.mean == []
        assert datamodule.scene_splits == {}
        return caught.value.lines

    return lines_of


@pytest.fixture
def sound(make_scene):
    return [make_scene(split, split) for split in ("train", "val", "test")]


def test_a_data_error_is_a_user_error():
    assert issubclass(DataError, UserError)


def test_sound_scenes_have_no_error(sound, listed):
    RoadTileDataModule(listed(tuple(sound)), tile_size=16, road_share=0.1).setup()


def test_missing_root(tmp_path):
    with pytest.raises(DataError) as caught:
        RoadTileDataModule(PatternScenes(tmp_path / "nowhere")).setup()
    (line,) = caught.value.lines
    assert line.startswith(f"{tmp_path / 'nowhere'}: is not a folder")
    assert "data.root" in line


def test_no_scenes(tmp_path):
    (tmp_path / "train" / "sat").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        RoadTileDataModule(PatternScenes(tmp_path)).setup()
    (line,) = caught.value.lines
    assert line.startswith(f"{tmp_path}: holds no image")
    assert "data.root" in line


def test_image_without_mask(sound, errors):
    sound[0].labels.unlink()
    (line,) = errors(*sound)
    assert line.startswith(f"{sound[0].image}: has no road mask")
    assert str(sound[0].labels) in line
    assert "data.root" in line


def test_mask_without_image(sound, errors):
    sound[1].image.unlink()
    (line,) = errors(*sound)
    assert line.startswith(f"{sound[1].labels}: is a mask without an image")
    assert str(sound[1].image) in line
    assert "data.root" in line


def test_different_size(sound, errors, write):
    write(sound[2].labels, np.zeros((64, 81), np.uint8))
    (line,) = errors(*sound)
    assert line.startswith(f"{sound[2].labels}: is 81 × 64 px")
    assert f"{sound[2].image} 80 × 64 px" in line
    assert "data.root" in line


def test_a_mask_beside_its_image(sound, errors, make_scene, write):
    at = Affine(0.5, 0, 4e5, 0, -0.5, 5e6)
    sound[0] = make_scene("train", crs="EPSG:32632", transform=at)
    mask = np.zeros((64, 80), np.uint8)
    for crs, place in (
        ("EPSG:32632", Affine(0.5, 0, 4.1e5, 0, -0.5, 5e6)),
        ("EPSG:32633", at),
    ):
        write(sound[0].labels, mask, crs=crs, transform=place)
        (line,) = errors(*sound)
        assert line.startswith(f"{sound[0].labels}: lies beside its image {sound[0].image}")
        assert "data.root" in line


def test_another_size_without_a_place(sound, errors, make_scene, write):
    at = Affine(0.5, 0, 4e5, 0, -0.5, 5e6)
    sound[0] = make_scene("train", crs="EPSG:32632", transform=at)
    write(sound[0].labels, np.zeros((32, 40), np.uint8))
    (line,) = errors(*sound)
    assert line.startswith(f"{sound[0].labels}: is 40 × 32 px, its image {sound[0].image} 80 × 64")
    assert "not both are georeferenced" in line


def test_one_georeference_is_enough_and_tiny_differences_do_not_matter(
    sound, listed, make_scene, write
):
    at = Affine(0.5, 0, 1000, 0, -0.5, 2000)
    mask = np.zeros((64, 80), np.uint8)
    mask[:, :20] = 255
    sound[0] = make_scene("train", mask=mask, crs="EPSG:32632", transform=at)
    write(
        sound[0].labels, mask, crs="EPSG:32632", transform=Affine(0.5, 0, 1000.0001, 0, -0.5, 2000)
    )
    write(sound[1].labels, mask)
    RoadTileDataModule(listed(tuple(sound)), tile_size=16).setup()


def test_unreadable_file(sound, errors):
    sound[0].image.write_bytes(b"this is no raster")
    (line,) = errors(*sound)
    assert line.startswith(f"{sound[0].image}: cannot be read")
    assert "data.root" in line
    assert "\n" not in line


def test_truncated_file(sound, errors):
    content = sound[0].labels.read_bytes()
    sound[0].labels.write_bytes(content[: len(content) // 2])
    (line,) = errors(*sound)
    assert line.startswith(f"{sound[0].labels}: cannot be read")
    assert "replace it" in line


def test_unknown_band(sound, errors):
    lines = errors(*sound, bands=[1, 4, 0])
    assert len(lines) == 3
    for line, scene in zip(lines, sound, strict=True):
        assert (
            line
            == f"{scene.image}: has no band 4, 0: data.bands may name 1 to 3 or red, green, blue"
        )


def test_different_numbers_of_bands(sound, errors, make_scene):
    sound[1] = make_scene("val", "val", bands=5)
    (line,) = errors(*sound)
    assert line.startswith(f"{sound[1].image}: has 5 bands of uint8, most others 3 of uint8")
    assert "data.bands" in line


def test_common_bands_can_be_chosen(sound, listed, make_scene):
    sound[1] = make_scene("val", "val", bands=5)
    made = RoadTileDataModule(listed(tuple(sound)), tile_size=16, bands=[1, 2])
    made.setup()
    assert len(made.mean) == 2


def test_different_types(sound, errors, make_scene):
    image = np.random.default_rng(0).integers(0, 2000, (3, 64, 80), dtype=np.uint16)
    sound[2] = make_scene("test", "test", image=image)
    (line,) = errors(*sound)
    assert line.startswith(f"{sound[2].image}: has 3 bands of uint16, most others 3 of uint8")


def test_complex_numbers(sound, errors, make_scene):
    sound[0] = make_scene("train", image=np.ones((3, 64, 80), np.complex64))
    (line,) = errors(*sound)
    assert line.startswith(f"{sound[0].image}: holds complex numbers")
    assert "data.bands" in line


def test_mask_of_several_bands(sound, errors, write):
    for bands in (2, 4):
        write(sound[0].labels, np.zeros((bands, 64, 80), np.uint8))
        (line,) = errors(*sound)
        said = f"{sound[0].labels}: a road mask has one band, and this file has {bands}"
        assert line.startswith(said)
    differing = np.zeros((3, 64, 80), np.uint8)
    differing[1, :, :20] = 255
    write(sound[0].labels, differing)
    (line,) = errors(*sound)
    assert line.startswith(f"{sound[0].labels}: a road mask has one band, and this file has 3 that")


def test_a_picture_is_no_mask(sound, errors, write):
    picture = np.random.default_rng(0).integers(0, 256, (64, 80), dtype=np.uint8)
    write(sound[0].labels, picture)
    (line,) = errors(*sound)
    assert line.startswith(f"{sound[0].labels}: is not a road mask")
    assert "data.mask_threshold=127" in line


def test_masks_without_any_road(sound, errors, write):
    mask = np.zeros((64, 80), np.uint8)
    mask[:, :20] = 1
    write(sound[0].labels, mask)
    (line,) = errors(*sound)
    assert "no road mask of split train has a road" in line
    assert "largest value is 1" in line
    assert "data.mask_threshold=127" in line


def test_one_scene_without_any_road_is_fine(sound, listed, make_scene):
    empty = make_scene("empty", "train", mask=np.zeros((64, 80), np.uint8))
    RoadTileDataModule(listed((*sound, empty)), tile_size=16).setup()


def test_a_split_without_road_tiles(sound, errors, make_scene):
    mask = np.zeros((64, 80), np.uint8)
    mask[3, 3:7] = 255
    sound[1] = make_scene("val", "val", mask=mask)
    (line,) = errors(*sound)
    assert "split val has no road tile: the largest road share is 0.0156" in line
    assert "data.road_share=0.1" in line


def test_a_split_without_non_road_tiles(sound, errors, make_scene):
    sound[2] = make_scene("test", "test", mask=np.full((64, 80), 255, np.uint8))
    (line,) = errors(*sound)
    assert "split test has no non-road tile" in line
    assert "data.tile_size" in line


def test_a_split_without_scenes(sound, errors):
    (line,) = errors(*sound[:2])
    assert line.startswith("data.root: no scene belongs to split test")
    assert "data.test_fraction=0" in line
    lines = errors(sound[2], val_fraction=0)
    assert [line.split(":")[1] for line in lines] == [" no scene belongs to split train"]


def test_a_split_without_imagery(sound, errors, make_scene):
    image = np.zeros((3, 64, 80), np.uint8)
    sound[1] = make_scene("val", "val", image=image, nodata=0)
    (line,) = errors(*sound)
    assert "split val has no tile left, 20 hold too little imagery" in line
    assert "data.max_invalid" in line


def test_a_scene_smaller_than_a_tile(sound, errors, make_scene):
    small = make_scene("small", "train", height=15)
    (line,) = errors(*sound, small)
    assert line.startswith(f"{small.image}: is 80 × 15 px, smaller than a tile of 16 px")
    assert "data.tile_size" in line


def test_a_small_scene_does_not_give_its_split_a_second_error(sound, errors, make_scene):
    sound[1] = make_scene("val", "val", height=15)
    (line,) = errors(*sound)
    assert line.startswith(f"{sound[1].image}: is 80 × 15 px")


def test_repeated_names(sound, errors, make_scene):
    (line,) = errors(*sound, make_scene("train", "test"))
    assert "several scenes are called train" in line
    assert line.count(str(sound[0].image)) == 2
    assert "data.root" in line


def test_a_constant_band(sound, errors, make_scene):
    image = np.random.default_rng(0).integers(0, 255, (3, 64, 80), dtype=np.uint8)
    image[1] = 9
    sound[0] = make_scene("train", image=image)
    (line,) = errors(*sound)
    assert "band 2 is the same everywhere" in line
    assert "data.bands" in line


def test_white_areas_of_other_types(sound, errors, make_scene, listed):
    image = np.random.default_rng(0).random((3, 64, 80), dtype=np.float32)
    scene = make_scene("wide", image=image)
    wide = type(scene)(scene.name, scene.image, scene.labels, "train", white_area=256)
    line, other = errors(wide, *sound[1:])
    assert other.startswith(f"{wide.image}: has 3 bands of float32, most others 3 of uint8")
    assert line.startswith(f"{wide.image}: white areas")
    assert "data.source.white_area=0, and data.nodata" in line


def test_all_errors_are_reported_together(sound, errors, make_scene, write):
    sound[0].image.write_bytes(b"broken")
    small = make_scene("small", "test", width=9)
    lone = make_scene("lone", "test")
    lone.labels.unlink()
    twice = make_scene("val", "val")
    write(twice.labels, np.zeros((10, 10), np.uint8))
    repeated, *lines = errors(*sound, small, lone, twice)
    assert "several scenes are called val" in repeated
    files = [sound[0].image, lone.image, sound[1].labels, small.image]
    assert len(lines) == len(files)
    for line, file in zip(lines, files, strict=True):
        assert line.startswith(f"{file}: ")
        assert "data." in line
        assert "\n" not in line


def test_nothing_is_set_up_after_an_error(sound, listed):
    content = sound[0].image.read_bytes()
    sound[0].image.write_bytes(b"broken")
    made = RoadTileDataModule(listed(tuple(sound)), tile_size=16, road_share=0.1)
    with pytest.raises(DataError):
        made.setup()
    sound[0].image.write_bytes(content)
    made.setup()
    assert made.counts["train"]["road"] > 0


@pytest.mark.parametrize(
    "setting",
    [
        {"tile_size": 0},
        {"stride": 0},
        {"train_stride": -1},
        {"batch_size": 0},
        {"num_workers": -1},
        {"seed": -1},
        {"split_seed": -1},
        {"mask_threshold": -1},
        {"tiles_per_epoch": 0},
        {"road_share": 0.0},
        {"road_share": 1.5},
        {"max_invalid": -0.1},
        {"val_fraction": 1.0},
        {"test_fraction": -0.1},
        {"bands": []},
        {"nodata": "abc"},
        {"split_by": "town"},
        {"block_unit": "feet"},
        {"block_size": 0},
        {"resolution": 0.0},
        {"memory": 0},
        {"stretch": [2]},
        {"stretch": [98, 2]},
        {"stretch": [0, 101]},
    ],
    ids=str,
)
def test_invalid_settings(setting, listed):
    with pytest.raises(DataError) as caught:
        RoadTileDataModule(listed(()), **setting)
    ((key, value),) = setting.items()
    assert f"data.{key}={value}" in caught.value.lines[0]


def test_all_settings_together(listed):
    augment = {"brightness": -1, "contrast": 1, "jitter": -2}
    with pytest.raises(DataError) as caught:
        RoadTileDataModule(listed(()), stride=0, road_share=2, augment=augment)
    keys = [line.split("=")[0] for line in caught.value.lines]
    assert keys == [
        "data.stride",
        "data.road_share",
        "data.augment.brightness",
        "data.augment.contrast",
        "data.augment.jitter",
    ]


def test_uneven_shares_of_a_batch(datamodule, attach):
    attach(datamodule, world_size=3)
    with pytest.raises(DataError, match=r"data\.batch_size=8: .* among 3 processes"):
        datamodule.train_dataloader()
