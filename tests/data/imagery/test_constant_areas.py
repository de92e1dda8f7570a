"""Areas of one value that no tag declares as nodata."""

import numpy as np
import pytest
from scipy import ndimage

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.imagery.constant_areas import constant_area_notes, constant_areas, united

HEIGHT, WIDTH, TILE = 160, 200, 32


def noise(dtype="uint8", bands=3):
    values = np.random.default_rng(0).integers(20, 200, (bands, HEIGHT, WIDTH))
    return values.astype(dtype)


def found(bands, valid=None, rows=HEIGHT):
    valid = np.ones(bands.shape[1:], bool) if valid is None else valid
    parts = [
        area
        for top in range(0, HEIGHT, rows)
        for area in constant_areas(
            bands[:, top : top + rows], valid[top : top + rows], (top, 0), (HEIGHT, WIDTH), TILE
        )
    ]
    return {area.value: area for area in united(parts)}


def wedge():
    """A triangle at two edges, as beside a rotated image."""
    rows, cols = np.indices((HEIGHT, WIDTH))
    return rows + cols < 60


def test_noise_has_none():
    assert not found(noise())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("value", [0, 255, 7])
@pytest.mark.parametrize("rows", [HEIGHT, 64])
def test_collars_are_counted_to_the_pixel(dtype, value, rows):
    image, area = noise(dtype), wedge()
    area[-3:] = True  # a thin one at another edge
    image[:, area] = value
    (only,) = found(image, rows=rows).values()
    assert only.value == (value,) * 3
    assert only.pixels == area.sum()
    row, col = only.place
    assert area[row, col]


def test_holes_count_from_the_size_of_a_tile():
    image = noise()
    image[:, 50:82, 60:92] = 0
    assert found(image)[0, 0, 0].pixels == TILE**2
    image[:, 50, 60] = 1
    assert not found(image)


def test_small_areas_at_edges_and_inner_roofs_are_imagery():
    image = noise()
    image[:, :10, :12] = 0
    image[:, 80:100, 80:100] = 255
    assert not found(image)


def test_one_dark_band_is_imagery_and_values_may_differ_by_band():
    image = noise()
    image[0, wedge()] = 0
    assert not found(image)
    image[1, wedge()], image[2, wedge()] = 5, 9
    assert found(image)[0, 5, 9].pixels == wedge().sum()


def test_declared_nodata_is_no_area():
    image = noise()
    image[:, wedge()] = 0
    assert not found(image, ~wedge())


def test_it_equals_a_slow_search():
    rng = np.random.default_rng(5)
    image = noise()
    blobs = ndimage.gaussian_filter(rng.normal(size=(HEIGHT, WIDTH)), 14) > 0.01
    image[:, blobs] = 0
    parts, count = ndimage.label(blobs)
    expected = 0
    for number in range(1, count + 1):
        part = parts == number
        at_edge = part[0].any() or part[-1].any() or part[:, 0].any() or part[:, -1].any()
        expected += part.sum() if part.sum() >= (256 if at_edge else TILE**2) else 0
    assert found(image)[0, 0, 0].pixels == expected > 1000


@pytest.mark.parametrize(
    ("dtype", "value", "said"),
    [
        ("uint8", (0, 0, 0), "set data.nodata=0 ("),
        ("uint8", (255, 255, 255), "set data.nodata=255 or data.source.white_area=256"),
        ("uint16", (65535,), "set data.nodata=65535 or data.source.white_area=256"),
        ("float32", (-9999, -9999), "set data.nodata=-9999"),
        ("uint8", (7,), "set data.nodata=7"),
        ("uint8", (7, 7, 7), "nearblack -color 7,7,7"),
        ("uint8", (0, 5, 9), "nearblack -color 0,5,9"),
    ],
)
def test_the_note_names_the_setting(dtype, value, said):
    image = np.full((len(value), HEIGHT, WIDTH), 1, dtype)
    image += noise(dtype, len(value))
    image[:, wedge()] = np.array(value, dtype)[:, None]
    areas = list(found(image).values())
    scene = HEIGHT * WIDTH, np.dtype(dtype)
    (note,) = constant_area_notes([("a.tif", *scene, ()), ("b.tif", *scene, areas)])
    assert note.startswith(f"{wedge().sum() / (2 * HEIGHT * WIDTH):.2%} of all pixels hold ")
    assert "in 1 scene, as b.tif" in note
    assert said in note


@pytest.mark.parametrize("memory", [2.0, 0.0001])
def test_scenes_are_searched_when_they_are_scanned(listed, make_scene, memory):
    scenes = []
    for split in ("train", "val", "test"):
        image = np.random.default_rng(1).integers(1, 255, (3, 64, 80), dtype=np.uint8)
        image[:, 40:] = 0
        scenes.append(make_scene(split, split, image=image))
    made = RoadTileDataModule(listed(tuple(scenes)), tile_size=16, memory=memory)
    (note,) = [line for line in made.scan().warnings if "over whole areas" in line]
    assert note.startswith("37.50% of all pixels hold 0 in all bands over whole areas, in 3 scenes")
    declared = RoadTileDataModule(listed(tuple(scenes)), tile_size=16, nodata=0)
    assert not any("over whole areas" in line for line in declared.scan().warnings)
