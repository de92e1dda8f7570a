"""The layouts of data sets, written small in the layouts' own names."""

import json
import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from rasterio.enums import ColorInterp

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.labelled_images import LabelledImages
from vbp_lightning.data.datasets.pattern_scenes import PatternScenes
from vbp_lightning.data.datasets.scene import DataError, ImageLabel

CONF = Path(__file__).parents[3] / "conf"
SPACENET = Path(__file__).parents[4] / "shared" / "data" / "spacenet"


def from_command_line(*overrides):
    """The data module that ``train.py`` makes of its command line."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["data.num_workers=0", *overrides])
    return instantiate(cfg.data, _convert_="all")


def picture(seed, height=200, width=220, dtype=np.uint8, bands=3):
    return np.random.default_rng(seed).integers(1, 250, (bands, height, width)).astype(dtype)


def mask_of(height=200, width=220):
    mask = np.zeros((height, width), np.uint8)
    mask[:, 20:40] = 255
    return mask


def lines_of(caught):
    return caught.value.lines


# folder


def test_images_and_masks_in_two_folders(tmp_path, write):
    for i, suffix in enumerate(["tif", "png", "jpg", "tif", "png"]):
        driver = {"tif": "GTiff", "png": "PNG", "jpg": "JPEG"}[suffix]
        write(tmp_path / "images" / f"s{i}.{suffix}", picture(i), driver=driver)
        write(tmp_path / "masks" / f"s{i}.png", mask_of(), driver="PNG")
    (tmp_path / "images" / "s0.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    (tmp_path / "images" / "notes.txt").write_text("by hand")
    scenes = PatternScenes(tmp_path)()
    assert [scene.name for scene in scenes] == [f"s{i}" for i in range(5)]
    made = from_command_line("data=folder", f"data.root={tmp_path}")
    made.setup()
    assert {split: sum(c.values()) for split, c in made.counts.items()}["train"] == 3 * 3 * 3
    assert all(counts["road"] and counts["non_road"] for counts in made.counts.values())
    again = RoadTileDataModule.from_config(made.data_config)
    assert again.data_config == made.data_config


def test_files_of_the_mask_pattern_are_not_images(tmp_path, write):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.png", picture(0))
        write(tmp_path / f"{name}_mask.png", mask_of())
    scenes = PatternScenes(tmp_path, "{name}.png", "{name}_mask.png")()
    assert [(s.image.name, s.labels.name) for s in scenes] == [
        ("a.png", "a_mask.png"),
        ("b.png", "b_mask.png"),
    ]


def test_split_folders_with_scenes_of_the_same_name(tmp_path, write):
    for folder in ("training", "holdout", "scrap"):
        write(tmp_path / folder / "deep" / "x" / "1.tif", picture(0))
        write(tmp_path / folder / "1_m.tif", mask_of())
    source = PatternScenes(
        tmp_path,
        "{split}/**/x/{name}.tif",
        "{split}/{name}_m.tif",
        splits={"training": "train", "holdout": "test"},
    )
    assert [(s.name, s.split) for s in source()] == [
        ("training/1", "train"),
        ("holdout/1", "test"),
    ]


def test_masks_may_lack_the_split_of_their_images(tmp_path, write):
    for split in ("train", "test"):
        write(tmp_path / split / f"{split}1.tif", picture(0))
        write(tmp_path / "masks" / f"{split}1.png", mask_of(), driver="PNG")
    scenes = PatternScenes(tmp_path, "{split}/{name}.tif")()
    assert [(s.name, s.split, s.labels.name) for s in scenes] == [
        ("train1", "train", "train1.png"),
        ("test1", "test", "test1.png"),
    ]


def test_any_placeholder_pairs_and_names(tmp_path, write):
    for place in ("oslo", "bergen"):
        for number in (1, 2):
            write(tmp_path / place / f"sat-{number}.tif", picture(number))
        write(tmp_path / "roads" / f"{place}.tif", mask_of())
    scenes = PatternScenes(tmp_path, "{place}/sat-{number}.tif", "roads/{place}.tif")()
    assert [(scene.name, scene.labels.name) for scene in scenes] == [
        ("bergen_1", "bergen.tif"),
        ("bergen_2", "bergen.tif"),
        ("oslo_1", "oslo.tif"),
        ("oslo_2", "oslo.tif"),
    ]


def config_of(tmp_path, **settings):
    """The data module of a folder, whose layout has the given settings."""
    source = {"_target_": "vbp_lightning.data.PatternScenes", **settings}
    return RoadTileDataModule(source, tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"images": "images/*.tif"}, "images=images/*.tif: needs a placeholder"),
        ({"images": "{name}/{name}.tif"}, "holds a placeholder twice"),
        ({"masks": "{place}/{name}.tif"}, "holds {place}, which data.source.images=images/{name}"),
        ({"masks": "{split}/{name}.tif"}, "put it into both or into neither"),
        ({"masks": "masks.tif"}, "masks=masks.tif: needs a placeholder"),
        ({"labels": "{place}.shp"}, "labels={place}.shp: holds {place}"),
        ({"splits": {"a": "training"}}, "data.source.splits.a=training: must be train or val"),
        ({"images": "nowhere/{name}.tif"}, "holds no image nowhere/{name}.tif"),
    ],
)
def test_errors_of_a_folder(tmp_path, settings, said):
    with pytest.raises(DataError) as caught:
        config_of(tmp_path, **settings).prepare_data()
    lines = lines_of(caught)
    assert said in lines[0]
    assert all("data." in line for line in lines)


# deepglobe


def test_deepglobe(tmp_path, write):
    rng = np.random.default_rng(0)
    for number in range(8):
        soft = np.where(mask_of() > 0, rng.choice([128, 200, 255]), rng.choice([0, 60, 127]))
        write(tmp_path / "train" / f"{number}_sat.jpg", picture(number), driver="JPEG")
        three = np.stack([soft.astype(np.uint8)] * 3)
        write(tmp_path / "train" / f"{number}_mask.png", three, driver="PNG")
    write(tmp_path / "valid" / "99_sat.jpg", picture(9), driver="JPEG")
    write(tmp_path / "test" / "98_sat.jpg", picture(9), driver="JPEG")
    made = from_command_line("data=deepglobe", f"data.root={tmp_path}")
    made.setup()
    assert set(made.scene_splits) == {str(number) for number in range(8)}
    for split in ("train", "val", "test"):
        for tile in made.tiles_of(split):
            expected = mask_of()[
                tile.tile.row : tile.tile.row + 96, tile.tile.col : tile.tile.col + 96
            ]
            assert tile.share == (expected > 0).mean()


# vector and osm


def vector_scene(write, path, x, y, size=200):
    write(
        path,
        picture(int(x) % 97, size, size),
        crs="EPSG:32632",
        transform=Affine(0.5, 0, x, 0, -0.5, y),
    )


def geojson(path, features, crs="EPSG::32632"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {
                "type": "FeatureCollection",
                "crs": {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{crs}"}},
                "features": [
                    {
                        "type": "Feature",
                        "properties": properties,
                        "geometry": {"type": "LineString", "coordinates": points},
                    }
                    for properties, points in features
                ],
            }
        )
    )


def test_one_vector_file_for_all_images(tmp_path, write):
    lines = []
    for number in range(5):
        x = 4e5 + 1000 * number
        vector_scene(write, tmp_path / "images" / f"s{number}.tif", x, 5.4e6)
        lines.append(({"highway": "motorway"}, [[x + 10, 5.4e6 + 50], [x + 10, 5.4e6 - 200]]))
        lines.append(({"waterway": "river"}, [[x + 30, 5.4e6 + 50], [x + 30, 5.4e6 - 200]]))
    geojson(tmp_path / "roads.geojson", lines)
    plain = from_command_line(
        "data=vector",
        f"data.root={tmp_path}",
        "data.source.widths.default=8",
        'data.source.where="highway IS NOT NULL"',
    )
    plain.setup()
    tile = next(t for t in plain.tiles_of("train") if (t.tile.row, t.tile.col) == (0, 0))
    assert tile.share == 16 / 96  # 8 m of 0.5 m
    wide = from_command_line("data=osm", f"data.root={tmp_path}")
    wide.setup()
    tile = next(t for t in wide.tiles_of("train") if (t.tile.row, t.tile.col) == (0, 0))
    assert tile.share == 40 / 96
    assert RoadTileDataModule.from_config(wide.data_config).source.widths == wide.source.widths


def test_vector_files_beside_images_are_no_images(tmp_path, write):
    for number in range(3):
        vector_scene(write, tmp_path / f"s{number}.tif", 4e5, 5.4e6 + 1000 * number)
        geojson(tmp_path / f"s{number}.json", [({}, [[4e5, 5.4e6 - 9], [4e5 + 99, 5.4e6 - 9]])])
        for suffix in ("tfw", "tif.aux.xml", "tif.ovr", "gpkg", "qpj"):
            (tmp_path / f"s{number}.{suffix}").write_text("beside")
    geojson(tmp_path / "roads.geojson", [({}, [[4e5, 5.4e6 - 9], [4e5 + 99, 5.4e6 - 9]])])
    for labels in ("roads.geojson", "{name}.json"):
        scenes = PatternScenes(tmp_path, "{name}.*", labels=labels)()
        assert [scene.image.name for scene in scenes] == ["s0.tif", "s1.tif", "s2.tif"]
    assert [scene.labels.path.name for scene in scenes] == ["s0.json", "s1.json", "s2.json"]


def test_one_vector_file_an_image(tmp_path, write):
    for number in range(3):
        vector_scene(write, tmp_path / "i" / f"s{number}.tif", 4e5, 5.4e6 + 1000 * number)
    geojson(tmp_path / "v" / "s0.geojson", [({}, [[4e5, 5.4e6 - 9], [4e5 + 99, 5.4e6 - 9]])])
    source = PatternScenes(tmp_path, "i/{name}.tif", labels="v/{name}.geojson")
    with pytest.raises(DataError) as caught:
        source()
    first, second = lines_of(caught)
    assert first.startswith(f"{tmp_path / 'i/s1.tif'}: has no vector labels")
    assert str(tmp_path / "v/s2.geojson") in second
    for number in (1, 2):
        (tmp_path / "v" / f"s{number}.geojson").write_text(
            (tmp_path / "v" / "s0.geojson").read_text()
        )
    assert [scene.labels.path.name for scene in source()] == [f"s{i}.geojson" for i in range(3)]


def test_split_folders_of_vectors_are_not_mixed(tmp_path, write):
    for split, y in (("train", 0), ("test", 5000)):
        vector_scene(write, tmp_path / split / "i" / "a.tif", 4e5, 5.4e6 + y)
        geojson(tmp_path / split / "r" / "a.geojson", [({}, [[4e5, 5.4e6 + y], [4e5 + 9, 5.4e6]])])
    scenes = PatternScenes(tmp_path, "{split}/i/{name}.tif", labels="{split}/r/{name}.geojson")()
    assert [scene.labels.path.parts[-3] for scene in scenes] == ["train", "test"]
    (tmp_path / "train" / "r" / "a.gpkg").write_bytes(b"")
    with pytest.raises(DataError, match="several vector files are called a "):
        PatternScenes(tmp_path, "{split}/i/{name}.tif", labels="{split}/r/{name}.*")()


def test_folders_may_be_links(tmp_path, write):
    write(tmp_path / "elsewhere" / "a.tif", picture(0))
    write(tmp_path / "d" / "masks" / "a.tif", mask_of())
    (tmp_path / "d" / "images").symlink_to(tmp_path / "elsewhere")
    assert [scene.name for scene in PatternScenes(tmp_path / "d")()] == ["a"]


def test_a_single_label_without_a_list(tmp_path, write):
    write(tmp_path / "train" / "a.png", picture(0), driver="PNG")
    write(tmp_path / "train" / "b.png", picture(1), driver="PNG")
    (tmp_path / "train.csv").write_text("image_name,tags\na,1\nb,0\n")
    assert [s.labels.is_road for s in LabelledImages(tmp_path, road=1)()] == [True, False]


def test_errors_of_vector_settings(tmp_path):
    widths = {"default": 0, "table": {"a": -1, 2: True}, "per_unit": -2}
    with pytest.raises(DataError) as caught:
        config_of(tmp_path, labels="roads.geojson", widths=widths)
    assert lines_of(caught) == (
        "data.source.widths.default=0: must be above 0",
        "data.source.widths.table.a=-1: must be above 0",
        "data.source.widths.table.2=true: must be a number",
        "data.source.widths.per_unit=-2: must be above 0 or null",
    )
    with pytest.raises(
        DataError, match=r"data\.source\.widths\.attribute: is not set, but a table"
    ):
        config_of(tmp_path, labels="roads.geojson", widths={"per_unit": 3.5})
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.tif").write_bytes(b"")
    with pytest.raises(DataError, match=r"roads\.geojson: there is no such vector file"):
        PatternScenes(tmp_path, labels="roads.geojson")()
    (tmp_path / "roads.gdb").mkdir()
    (scene,) = PatternScenes(tmp_path, labels="roads.gdb")()
    assert scene.labels.path == tmp_path / "roads.gdb"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("folder/roads.shp", b"")
    for folder in ("images", f"zip://{tmp_path}/a.zip"):
        with pytest.raises(DataError, match=r": is a folder: name .*\(data\.source\.labels\)"):
            PatternScenes(tmp_path, labels=folder)()


_WHOLE = "must be a whole number"


@pytest.mark.parametrize(
    ("data", "setting", "said"),
    [
        ("vector", "source.widths.default=8 m", "must be a number"),
        ("vector", "source.widths.default=true", "must be a number"),
        ("vector", "source.widths.table={a: wide}", "table.a=wide: must be a number"),
        ("vector", "source.widths.table=8", "must be a mapping, as {name: value} or null"),
        ("vector", "source.widths=8", "must be given part by part, as {key}.default=…"),
        ("vector", "source.images=5", "must be text"),
        ("vector", "source.layer=3", "must be text or null"),
        ("vector", "source.white_area=big", _WHOLE),
        ("folder", "source.white_area=-1", "must be at least 0"),
        ("folder", "source.white_area=2.5", _WHOLE),
        ("folder", "source.splits=train", "must be a mapping, as {name: value} or null"),
        ("folder", "source=5", "is no layout: choose one with data="),
        ("spacenet", "source.unlabelled=9", "must be error or skip or no_road"),
        ("csv", "source.fit=stretch", "must be crop or resize"),
        ("csv", "source.road=null", "must be a list in square brackets or a whole number or text"),
        ("synthetic", "source.scenes=many", _WHOLE),
        ("synthetic", "source.seed=-1", "must be at least 0"),
        ("folder", "stretch=5", "must be a list in square brackets or null"),
        ("folder", "stretch=[low,high]", "must be a list in square brackets or null"),
        ("folder", "resolution=1 m", "must be a number or null"),
        ("folder", "nodata=none", "must be a number or null"),
        ("folder", "bands=[1.5]", "must be a list in square brackets or a whole number or text"),
        ("folder", "tile_size=96.5", _WHOLE),
        ("folder", "tile_size=[96]", _WHOLE),
        ("folder", "stride=wide", _WHOLE + " or null"),
        ("folder", "stride=-48", "must be at least 1"),
        ("folder", "cover_edges=2", "must be true or false"),
        ("folder", "road_share=5 %", "must be a number"),
        ("folder", "road_share=null", "must be a number"),
        ("folder", "val_fraction=-0.1", "must not be negative"),
        ("folder", "split_by=town", "must be scene or block"),
        ("folder", "block_margin=-1", "must be at least data.augment.jitter"),
        ("folder", "batch_size=64.5", _WHOLE),
        ("folder", "memory=2GiB", "must be a number"),
        ("folder", "memory=.inf", "must be a number"),
        ("folder", "num_workers=many", _WHOLE),
        ("folder", "augment=5", "must be false or null or given part by part, as {key}.flips=…"),
        ("folder", "augment.jitter=far", _WHOLE),
        ("folder", "seed=-1", "must be at least 0"),
    ],
)
def test_settings_of_the_wrong_type_are_one_line(tmp_path, data, setting, said):
    key = setting.split("=", maxsplit=1)[0]
    with pytest.raises(InstantiationException) as caught:
        from_command_line(f"data={data}", f"data.root={tmp_path}", f"data.{setting}")
    error = caught.value.__cause__
    assert isinstance(error, DataError)
    (line,) = error.lines
    assert line.startswith(f"data.{key}")
    assert said.replace("{key}", f"data.{key}") in line
    assert "\n" not in line


# spacenet


def spacenet_scene(
    write, root, area, number, imagery="PS-RGB", type_="img", label=True, roads=True
):
    at = Affine(2.7e-6, 0, -115.3 + number * 0.01, 0, -2.7e-6, 36.2)
    stem = f"SN3_roads_train_{area}"
    write(
        root / area / imagery / f"{stem}_{imagery}_{type_}{number}.tif",
        picture(number, 300, 300, np.uint16) * 7,
        crs="EPSG:4326",
        transform=at,
    )
    if label:
        x = at.c + 20 * at.a
        line = ({"lane_number": "2"}, [[x, 36.3], [x, 36.1]])
        name = f"{stem}_geojson_roads_{type_}{number}.geojson"
        geojson(root / area / "geojson_roads" / name, [line] * roads, "OGC:1.3:CRS84")


def spacenet(root, *overrides):
    """The scenes of ``data=spacenet``."""
    return from_command_line("data=spacenet", f"data.root={root}", *overrides).source()


def test_spacenet(tmp_path, write, caplog):
    for number in range(601, 607):
        spacenet_scene(write, tmp_path, "AOI_2_Vegas", number, roads=number != 603)
    spacenet_scene(write, tmp_path, "AOI_2_Vegas", 607, label=False)
    spacenet_scene(write, tmp_path, "AOI_3_Paris", 601, type_="chip")
    with caplog.at_level(logging.WARNING):
        scenes = spacenet(tmp_path)
    assert [scene.name for scene in scenes] == [
        *(f"AOI_2_Vegas_img{number}" for number in range(601, 607)),
        "AOI_3_Paris_chip601",
    ]
    assert "1 images have no label file and are left out" in caplog.text
    assert "img607" in caplog.text
    free = spacenet(tmp_path, "data.source.unlabelled=no_road")
    assert free[6].labels.path is None
    made = from_command_line(
        "data=spacenet",
        f"data.root={tmp_path}",
        "data.source.widths.attribute=lane_number",
        "data.source.widths.per_unit=3.5",
        "data.source.unlabelled=no_road",
    )
    made.setup()
    assert sum(map(sum, (counts.values() for counts in made.counts.values()))) > 0
    assert made.normalisation.low is not None
    for split in ("train", "val", "test"):
        for tile in made.tiles_of(split):
            bare = tile.tile.scene in ("AOI_2_Vegas_img603", "AOI_2_Vegas_img607")
            has_road = not bare and tile.tile.col <= 20
            assert (tile.share > 0) == has_road


def test_the_newer_labels_of_spacenet_are_preferred(tmp_path, write):
    spacenet_scene(write, tmp_path, "AOI_7_Moscow", 5, type_="chip")
    old = next((tmp_path / "AOI_7_Moscow" / "geojson_roads").iterdir())
    new = tmp_path / "AOI_7_Moscow" / "geojson_roads_speed" / old.name
    new.parent.mkdir()
    new.write_bytes(old.read_bytes())
    assert spacenet(tmp_path)[0].labels.path == new
    pattern = 'data.source.labels="{area}/geojson_roads/*_{chip}.geojson"'
    assert spacenet(tmp_path, pattern)[0].labels.path == old


def test_errors_of_spacenet(tmp_path, write):
    with pytest.raises(DataError, match=r"holds no image \{area\}/PS-RGB.*data\.source\.images"):
        spacenet(tmp_path)
    for number in (1, 2):
        spacenet_scene(write, tmp_path, "AOI_2_Vegas", number)
    next((tmp_path / "AOI_2_Vegas" / "PS-RGB").glob("*img2.tif")).unlink()
    with pytest.raises(DataError, match=r"img2\.geojson: has no image"):
        spacenet(tmp_path)
    with pytest.raises(DataError, match=r"img2\.geojson: has no image"):
        spacenet(tmp_path, "data.source.unlabelled=error")


@pytest.mark.skipif(not SPACENET.is_dir(), reason="the real scene is not here")
def test_the_real_scene_in_blocks():
    made = from_command_line(
        "data=spacenet",
        f"data.root={SPACENET}",
        'data.source.images="{area}/PAN/*_{chip}.tif"',
        "data.split_by=block",
        "data.block_size=80",
        "data.split_seed=1",
        "data.val_fraction=0.25",
        "data.test_fraction=0.25",
    )
    made.setup()
    assert len(made.mean) == 1
    assert all(counts["road"] and counts["non_road"] for counts in made.counts.values())
    assert 1 <= made.normalisation.low[0] < made.normalisation.high[0] < 2047


# csv


def planet(write, root, count=24):
    rows = ["image_name,tags"]
    for number in range(count):
        pixels = picture(number, 256, 256, np.uint16, 4) * 40
        path = write(
            root / "train-tif-v2" / f"train_{number}.tif", pixels, photometric="MINISBLACK"
        )
        with rasterio.open(path, "r+") as raster:
            raster.colorinterp = [
                ColorInterp.blue,
                ColorInterp.green,
                ColorInterp.red,
                ColorInterp.undefined,
            ]
        rows.append(
            f"train_{number},{'clear primary road water' if number % 2 else 'clear primary'}"
        )
    (root / "train_v2.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(("fit", "tiles"), [("crop", 4), ("resize", 1)])
def test_planet(tmp_path, write, fit, tiles):
    planet(write, tmp_path)
    half = ("data.val_fraction=0.3", "data.test_fraction=0.3")
    made = from_command_line("data=csv", f"data.root={tmp_path}", f"data.source.fit={fit}", *half)
    made.setup()
    assert len(made.mean) == 4
    for split in ("val", "test"):
        own = [name for name, own in made.scene_splits.items() if own == split]
        listed = made.tiles_of(split)
        assert len(listed) == tiles * len(own)
        for tile in listed:
            number = int(tile.tile.scene.split("_")[1])
            assert (int(tile.label), tile.share) == (number % 2, float(number % 2))
    assert made.read_tiles(made.tiles_of("val")[:1]).shape == (1, 4, 96, 96)
    red = from_command_line(
        "data=csv", f"data.root={tmp_path}", "data.bands=[red,green,blue]", *half
    )
    red.setup()
    assert red.mean == pytest.approx([made.mean[2], made.mean[1], made.mean[0]], rel=1e-5)


def test_a_table_of_labels_with_suffixes_and_a_split(tmp_path, write):
    for number in range(6):
        write(tmp_path / "pictures" / f"{number}.png", picture(number, 100, 100), driver="PNG")
    (tmp_path / "Train.csv").write_text(
        "Image_ID,Target,Fold\n"
        + "".join(f"{n}.png,{n % 2},{['train', 'validation', 'test'][n // 2]}\n" for n in range(6))
    )
    source = LabelledImages(
        tmp_path, "Train.csv", "pictures", "Image_ID", "Target", ["1"], split_column="Fold"
    )
    scenes = source()
    assert [scene.split for scene in scenes] == ["train", "train", "val", "val", "test", "test"]
    assert [scene.labels for scene in scenes] == [ImageLabel(False), ImageLabel(True)] * 3
    made = RoadTileDataModule(source)
    made.setup()
    assert made.counts["test"] == {"road": 1, "non_road": 1, "ignored": 0, "dropped": 0}


def test_errors_of_a_table(tmp_path, write):
    planet(write, tmp_path, 3)
    table = tmp_path / "train_v2.csv"
    table.write_text(
        "image_name,tags\ntrain_0,road\ntrain_9,road\ntrain_1,\n,road\ntrain_0,clear\n"
    )
    source = LabelledImages(tmp_path, "train_v2.csv", "train-tif-v2")
    with pytest.raises(DataError) as caught:
        source()
    lines = lines_of(caught)
    assert len(lines) == 4
    assert any("train_9: is listed in line 3" in line for line in lines)
    assert any("line 4 has no label" in line for line in lines)
    assert any("line 5 has no image" in line for line in lines)
    assert any("lists train_0 several times" in line for line in lines)
    assert all("data.source." in line for line in lines)
    table.write_text("name,label\na,b\n")
    with pytest.raises(DataError) as caught:
        source()
    assert [line.split(" (")[0] for line in lines_of(caught)] == [
        f"{table}: has no column image_name",
        f"{table}: has no column tags",
    ]
    with pytest.raises(DataError, match=r"nowhere\.csv: cannot be read as a CSV"):
        LabelledImages(tmp_path, "nowhere.csv")()


def test_fields_beyond_the_header_are_not_lost(tmp_path, write):
    write(tmp_path / "train/a.tif", np.zeros((4, 4), np.uint8))
    table = tmp_path / "train.csv"
    for rows in ("a,water, road\n", "b,road\na,water, road\n"):
        table.write_text(f"image_name,tags\n{rows}")
        with pytest.raises(DataError, match=r"train\.csv: cannot be read as a CSV"):
            LabelledImages(tmp_path)()
    table.write_text("image_name,tags\na,None\n")
    assert [s.labels.is_road for s in LabelledImages(tmp_path)()] == [False]


def test_a_split_whose_images_have_one_label(tmp_path, write):
    for number in range(6):
        write(tmp_path / "train" / f"{number}.tif", picture(number))
    splits = ["train", "train", "val", "val", "test", "test"]
    rows = [f"{i},{'10'[i % 2 or i > 3]},{split}" for i, split in enumerate(splits)]
    (tmp_path / "train.csv").write_text("file,kind,part\n" + "\n".join(rows))
    source = LabelledImages(
        tmp_path, image_column="file", label_column="kind", road=0, split_column="part"
    )
    with pytest.raises(DataError) as caught:
        RoadTileDataModule(source, augment=None).setup()
    (line,) = lines_of(caught)
    assert "split test has no image labelled as free of road (data.source.road)" in line
    assert "data.split_seed" in line


def test_many_errors_of_one_type_are_counted(tmp_path):
    (tmp_path / "train").mkdir()
    rows = "".join(f"i{n},road\n" for n in range(100))
    (tmp_path / "train.csv").write_text("image_name,tags\n" + rows)
    with pytest.raises(DataError) as caught:
        LabelledImages(tmp_path)()
    lines = lines_of(caught)
    assert len(lines) == 6
    assert lines[-1].endswith("and 95 more lines like these")
