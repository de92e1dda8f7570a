"""Images that differ from the training imagery in the size or the values of their pixels."""

import logging

import numpy as np
import pytest
import rasterio
from affine import Affine

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.labelled_images import LabelledImages
from vbp_lightning.data.datasets.scene import Scene
from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.explaining.image_inputs import CutImages
from vbp_lightning.explaining.imagery import warn_of_other_imagery


def pixels(seed, side, dtype="uint8", factor=1.0):
    """Three bands whose values are spread evenly, each from 10 to 200 times the factor."""
    rng = np.random.default_rng(seed)
    return (rng.integers(10, 201, (3, side, side)) * factor).astype(dtype)


def write(path, bands, size=0.5, crs="EPSG:32632", east=0):
    place = Affine(size, 0, 5e5 + 1000 * east, 0, -size, 5.3e6) if crs else Affine.identity()
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "dtype": bands.dtype, "count": 3, "crs": crs}
    height, width = bands.shape[1:]
    with rasterio.open(path, "w", height=height, width=width, transform=place, **profile) as raster:
        raster.write(bands)
    return path


def trained(folder, size=0.5, factor=1.0, dtype="uint8", crs="EPSG:32632"):
    """What the checkpoint of a training on such scenes holds."""
    scenes = []
    for number, split in enumerate(("train", "val", "test")):
        image = write(
            folder / f"{number}.tif", pixels(number, 64, dtype, factor), size, crs, number
        )
        mask = np.zeros((3, 64, 64), np.uint8)
        mask[:, :, :8] = 255
        scenes.append(
            Scene(
                str(number),
                image,
                write(folder / f"{number}_m.tif", mask, size, crs, number),
                split,
            )
        )
    module = RoadTileDataModule(lambda: scenes, tile_size=16)
    module.setup()
    return module.imagery


READER = CutImages(Reading(), (100.0, 100.0, 100.0), 16)


@pytest.fixture
def warned(caplog):
    def say(imagery, *files, reader=READER):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            warn_of_other_imagery(files, reader, imagery)
        return caplog.messages

    return say


def test_the_training_imagery_is_described(tmp_path):
    imagery = trained(tmp_path)
    assert imagery["tile_size"] == 16
    assert imagery["bands"] == ["red", "green", "blue"] or len(imagery["bands"]) == 3
    assert imagery["ground_sampling_distance"] == pytest.approx([0.5, 0.5], rel=1e-3)
    ordered = np.sort(pixels(0, 64).reshape(3, -1), axis=1)
    ranks = [round(share * 4096 + 0.4999) - 1 for share in (0.01, 0.99)]  # rounded up
    assert imagery["values"] == [[float(band[rank]) for rank in ranks] for band in ordered]


@pytest.mark.parametrize(
    ("size", "is_warned"), [(0.5, False), (0.41, False), (0.6, False), (0.39, True), (0.64, True)]
)
def test_pixels_of_another_size(tmp_path, warned, size, is_warned):
    image = write(tmp_path / "image.tif", pixels(9, 64), size)
    messages = warned(trained(tmp_path / "training"), image)
    assert len(messages) == is_warned
    if is_warned:
        assert messages[0].startswith(f"{image}: a pixel is {size} m on the ground, in the ")
        assert "imagery 0.5 m:" in messages[0]


def test_pixels_in_degrees(tmp_path, warned):
    image = write(tmp_path / "image.tif", pixels(9, 64), 0.5)
    with rasterio.open(image, "r+") as raster:
        raster.crs, raster.transform = "EPSG:4326", Affine(1e-5, 0, 9, 0, -1e-5, 60)
    (line,) = warned(trained(tmp_path / "training"), image)
    assert "a pixel is 0.558 to 1.11 m" in line  # 111 km a degree, half of it at 60° north


def test_a_resolution_makes_pixels_equal(tmp_path, warned):
    image = write(tmp_path / "image.tif", pixels(9, 128), 0.25)
    reader = CutImages(Reading(resolution=0.5), READER.fill, 16)
    assert warned(trained(tmp_path / "training"), image, reader=reader) == []


def test_a_size_that_is_unknown_is_not_compared(tmp_path, warned):
    image = write(tmp_path / "image.tif", pixels(9, 64), 0.1, None)
    assert warned(trained(tmp_path / "training"), image) == []
    placed = write(tmp_path / "placed.tif", pixels(9, 64), 0.1)
    assert warned(trained(tmp_path / "plain", crs=None), placed) == []


