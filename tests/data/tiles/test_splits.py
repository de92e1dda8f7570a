"""The splits of scenes, blocks and tiles."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.windows import Window

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import SPLITS, DataError, Scene
from vbp_lightning.data.imagery.extent import PixelGrid, longitude_latitude, pixels_of
from vbp_lightning.data.imagery.reading import SceneInfo
from vbp_lightning.data.tiles import planning
from vbp_lightning.data.tiles.grid import tile_grid
from vbp_lightning.data.tiles.planning import assign_tiles, overlaps, plan_tiles
from vbp_lightning.data.tiles.splits import (
    KnownSplits,
    Region,
    block_regions,
    draw_splits,
    rectangles,
    scene_regions,
    training_pixels,
    write_regions,
)


def alone(names):
    return [[name] for name in names]


names = st.lists(st.text("abc", min_size=1, max_size=4), min_size=3, max_size=30, unique=True)


@given(names, st.integers(0, 5), st.randoms(use_true_random=False))
def test_every_scene_has_one_split_independent_of_the_order(names, seed, random):
    splits = draw_splits(alone(names), 0.2, 0.1, seed)
    assert splits.keys() == set(names)
    shuffled = random.sample(names, len(names))
    assert draw_splits(alone(shuffled), 0.2, 0.1, seed) == splits
    counts = [list(splits.values()).count(split) for split in ("train", "val", "test")]
    expected = [max(1, round(0.2 * len(names))), max(1, round(0.1 * len(names)))]
    assert counts == [len(names) - sum(expected), *expected]


def test_seeds_differ_and_zero_fractions_draw_nothing():
    many = alone(f"s{i}" for i in range(40))
    assert draw_splits(many, 0.3, 0.3, 0) != draw_splits(many, 0.3, 0.3, 1)
    assert set(draw_splits(many, 0.3, 0, 0).values()) == {"train", "val"}
    assert set(draw_splits(many, 0, 0, 0).values()) == {"train"}


@given(st.lists(st.integers(1, 4), min_size=2, max_size=12), st.integers(0, 20))
def test_groups_stay_together(sizes, seed):
    groups = [[f"{group}.{item}" for item in range(size)] for group, size in enumerate(sizes)]
    splits = draw_splits(groups, 0.3, 0.3, seed)
    assert all(len({splits[name] for name in group}) == 1 for group in groups)
    assert splits.keys() == {name for group in groups for name in group}
    assert "train" in splits.values()


def info_of(name, x=0.0, split=None, width=80, height=64, crs="EPSG:32632", pixel=0.5):
    transform = Affine(pixel, 0, 4e5 + x, 0, -pixel, 5e6)
    grid = PixelGrid(height, width, transform, CRS.from_string(crs) if crs else None)
    scene = Scene(name, Path(f"{name}.tif"), Path(f"{name}_roads.tif"), split)
    return SceneInfo(scene, grid, 3, np.dtype(np.uint8), ["1", "2", "3"])


def whole(regions):
    assert all(len(parts) == 1 for parts in regions.values())
    return {name: parts[0].split for name, parts in regions.items()}


def test_a_scene_keeps_its_own_split():
    infos = [info_of(name, 1000 * i, "test") for i, name in enumerate("ab")]
    infos += [info_of(name, 5000 + 1000 * i) for i, name in enumerate("cde")]
    splits = whole(scene_regions(infos, overlaps(infos), 0.34, 0, 0))
    assert (splits["a"], splits["b"]) == ("test", "test")
    assert sorted(splits[name] for name in "cde") == ["train", "train", "val"]


def test_at_least_one_scene_is_for_training():
    assert draw_splits(alone("a"), 0.4, 0.4, 0) == {"a": "train"}
    assert sorted(draw_splits(alone("ab"), 0.4, 0.4, 0).values()) == ["test", "train"]


@pytest.mark.parametrize("seed", range(10))
def test_overlapping_scenes_get_the_same_split(seed):
    # Twelve scenes of 40 m in pairs that overlap by 10 m.
    infos = []
    for pair in range(6):
        infos.append(info_of(f"{pair}a", 1000 * pair))
        infos.append(info_of(f"{pair}b", 1000 * pair + 30))
    splits = whole(scene_regions(infos, overlaps(infos), 0.3, 0.3, seed))
    assert all(splits[f"{pair}a"] == splits[f"{pair}b"] for pair in range(6))
    assert set(splits.values()) == {"train", "val", "test"}


def test_a_scene_without_split_gets_that_of_the_scene_it_overlaps():
    infos = [info_of("a", 0, "test"), info_of("b", 30), info_of("c", 5000), info_of("d", 9000)]
    assert whole(scene_regions(infos, overlaps(infos), 0, 0, 0))["b"] == "test"


def brute_overlap(first, second):
    """Whether two north-up rasters of one CRS overlap by more than a pixel in both directions."""

    def extent(info):
        t = info.grid.transform
        return t.c, t.f - 0.5 * info.grid.height, t.c + 0.5 * info.grid.width, t.f

    a, b = extent(first), extent(second)
    return min(a[2], b[2]) - max(a[0], b[0]) > 1.0 and min(a[3], b[3]) - max(a[1], b[1]) > 1.0


@given(st.lists(st.integers(0, 400), min_size=2, max_size=8))
def test_overlaps_against_rectangles(places):
    infos = [info_of(str(i), x) for i, x in enumerate(places)]
    pairs = set(overlaps(infos))
    for a in range(len(infos)):
        for b in range(a + 1, len(infos)):
            gap = abs(places[a] - places[b])
            if gap not in (39, 40):  # about a pixel of overlap: either is right
                assert ((a, b) in pairs) == brute_overlap(infos[a], infos[b])


def test_overlaps_are_found_across_reference_systems():
    utm = info_of("utm")
    lon, lat = longitude_latitude(utm.grid, np.array([40.0]), np.array([32.0]))
    grid = PixelGrid(50, 50, Affine(5e-6, 0, lon[0], 0, -5e-6, lat[0]), CRS.from_epsg(4326))
    degrees = replace(utm, grid=grid, scene=replace(utm.scene, name="degrees"))
    assert overlaps([utm, degrees]) == [(0, 1)]
    away = replace(degrees, grid=replace(grid, transform=Affine(5e-6, 0, lon[0] + 1, 0, -5e-6, 48)))
    assert overlaps([utm, away]) == []


@given(
    st.integers(30, 200),
    st.integers(30, 200),
    st.integers(20, 90),
    st.sampled_from(["px", "m"]),
    st.integers(0, 3),
)
def test_blocks_cover_a_scene_once(height, width, size, unit, seed):
    info = info_of("a", height=height, width=width)
    side = size if unit == "px" else size * 0.5
    regions = block_regions([info], side, unit, 0.25, 0.25, seed)["a"]
    covered = np.zeros((height, width), int)
    for region in regions:
        covered[
            region.row : region.row + region.height, region.col : region.col + region.width
        ] += 1
        for length, total in ((region.height, height), (region.width, width)):
            assert length == total or 0.5 * size - 2 <= length <= 1.5 * size + 2
    assert (covered == 1).all()


@given(
    st.integers(20, 120),
    st.integers(20, 120),
    st.integers(8, 40),
    st.integers(1, 12),
    st.integers(0, 9),
    st.integers(0, 99),
)
def test_tiles_of_blocks_against_pixels(height, width, block, tile_size, margin, seed):
    info = info_of("a", height=height, width=width)
    regions = block_regions([info], block, "px", 0.3, 0.2, seed)["a"]
    plane = np.full((height, width), -1)
    for r in regions:
        plane[r.row : r.row + r.height, r.col : r.col + r.width] = SPLITS.index(r.split)
    corners = tile_grid((height, width), tile_size, 3, True)
    found = assign_tiles(corners, tile_size, margin, regions)
    for (row, col), split in zip(corners.tolist(), found.tolist(), strict=True):
        inside = set(plane[row : row + tile_size, col : col + tile_size].flat)
        wide = plane[
            max(0, row - margin) : row + tile_size + margin,
            max(0, col - margin) : col + tile_size + margin,
        ]
        expected = inside.pop() if len(inside) == 1 else -1
        if expected == 0 and set(wide.flat) != {0}:
            expected = -1
        assert split == expected


def test_tiles_are_assigned_in_chunks(monkeypatch):
    infos = [info_of("a", height=200, width=200), info_of("b", 30, height=200, width=200)]
    regions = block_regions(infos, 40, "px", 0.3, 0.2, 0)
    settings = infos, regions, overlaps(infos), 16, 4, 16, False, 3
    expected = plan_tiles(*settings)
    monkeypatch.setattr(planning, "_CHUNK", 7)
    for plan, same in zip(expected, plan_tiles(*settings), strict=True):
        assert np.array_equal(plan.corners, same.corners)
        assert np.array_equal(plan.splits, same.splits)
        assert plan.shared == same.shared > 0


def test_tiles_of_pixels_without_split_are_left_out():
    regions = [Region(0, 0, 20, 30, "train"), Region(20, 0, 20, 30, "train")]
    regions += [Region(0, 40, 40, 24, "val")]
    corners = tile_grid((64, 64), 8, 4, False)
    found = assign_tiles(corners, 8, 0, regions)
    for (row, col), split in zip(corners.tolist(), found.tolist(), strict=True):
        train, val = row + 8 <= 40 and col + 8 <= 30, row + 8 <= 40 and col >= 40
        assert split == (0 if train else 1 if val else -1)


def rotated_grid(angle, pixel, lon, lat):
    """A raster of degrees, rotated about its upper-left corner; pixels are metres wide."""
    size = np.array([pixel / 111_320 / np.cos(np.radians(lat)), pixel / 111_320])
    c, s = np.cos(angle), np.sin(angle)
    transform = Affine(c * size[0], s * size[0], lon, s * size[1], -c * size[1], lat)
    return PixelGrid(60, 50, transform, CRS.from_epsg(4326))


@pytest.mark.parametrize("angle", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("margin", [0, 6])
def test_training_tiles_near_held_out_pixels_of_another_crs(angle, margin):
    train = info_of("a", split="train", width=160, height=160)
    lon, lat = longitude_latitude(train.grid, np.array([70.0]), np.array([80.0]))
    grid = rotated_grid(angle, 0.7, lon[0], lat[0])
    val = info_of("b", split="val")
    val = replace(val, grid=grid)
    infos = [train, val]
    regions = scene_regions(infos, [(0, 1)], 0, 0, 0)
    plan, _ = plan_tiles(infos, regions, [(0, 1)], 8, 4, 8, False, margin)
    # Many points inside of the held-out scene, in pixels of the training scene.
    rows, cols = np.mgrid[0.5:59.5:300j, 0.5:49.5:300j]
    a, b, c, d, e, f = grid.transform[:6]
    to_utm = Transformer.from_crs(4326, 32632, always_xy=True)
    x, y = to_utm.transform(a * cols + b * rows + c, d * cols + e * rows + f)
    held_cols, held_rows = (x - 4e5) / 0.5, (5e6 - y) / 0.5
    assert ((held_cols > 0) & (held_cols < 160)).any()
    kept = {tuple(corner) for corner in plan.corners.tolist()}
    near, left_out = margin - 0.5, 0
    for row, col in tile_grid((160, 160), 8, 4, False).tolist():
        past_rows = np.maximum(row - held_rows, held_rows - row - 8)
        past_cols = np.maximum(col - held_cols, held_cols - col - 8)
        distance = np.maximum(past_rows, past_cols).min()
        left_out += (row, col) not in kept
        if abs(distance - near) > 0.3:  # the points are up to 0.3 pixels apart
            assert ((row, col) in kept) == (distance > near)
    assert plan.shared == left_out > 0


def test_shapes_in_pixels_of_a_scene_of_the_same_crs_are_shifted_by_whole_pixels():
    own, other = info_of("a").grid, info_of("b", x=20.0).grid
    (moved,) = pixels_of(own, rectangles([Region(2, 3, 16, 24, "val")], 0.5), other)
    assert moved.bounds == pytest.approx((43.5, 2.5, 66.5, 17.5), abs=1e-6)
    assert pixels_of(own, rectangles([]), other).tolist() == []


def degrees(first, last, side):
    """A scene of degrees from one (longitude, latitude) to another; pixels have some side."""
    shape = round((first[1] - last[1]) / side), round((last[0] - first[0]) / side)
    grid = PixelGrid(*shape, Affine(side, 0, first[0], 0, -side, first[1]), CRS.from_epsg(4326))
    return replace(info_of("b"), grid=grid)


def test_a_held_out_scene_of_the_whole_world():
    infos = [info_of("a"), degrees((-180, 90), (180, -90), 0.1)]
    assert overlaps(infos) == [(0, 1)]
    regions = {"a": [Region(0, 0, 64, 80, "train")], "b": [Region(0, 0, 1800, 3600, "val")]}
    plan, _ = plan_tiles(infos, regions, [(0, 1)], 16, 16, 16, False, 0)
    assert (len(plan.corners), plan.shared) == (0, 4 * 5)


def test_scenes_across_the_antimeridian_overlap_where_they_show_the_same_place():
    x, y = Transformer.from_crs(4326, 32760, always_xy=True).transform(180, -17)
    utm = CRS.from_epsg(32760)

    def scene(name, shift, split="train"):
        place = Affine(1, 0, x - 40 + shift, 0, -1, y + 32)
        return replace(info_of(name, split=split), grid=PixelGrid(64, 80, place, utm))

    step = 1e-5  # degrees, about a metre
    place = Affine(step, 0, -180 - 10 * step, 0, -step, -17 + 10 * step)
    held = replace(info_of("held", split="val"), grid=PixelGrid(20, 20, place, CRS.from_epsg(4326)))
    infos = [scene("across", 0), scene("west", -80), scene("east", 80), scene("far", -7000), held]
    assert overlaps(infos) == [(0, 4)]
    regions = scene_regions(infos, [], 0, 0, 0)
    plan = plan_tiles(infos, regions, [(0, 4)], 8, 8, 8, False, 0)[0]
    # The held-out scene reaches about 10 px to each side of row 32, column 40.
    near = {(row, col) for row in range(0, 64, 8) for col in range(0, 80, 8)}
    near -= {tuple(corner) for corner in plan.corners.tolist()}
    assert near == {(row, col) for row in (16, 24, 32, 40) for col in (24, 32, 40, 48)}


def test_a_training_scene_of_a_continent():
    infos = [info_of("a"), degrees((-20, 70), (50, 30), 0.1)]
    regions = {"a": [Region(0, 0, 64, 80, "val")], "b": [Region(0, 0, 400, 700, "train")]}
    _, plan = plan_tiles(infos, regions, [(0, 1)], 16, 16, 16, False, 0)
    lon, lat = longitude_latitude(infos[0].grid, np.array([40.0]), np.array([32.0]))
    row, col = int((70 - lat[0]) / 0.1) // 16 * 16, int((lon[0] + 20) / 0.1) // 16 * 16
    assert plan.shared == 1
    assert [row, col] not in plan.corners.tolist()
    assert len(plan.corners) == 25 * 43 - 1


@given(st.integers(0, 30), st.integers(1, 40))
def test_training_pixels_against_the_regions(top, rows):
    info = info_of("a")
    regions = block_regions([info], 20, "px", 0.3, 0.3, 1)["a"]
    plane = np.zeros(info.grid.shape, bool)
    for r in regions:
        if r.split == "train":
            plane[r.row : r.row + r.height, r.col : r.col + r.width] = True
    part = training_pixels(regions, Window(3, top, 70, rows))
    assert part.shape == (rows, 70)
    assert np.array_equal(part[: 64 - top], plane[top : top + rows, 3:73])


def test_a_written_split_reads_back(tmp_path):
    infos = [info_of("a, b"), info_of("c", 1000)]
    for regions in (
        block_regions(infos, 20, "px", 0.3, 0.3, 1),
        scene_regions(infos, overlaps(infos), 0.5, 0, 0),
    ):
        write_regions(tmp_path / "splits.csv", regions, {})
        assert KnownSplits.read(tmp_path / "splits.csv").regions(infos) == regions


def test_a_list_written_by_the_user(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("scene,split\nb,test\na,train\nelsewhere,val\n")
    regions = KnownSplits.read(path).regions([info_of("a"), info_of("b")])
    assert whole(regions) == {"a": "train", "b": "test"}


@pytest.mark.parametrize("content", [b"", b"scene,split\na,train\na,train,4,5\n", b"\xff\xfe\x00,"])
def test_a_file_that_is_no_csv(tmp_path, content):
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"mine\.csv: cannot be read as a CSV .*data\.split_file"):
        KnownSplits.read(path).regions([info_of("a")])


def test_names_are_read_as_text(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("split,scene\ntest,007\nval,NA\ntrain,1.0\n")
    regions = KnownSplits.read(path).regions([info_of(name) for name in ("007", "NA", "1.0")])
    assert whole(regions) == {"007": "test", "NA": "val", "1.0": "train"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,split\na,train\n", "needs a header with scene and split"),
        ("scene,split\n", "needs a header with scene and split"),
        ("scene,split\na,training\n", "line 2 says split 'training'"),
        ("scene,split\nb,train\n", "does not list scene a"),
        ("scene,row,col,height,width,split\na,0,0,64,81,val\n", "line 2 is no rectangle inside"),
        ("scene,row,col,height,width,split\na,0,,64,8,val\n", "line 2 is no rectangle inside"),
        (
            "scene,row,col,height,width,split\na,0,0,9,9,val\na,8,8,9,9,train\n",
            "has overlapping rectangles in scene a",
        ),
    ],
)
def test_errors_of_a_list(tmp_path, text, said):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        KnownSplits.read(path).regions([info_of("a")])
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: ")
    assert said in line
    assert "data.split_file" in line


def test_blocks_in_metres_need_a_georeferenced_scene():
    with pytest.raises(DataError, match=r"a\.tif: is not georeferenced.*data\.block_unit"):
        block_regions([info_of("a", crs=None)], 100, "m", 0.2, 0.2, 0)


@pytest.fixture
def warned(listed, make_scene, caplog):
    """The warnings for scenes of 80 × 64 px of 0.5 m, at given places and in given CRSs."""

    def say(**places):
        scenes = []
        for name, (split, x, y, crs) in places.items():
            transform = Affine(0.5, 0, x, 0, -0.5, y)
            scenes.append(make_scene(name, split, crs=crs, transform=transform))
        with caplog.at_level(logging.WARNING):
            RoadTileDataModule(listed(tuple(scenes)), tile_size=16).setup()
        return caplog.messages

    return say


def test_no_warning_for_neighbours_and_other_reference_systems(warned):
    messages = warned(
        a=("train", 0, 0, "EPSG:32632"),
        b=("val", 40, 0, "EPSG:32632"),  # begins where a ends
        c=("test", 0, 0, "EPSG:32633"),
        d=("test", 0, -31.6, "EPSG:32632"),  # shares less than a pixel with a
    )
    assert messages == []


def test_no_warning_for_scenes_without_reference(listed, make_scene, caplog):
    scenes = tuple(make_scene(split, split) for split in ("train", "val", "test"))
    RoadTileDataModule(listed(scenes), tile_size=16).setup()
    assert caplog.messages == []


def test_fields_beyond_the_header_are_refused(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("scene,split\na,train,7\nb,val,8\n")
    with pytest.raises(DataError, match=r"splits\.csv: cannot be read as a CSV"):
        KnownSplits.read(path)
