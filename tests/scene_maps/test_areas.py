"""Road areas and tiles with the largest errors, on maps made by hand."""

import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from vbp_lightning.data.tiles.tile import Label, LabelledTile, Tile
from vbp_lightning.scene_maps.areas import road_areas
from vbp_lightning.scene_maps.output_grid import CellGrid
from vbp_lightning.scene_maps.tile_errors import largest_errors, scored_tiles


def test_areas_are_connected_by_edges_and_hold_their_mean():
    probability = np.full((5, 6), 0.1, np.float32)
    probability[0, 0:2] = 0.6, 0.8
    probability[1, 2] = 0.9  # touches the first by a corner only
    probability[4, 5] = np.nan
    transform = Affine(0.001, 0, 10, 0, -0.001, 50)
    areas = list(road_areas(probability, transform, CRS.from_epsg(4326), 0.6))
    assert sorted((area.cells, round(area.probability, 4)) for area in areas) == [
        (1, 0.9),
        (2, 0.7),
    ]
    bounds = {area.cells: shapely.geometry.shape(area.geometry).bounds for area in areas}
    assert bounds[2] == pytest.approx((10, 49.999, 10.002, 50))
    assert bounds[1] == pytest.approx((10.002, 49.998, 10.003, 49.999))


def test_the_tiles_with_the_largest_errors_come_first():
    grid = CellGrid((200, 200), 96, 8)
    probability = np.full(grid.cells, np.nan, np.float32)
    values = {(0, 0): 0.9, (0, 96): 0.2, (96, 0): 0.3, (96, 96): 0.05}
    for (row, col), value in values.items():
        probability[grid.cell(row), grid.cell(col)] = value
    labels = [Label.NON_ROAD, Label.ROAD, Label.NON_ROAD, Label.ROAD]
    tiles = [
        LabelledTile(Tile("a", *corner), (0, 0, 1, 1), 0.0, label, "test")
        for corner, label in zip(values, labels, strict=True)
    ]
    ignored = LabelledTile(Tile("a", 0, 0), (0, 0, 1, 1), 0.01, Label.IGNORED, "test")
    elsewhere = LabelledTile(Tile("b", 0, 0), (0, 0, 1, 1), 0.0, Label.NON_ROAD, "test")
    found = scored_tiles([*tiles, ignored, elsewhere], {"a": (grid, probability)})
    assert [round(item.error, 4) for item in found] == [0.9, 0.8, 0.3, 0.95]
    assert [item.tile for item in largest_errors(found, Label.ROAD, 2)] == [tiles[3], tiles[1]]
    assert [item.tile for item in largest_errors(found, Label.NON_ROAD, 1)] == [tiles[0]]