def test_images_that_are_resized_to_a_tile(tmp_path, warned):
    rows = ["image,target"]
    for number in range(12):
        write(tmp_path / "images" / f"{number}.tif", pixels(number, 64), 0.25, east=number)
        rows.append(f"{number},{number % 2}")
    (tmp_path / "train.csv").write_text("\n".join(rows))
    columns = {"image_column": "image", "label_column": "target", "road": "1"}
    source = LabelledImages(tmp_path, images="images", fit="resize", tile_size=16, **columns)
    module = RoadTileDataModule(source, tile_size=16, val_fraction=0.3, test_fraction=0.3)
    module.setup()
    assert module.imagery["ground_sampling_distance"] == pytest.approx([1, 1], rel=1e-3)
    values = {"values": [[0.0, 255.0]] * 3}  # averaging narrows their range
    (line,) = warned(module.imagery | values, tmp_path / "images" / "0.tif")
    assert "a pixel is 0.25 m on the ground, in the training imagery 1 m" in line


@pytest.mark.parametrize(
    ("of_training", "of_image", "is_warned"),
    [
        (("uint8", 1), ("uint8", 1), False),
        (("uint8", 1), ("uint8", 1.2), False),
        (("uint8", 1), ("uint16", 257), True),
        (("uint16", 257), ("uint8", 1), True),
        (("uint8", 1), ("float32", 1 / 255), True),
        (("float32", 1 / 255), ("uint8", 1), True),
        (("uint16", 10), ("uint16", 10), False),
        (("uint8", 1), ("uint8", 0.25), False),
        (("uint8", 1), ("uint8", 0.04), True),
    ],
)
def test_values_of_another_range(tmp_path, warned, of_training, of_image, is_warned):
    (dtype, factor), (other, other_factor) = of_training, of_image
    imagery = trained(tmp_path / "training", dtype=dtype, factor=factor)
    image = write(tmp_path / "image.tif", pixels(9, 64, other, other_factor))
    messages = warned(imagery, image)
    assert len(messages) == is_warned
    if is_warned:
        assert messages[0].startswith(f"{image}: 98 % of the values of band 1 are ")
        assert "in the training imagery " in messages[0]


@pytest.mark.parametrize(
    ("names", "is_warned"),
    [
        (("red", "green", "blue"), False),
        (("Red", "GREEN", "blue"), False),
        (("blue", "green", "red"), True),
        (("nir", "red", "green"), True),
        (("red", "green", "nir"), True),
        (("B4", "B3", "B2"), False),
        ((None, None, None), False),
        (("red", None, None), False),
    ],
)
def test_other_bands(tmp_path, warned, names, is_warned):
    image = write(tmp_path / "image.tif", pixels(9, 64))
    with rasterio.open(image, "r+") as raster:
        raster.colorinterp = [rasterio.enums.ColorInterp.undefined] * 3
        raster.descriptions = names
    imagery = trained(tmp_path / "training") | {"bands": ["red", "green", "blue"]}
    lines = warned(imagery, image)
    assert len(lines) == is_warned
    if is_warned:
        assert lines[0].startswith(f"{image}: its bands are {', '.join(names)}, in the training ")
        assert "imagery red, green, blue: " in lines[0]


def test_one_band_of_another_range_and_nodata(tmp_path, warned):
    bands = pixels(9, 64, "uint16")
    bands[1] *= 100
    bands[:, :40] = 0
    image = write(tmp_path / "image.tif", bands)
    with rasterio.open(image, "r+") as raster:
        raster.nodata = 0
    (line,) = warned(trained(tmp_path / "training"), image)
    low, high = np.percentile(bands[1, 40:], (1, 99))
    assert f"of band 2 are {low:.0f} to {high:.0f}, in the training imagery 11 to 199" in line
    write(tmp_path / "empty.tif", bands * 0)
    with rasterio.open(tmp_path / "empty.tif", "r+") as raster:
        raster.nodata = 0
    assert warned(trained(tmp_path / "training"), tmp_path / "empty.tif") == []


def test_one_line_for_many_images_and_none_for_unreadable_ones(tmp_path, warned):
    files = [write(tmp_path / f"{n}.tif", pixels(n, 64) // 20, 0.25) for n in range(5)]
    (tmp_path / "broken.tif").write_bytes(b"")
    sizes, values = warned(trained(tmp_path / "training"), tmp_path / "broken.tif", *files)
    for line in (sizes, values):
        assert line.startswith(f"{files[0]}: ")
        assert line.endswith("(and 4 more images)")


def test_older_checkpoints_compare_nothing(tmp_path, warned):
    assert warned(None, tmp_path / "none.tif") == []
