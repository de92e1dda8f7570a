"""The files that ``task=scene`` writes in addition to the maps."""

import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.pattern_scenes import PatternScenes
from vbp_lightning.data.tiles.tile import Label
from vbp_lightning.explaining import scene_extras
from vbp_lightning.scene_maps.tile_errors import ScoredTile


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    shape = {"width": width, "height": height, "count": count}
    with rasterio.open(path, "w", driver="GTiff", dtype=pixels.dtype, **shape) as raster:
        raster.write(pixels)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_the_hardest_tiles_are_shown_without_their_context(tmp_path, monkeypatch):
    """Pixels and outlines of the part that the label is of."""
    rng = np.random.default_rng(0)
    roads = np.zeros((1, 64, 64), np.uint8)
    roads[:, :, 20:24] = 255
    for split in ("train", "val", "test"):
        pixels = rng.integers(0, 255, (3, 64, 64), np.uint8)
        write(tmp_path / split / "images" / "a.tif", pixels)
        write(tmp_path / split / "masks" / "a.tif", roads)
    source = PatternScenes(tmp_path, "{split}/images/{name}.tif", "{split}/masks/{name}.tif")
    datamodule = RoadTileDataModule(source, tile_size=16, context=8)
    datamodule.setup()
    tiles = [ScoredTile(tile, 0.5) for tile in datamodule.tiles_of("test")]
    drawn = []
    outlined = scene_extras.outlined

    def seen(pictures, road_masks):
        drawn.append((pictures, road_masks))
        return outlined(pictures, road_masks)

    monkeypatch.setattr(scene_extras, "outlined", seen)
    (tmp_path / "out").mkdir()
    table, sheet = scene_extras.write_hardest(tmp_path / "out", tiles, datamodule, 16)
    found = pd.read_csv(table)
    assert found.label.tolist() == ["non_road"] * 12 + ["road"] * 4
    assert (found.probability == 0.5).all()
    assert (found.error == 0.5).all()
    with Image.open(sheet) as picture:
        assert len(picture.convert("RGB").getcolors(2**24)) > 100
    (plain, _), road = drawn
    own = [tile.tile.tile for tile in tiles if tile.tile.label == Label.ROAD]
    for tile, picture, outline in zip(own, *road, strict=True):
        window = np.s_[:, tile.row : tile.row + 16, tile.col : tile.col + 16]
        assert np.array_equal(outline, roads[window][0] > 0)
        assert picture.shape == (16, 16, 3)
        assert np.corrcoef(picture.ravel(), pixels[window].transpose(1, 2, 0).ravel())[0, 1] > 0.99
    assert len(plain) == 12
